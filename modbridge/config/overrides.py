"""Changing a config without editing it: how one tree is laid over another, `--set` and `--vary`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modbridge.config.reading import KeyPath, Mark, Marks, dotted, flow_text, nearest_mark, read_value
from modbridge.errors import ConfigError, Problem

SET_EXAMPLE = "--set bridge.start_step=400"
VARY_EXAMPLE = "--vary bridge.type=identity,c3"
_WORD = re.compile(r"[A-Za-z_][\w-]*\Z")


def deep_merge(base: Any, override: Any) -> Any:
    """`override` laid over `base`; neither is changed and nothing is shared with them.

    Blocks merge field by field and the override wins; lists and single values replace. A component's word stands for
    its block: `c3` is `{type: c3}`. Where the override gives a `type` other than the base's, the base's other fields
    are dropped, since they belong to another component; so are those of a base without `type`, such as a profile's, of
    which nothing says that they belong to this one. A block whose keys are all integers changes the items of a
    list in place; no file can hold one, `--set cells.0.name=x` makes it.
    """
    if isinstance(override, Mapping):
        if isinstance(base, list) and override and all(isinstance(key, int) for key in override):
            return [deep_merge(v, override[i]) if i in override else _copy(v) for i, v in enumerate(base)]
        block = {"type": base} if is_word(base) else base
        if not isinstance(block, Mapping) or _changes_type(block, override):
            return _copy(override)
        merged = {key: deep_merge(v, override[key]) if key in override else _copy(v) for key, v in block.items()}
        return merged | {key: _copy(v) for key, v in override.items() if key not in block}
    if isinstance(base, Mapping) and is_word(override) and base.get("type") == override:
        return _copy(base)
    return _copy(override)


def is_word(value: Any) -> bool:
    """Whether a value may be the short form of a component's block."""
    return isinstance(value, str) and _WORD.match(value) is not None


def merge_marks(merged: Any, base: Marks, override: Marks) -> Marks:
    """The mark of every path of `merged`, which is `deep_merge` of the two trees that the marks belong to."""
    marks: Marks = {}
    for path in _paths(merged, ()):
        mark = override.get(path) or nearest_mark(base, path)
        if mark:
            marks[path] = mark
    return marks


def apply_sets(
    tree: dict[str, Any], marks: Marks, sets: Sequence[str], problems: list[Problem], said_by: str = "--set"
) -> tuple[Any, Marks]:
    """`tree` with every `--set a.b.c=VALUE` laid over it as one override, so that their order does not matter.

    Of two for the same field the later wins. `said_by`: the option that gave them, for messages about their values.
    """
    wanted: dict[KeyPath, Any] = {}
    for text in sets:
        found = parse_set(text, problems)
        if found:
            wanted[found[0]] = found[1]
    # A block before its fields and a `type` before its neighbours: the fields given here belong to the new type.
    for path in sorted(wanted, key=lambda p: (len(p), p[-1] != "type")):
        place = _place(path, tree, problems)
        if place is None:
            continue
        value: Any = wanted[path]
        over: Marks = {place[:end]: Mark(said_by) for end in range(1, len(place)) if place[:end] not in marks}
        over |= {(*place, *inner): Mark(said_by) for inner in _paths(value, ())}
        if place[-1] == "type":
            over[place[:-1]] = Mark(said_by)
        for step in reversed(place):
            value = {step: value}
        tree = deep_merge(tree, value)
        marks = merge_marks(tree, marks, over)
    return tree, marks


def parse_set(text: str, problems: list[Problem]) -> tuple[KeyPath, Any] | None:
    """The path and value of one `--set`."""
    name, equals, value = text.partition("=")
    steps = tuple(step.strip() for step in name.split("."))
    if not equals or not all(steps):
        message = f"{text!r} is not of the form NAME=VALUE" if not equals else f"{text!r} does not name a field"
        problems.append(Problem("", message, where="--set", hint=f"write {SET_EXAMPLE}"))
        return None
    if steps[0] == "extends":
        problems.append(Problem("extends", "cannot be set: it is read first", where="--set", hint="edit the file"))
        return None
    found: list[Problem] = []
    parsed = read_value(value, "--set", found)
    if found:
        problems += [Problem(dotted(steps), p.message, where=p.where, hint=p.hint) for p in found]
        return None
    return steps, parsed


