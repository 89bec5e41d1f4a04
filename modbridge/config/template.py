"""Configs to begin with: the commented YAML of one component, and a whole pipeline file of chosen components.

Prose is written `# like this`; a setting that is switched off, at its default, `#like: this`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from modbridge.config.component import Affects, ComponentConfig
from modbridge.config.fields import (
    blocks_in,
    config_name,
    default_of,
    descriptions,
    field_table,
    part_kind,
    plain,
    type_words,
)
from modbridge.config.reading import flow_text
from modbridge.errors import ModbridgeError
from modbridge.plugins.registry import Registry

__all__ = ["field_table", "render_example", "starter"]

WIDTH = 100
_PATHS = ("path", "file", "folder", "dir", "root", "images", "captions")

# Tried first for a part that was not chosen; else the first by name. The demo's parts know only its own world.
_PREFERRED = {"source": "jsonl", "bridge": "identity"}
_DEMO = "demo"


def render_example(kind: str, name: str, registry: Registry) -> str:
    """The YAML of one component: every field at its default, with its type and description.

    A required field gets the value of the component's own example, or null where that has none.
    Raises ConfigError for a name that is not registered.
    """
    return "\n".join(_Writer(registry, defaults="live").component(kind, name)) + "\n"


def starter(choices: Mapping[str, str | Sequence[str]], registry: Registry) -> str:
    """A pipeline file to begin with: name, paths, seed, data, encoder, bridge, decoder, metrics.

    `choices`: component names by kind ("encoder": "open_clip"; "prior" serves every bridge), and "metrics", of which
    there may be several.
    Kinds that are left out get an installed component. Only what must be given is switched on, so that a word can be
    changed without leaving another component's fields behind.

    Raises ConfigError for a name that is not registered.
    """
    picked = {kind: name for kind, name in choices.items() if isinstance(name, str)}
    writer = _Writer(registry, defaults="off", picked=picked)
    lines = [
        "# A modbridge pipeline: encoder -> bridge -> decoder. Change a part by changing the word after `type:`.",
        "# Settings that are switched off show their defaults: take the # away to change one.",
        "",
        "name: my-run",
        "paths:",
        "  data: null  # the folder of your data: give it here or with --set paths.data=DIR",
        "seed: 0",
        "",
        "data:",
    ]
    for split in ("train", "test"):
        writer.split = split
        lines += _indented(writer.slot(split, "source"), "  ")
    writer.split = ""
    for kind in ("encoder", "bridge", "decoder"):
        lines += ["", *writer.slot(kind, kind)]
    wanted = choices.get("metrics", choices.get("metric"))
    metrics = [wanted] if isinstance(wanted, str) else list(wanted or _ready_metrics(registry))
    lines += ["", "metrics:" if metrics else "metrics: []  # no metric is installed"]
    for name in metrics:
        block = writer.component("metric", name)
        at = next(i for i, line in enumerate(block) if line.startswith("type:"))
        lines += [*_indented(block[:at], "  "), f"  - {block[at]}", *_indented(block[at + 1 :], "    ")]
    return "\n".join(lines) + "\n"


class _Writer:
    """Writes components as lines of YAML. `defaults`: write fields that need not be given "live" or switched "off"."""

    def __init__(
        self, registry: Registry, *, defaults: Literal["live", "off"], picked: Mapping[str, str] | None = None
    ) -> None:
        self.registry, self.off, self.picked = registry, defaults == "off", dict(picked or {})
        self.split = ""

    def slot(self, key: str, kind: str) -> list[str]:
        """`key:` with the component that was picked for `kind`, or the first there is."""
        names = self.registry.names(kind)
        preferred = [name for name in (_PREFERRED.get(kind),) if name in names]
        name = self.picked.get(kind) or next(iter([*preferred, *names]), None)
        if name is None:
            return [f"{key}: null  # required: no {kind} is installed"]
        return [f"{key}:", *_indented(self.component(kind, name), "  ")]

    def component(self, kind: str, name: str, given: Mapping[str, Any] | None = None) -> list[str]:
        """A component's block. `given`: values that replace its defaults."""
        spec = self.registry.get(kind, name)
        others = [other for other in self.registry.names(kind) if other != name]
        about = spec.summary.rstrip(".") + f". Another {kind}: {', '.join(others)}" * bool(others)
        example = {} if self.off else dict(spec.example)
        return [*_prose(about), f"type: {flow_text(name)}", *self.fields(spec.load_config(), given or {}, example)]

    def fields(self, cls: type[BaseModel], given: Mapping[str, Any], example: Mapping[str, Any]) -> list[str]:
        lines: list[str] = []
        told, before = descriptions(cls), ""
        for name, field in cls.model_fields.items():
            if name == "type" and issubclass(cls, ComponentConfig):
                continue
            said = told.get(name, "")
            lines += _prose(said) if said != before else []  # one sentence may tell of several neighbours
            before = said
            lines += self.field(config_name(name, field), field, given, example)
        return lines

    def field(self, key: str, field: FieldInfo, given: Mapping[str, Any], example: Mapping[str, Any]) -> list[str]:
        """One field, without its description."""
        kind, required = part_kind(field), field.is_required()
        value = given[key] if key in given else plain(default_of(field))
        note = type_words(field)
        if required and key not in given:
            value = self.filled(key, field, example)
            note = f"required: {note}" + ", here from the component's own example" * (key in example)
        purposes = [mark.purpose for mark in field.metadata if isinstance(mark, Affects)]
        if purposes:
            note += "; changes no result" if purposes == ["nothing"] else f"; matters only to {' and '.join(purposes)}"
        switch = self.off and not required
        if kind and not _is_plural(field):
            if value is None and not required:
                note += f": {', '.join(self.registry.names(kind)) or 'none is installed'}"
                return _switched([f"{key}: null  # {note}"], switch)
            if switch and kind in self.picked:
                return [f"{key}:  # {note}", *_indented(self.component(kind, self.picked[kind]), "  ")]
            word = value.get("type") if isinstance(value, Mapping) else value
            inner = dict(value) if isinstance(value, Mapping) and word == self.picked.get(kind, word) else {}
            return _switched(self.part(key, kind, word, inner, note), switch)
        blocks = blocks_in(field)
        if len(blocks) == 1 and isinstance(value, Mapping) and type_words(field).startswith("block"):
            if set(value) - {config_name(n, f) for n, f in blocks[0].model_fields.items()}:
                return _switched([f"{key}: {flow_text(value)}  # {note}"], switch)
            inner_lines = _Writer(self.registry, defaults="live").fields(blocks[0], value, {})
            return _switched([f"{key}:  # {note}", *_indented(inner_lines, "  ")], switch)
        lines = _switched([f"{key}: {flow_text(value)}  # {note}"], switch)
        for block in blocks:
            inner_lines = _indented(_Writer(self.registry, defaults="live").fields(block, {}, {}), "  ")
            if _is_plural(field):
                inner_lines = [
                    "  -" if note.removeprefix("required: ").startswith("list") else "  NAME:",
                    *_indented(inner_lines, "  "),
                ]
            lines += _switched([f"{key}:  # as a block", *inner_lines], True)
        return lines

    def part(self, key: str, kind: str, word: Any, given: Mapping[str, Any], note: str) -> list[str]:
        """A nested component, all of it live: a switch before the whole turns it off."""
        names = self.registry.names(kind)
        name = self.picked.get(kind) or (word if word in names else next(iter(names), None))
        if name is None:
            return [f"{key}: {flow_text(word)}  # {note}; none is installed"]
        writer = _Writer(self.registry, defaults="live", picked=self.picked)
        return [f"{key}:  # {note}", *_indented(writer.component(kind, name, given if name == word else {}), "  ")]

    def filled(self, key: str, field: FieldInfo, example: Mapping[str, Any]) -> Any:
        """What stands in a field that must be given: an example, in starters a path, or null."""
        if field.examples:
            return plain(field.examples[0])
        if key in example:
            return plain(example[key])
        if get_origin(field.annotation) is Literal:
            return plain(get_args(field.annotation)[0])
        if self.off and key.endswith(_PATHS) and type_words(field).startswith(("text", "path")):
            return f"${{paths.data}}/{f'{self.split}_{key}' if self.split else key}"
        return None


def _ready_metrics(registry: Registry) -> list[str]:
    """The metrics that need nothing to be given and nothing this environment lacks."""
    ready = []
    for name in registry.names("metric"):
        try:
            spec = registry.get("metric", name)
            config = spec.load_config()(type=name)
        except (ModbridgeError, ValidationError):
            continue
        if config.missing() is None and config.judges == "text" and spec.plugin != _DEMO:
            ready.append(name)
    return ready


def _is_plural(field: FieldInfo) -> bool:
    return type_words(field).startswith(("list of", "block of"))


def _prose(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _indented(lines: Sequence[str], indent: str) -> list[str]:
    return [indent + line for line in lines]


def _switched(lines: list[str], off: bool) -> list[str]:
    return _indented(lines, "#") if off else lines
