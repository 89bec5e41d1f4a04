"""What every component's config has in common, and which of its fields change which result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

from modbridge.spaces import Port

Purpose = Literal["cross", "augment", "decode", "nothing"]


@dataclass(frozen=True, slots=True)
class Affects:
    """Marks a config field that does not change what fitting gives.

    `Annotated[int, Affects("cross")]` changes only how source vectors are carried over, "augment" only how text vectors
    are prepared for decoder training, "decode" only how captions are written; "nothing" (batch sizes, workers) changes
    no result at all. An unmarked field changes everything, which is always safe.
    """

    purpose: Purpose


@dataclass(frozen=True, slots=True)
class Part:
    """Marks a config field that holds another component, `prior: Annotated[PriorConfig, Part("prior")]`, or a list of
    components, `bridges: Annotated[list[BridgeConfig], Part("bridge")]`."""

    kind: str


class ComponentConfig(BaseModel):
    """A component's config: everything that can be known of it without weights.

    Subclasses declare their fields with defaults; unknown fields are refused. `type` is the component's name in the
    registry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    training_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that only say how it is trained: where its `weights` are given, they are those that the weights had."""

    shared: ClassVar[bool] = False
    """Whether a component of this config is built once for all that hold it, and is written into none of their
    artefacts."""

    type: str

    @classmethod
    def from_stored(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Fields that an earlier version may have written into an artefact or a run, in today's words; those of nested
        parts are theirs. A config that a person writes does not pass here. Override it when a field is renamed."""
        return fields

    @classmethod
    def part_fields(cls) -> Iterator[tuple[str, str]]:
        """(field, kind) of every field that holds nested components."""
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Part):
                    yield name, mark.kind

    def each_part(self) -> Iterator[tuple[str, str, ComponentConfig]]:
        """(name, kind, config) of every nested component. The name is the field's; "bridges.0", "bridges.1" ... where
        the field `bridges` lists them."""
        for field, kind in self.part_fields():
            value = getattr(self, field)
            named = [(f"{field}.{i}", v) for i, v in enumerate(value)] if isinstance(value, list) else [(field, value)]
            yield from ((name, kind, part) for name, part in named if isinstance(part, ComponentConfig))

    def parts(self) -> dict[str, ComponentConfig]:
        """The nested components' configs, by the names of `each_part`."""
        return {name: part for name, _, part in self.each_part()}

    def part_ports(self, part: str, ports: Mapping[str, Port]) -> Mapping[str, Port]:
        """The ports at which the nested component named `part` stands, where this one stands at `ports`."""
        return ports

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """The fields that decide a result: those that change fitting, and those that change one of `purposes`."""
        fields: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            marks = [mark.purpose for mark in field.metadata if isinstance(mark, Affects)]
            if marks and not set(marks) & set(purposes):
                continue
            fields[name] = _plain(getattr(self, name), purposes)
        return fields


def lists_parts(field: FieldInfo) -> bool:
    """Whether a field that holds components holds a list of them."""
    return list in (get_origin(option) for option in (field.annotation, *get_args(field.annotation)))


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """The values of nested blocks by dotted name. The blocks of a list are numbered ("bridges.0.frame"); lists of
    anything else stay whole."""
    if isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        tree = {str(number): item for number, item in enumerate(tree)}
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {k: v for name, item in tree.items() for k, v in flat(item, f"{path}.{name}".lstrip(".")).items()}


def _plain(value: Any, purposes: tuple[Purpose, ...]) -> Any:
    if isinstance(value, ComponentConfig):
        return value.key_fields(*purposes)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item, purposes) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, purposes) for item in value]
    return value