def _place(path: KeyPath, tree: Any, problems: list[Problem]) -> KeyPath | None:
    """`path` with its list items by number, as they stand in `tree`; None if it leads through a single value."""
    place: list[str | int] = []
    node = tree
    for step in path:
        before = dotted(tuple(place))
        if isinstance(node, list):
            if not str(step).isdecimal() or int(step) >= len(node):
                items = f"its items are 0 to {len(node) - 1}" if node else "it is empty"
                message = f"{before} is a list, and {step!r} is none of its items"
                problems.append(Problem(dotted(path), message, where="--set", hint=items))
                return None
            place.append(int(step))
            node = node[int(step)]
            continue
        if node is not None and not isinstance(node, Mapping) and not is_word(node):
            message = f"{before} is the single value {flow_text(node)}, it has no fields"
            hint = f"replace it whole: --set {before}=VALUE"
            problems.append(Problem(dotted(path), message, where="--set", hint=hint))
            return None
        if node is None and str(step).isdecimal():
            message = f"there is no list {before!r} whose item {step} could be set"
            problems.append(Problem(dotted(path), message, where="--set", hint=f"give it whole: --set {before}=[...]"))
            return None
        place.append(step)
        node = node.get(step) if isinstance(node, Mapping) else None
    return tuple(place)


@dataclass(frozen=True, slots=True)
class Axis:
    """One field that is varied, and the values it takes."""

    path: str
    values: tuple[Any, ...]


def parse_vary(texts: Sequence[str]) -> list[Axis]:
    """The axes of `--vary NAME=VALUE,VALUE`. Commas inside brackets or quotes do not separate.

    Raises ConfigError with every mistake: no `=`, an empty name or value, a value given twice, two axes for one field.
    """
    axes: list[Axis] = []
    problems: list[Problem] = []

    def problem(path: str, message: str, hint: str = f"write {VARY_EXAMPLE}") -> None:
        problems.append(Problem(path, message, where="--vary", hint=hint))

    for text in texts:
        name, equals, rest = text.partition("=")
        path = ".".join(step.strip() for step in name.split("."))
        if not equals or not all(path.split(".")):
            problem("", f"{text!r} is not of the form NAME=VALUE,VALUE" if not equals else f"{text!r} names no field")
            continue
        found: list[Problem] = []
        values: list[Any] = []
        for part in _split(rest):
            if not part.strip():
                problem(path, f"an empty value in {text!r}", "write null for no value")
                continue
            before = len(found)
            value = read_value(part.strip(), "--vary", found)
            if len(found) > before:
                continue
            if flow_text(value) in map(flow_text, values):
                problem(path, f"the value {flow_text(value)} is given twice", "give each value once")
            values.append(value)
        problems += [Problem(path, p.message, where=p.where, hint=p.hint) for p in found]
        for other in axes:
            short, long = sorted((other.path, path), key=len)
            if long == short or long.startswith(f"{short}."):
                problem(path, f"is varied twice: {other.path} and {path} name the same field", "vary it once")
        axes.append(Axis(path, tuple(values)))
    if problems:
        raise ConfigError(problems)
    return axes


def expand(axes: Sequence[Axis]) -> list[tuple[str, list[str]]]:
    """Every combination of the axes' values, the last axis fastest: its label and its `--set` texts.

    Labels use the shortest names that tell the axes apart: "type=c3,seed=1". No axes give one combination without a
    label.
    """
    names = [_short(axis.path, [other.path for other in axes if other is not axis]) for axis in axes]
    cells = []
    for values in itertools.product(*(axis.values for axis in axes)):
        label = ",".join(
            f"{name}={value if isinstance(value, str) else flow_text(value)}"
            for name, value in zip(names, values, strict=True)
        )
        sets = [f"{axis.path}={flow_text(value)}" for axis, value in zip(axes, values, strict=True)]
        cells.append((label, sets))
    return cells


def _short(path: str, others: Sequence[str]) -> str:
    steps = path.split(".")
    for size in range(1, len(steps) + 1):
        tail = ".".join(steps[-size:])
        if not any(other == tail or other.endswith(f".{tail}") for other in others):
            return tail
    return path


def _split(text: str) -> list[str]:
    """`text` at its commas, those inside brackets and quotes left alone."""
    parts, depth, quote, escaped = [""], 0, "", False
    for char in text:
        if quote:
            closing = char == quote and not escaped
            escaped = quote == '"' and char == "\\" and not escaped
            quote = "" if closing else quote
        elif char in "\"'" and (not parts[-1].strip() or parts[-1].rstrip()[-1] in "[{,:"):
            quote = char
        elif char in "[{":
            depth += 1
        elif char in "]}":
            depth -= 1
        elif char == "," and depth <= 0:
            parts.append("")
            continue
        parts[-1] += char
    return parts


def _changes_type(base: Mapping[str, Any], override: Mapping[str, Any]) -> bool:
    return "type" in override and override["type"] != base.get("type")


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(item) for key, item in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


def _paths(tree: Any, path: KeyPath) -> list[KeyPath]:
    items = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(inner for key, item in items for inner in _paths(item, (*path, key)))]
