"""What every component's config has in common, and which of its fields change which result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

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
    """Marks a config field that holds another component: `prior: Annotated[PriorConfig, Part("prior")]`."""

    kind: str


class ComponentConfig(BaseModel):
    """A component's config: everything that can be known of it without weights.

    Subclasses declare their fields with defaults; unknown fields are refused. `type` is the component's name in the
    registry.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    training_fields: ClassVar[tuple[str, ...]] = ()
    """Fields that only say how it is trained: where its `weights` are given, they are those that the weights had."""

    type: str

    @classmethod
    def part_fields(cls) -> Iterator[tuple[str, str]]:
        """(field, kind) of every nested component."""
        for name, field in cls.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, Part):
                    yield name, mark.kind

    def parts(self) -> dict[str, ComponentConfig]:
        """The nested components' configs, by field."""
        found = {name: getattr(self, name) for name, _ in self.part_fields()}
        return {name: part for name, part in found.items() if isinstance(part, ComponentConfig)}

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """The fields that decide a result: those that change fitting, and those that change one of `purposes`."""
        fields: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            marks = [mark.purpose for mark in field.metadata if isinstance(mark, Affects)]
            if marks and not set(marks) & set(purposes):
                continue
            value = getattr(self, name)
            fields[name] = value.key_fields(*purposes) if isinstance(value, ComponentConfig) else _plain(value)
        return fields


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """The values of nested blocks by dotted name; lists stay whole."""
    if not isinstance(tree, dict) or not tree:
        return {path: tree}
    return {k: v for name, item in tree.items() for k, v in flat(item, f"{path}.{name}".lstrip(".")).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
