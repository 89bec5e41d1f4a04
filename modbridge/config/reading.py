"""YAML text to plain values, with the line of each one.

Scalars follow YAML 1.2, not PyYAML's 1.1: `1e-4` is a number, `on` and `no` are words, a date is text. Nothing but
plain data is ever built, whatever tags the file asks for.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import yaml

from modbridge.errors import Problem

KeyPath: TypeAlias = tuple[str | int, ...]

# Ours: far above any config written by hand, far below what a chain of aliases can grow to.
MAX_VALUES = 100_000

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?[0-9]+\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z|[-+]?\.(?:inf|Inf|INF)\Z|\.(?:nan|NaN|NAN)\Z"
)
_PLAIN = re.compile(r"[A-Za-z_./][\w./+-]*\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a value was written. Values from the command line have the file "--set" and no line."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


Marks: TypeAlias = dict[KeyPath, Mark]


class _Loader(yaml.SafeLoader):
    """PyYAML's scanner and composer with the scalars of YAML 1.2's core schema. Its constructors are never used."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012  (PyYAML's own class attribute, made empty)


for _name, _pattern in (
    ("null", re.compile(r"(?:~|null|Null|NULL|)\Z")),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z")),
    ("int", _INT),
    ("float", _FLOAT),
):
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, [None])


def read_yaml(text: str, file: str, problems: list[Problem]) -> tuple[Any, Marks]:
    """The value that `text` holds and the mark of every path in it; (None, {}) for an empty text.

    Every mistake is added to `problems`: syntax (one), duplicate keys, keys that are no strings, foreign tags, aliases
    that grow without bound.
    """
    try:
        node = _compose(text)
        if node is None:
            return None, {}
        walk = _Walk(file, problems)
        return walk.value(node, ()), walk.marks
    except yaml.YAMLError as error:
        problems.append(_syntax_problem(error, text, file))
    except RecursionError:
        problems.append(Problem("", "the values are nested too deeply to be read", where=file))
    except _TooMany as error:
        message = f"the aliases of this file expand to more than {MAX_VALUES:,} values"
        problems.append(Problem("", message, where=str(error.mark), hint="use fewer aliases, or write the values out"))
    return None, {}


def read_value(text: str, file: str, problems: list[Problem]) -> Any:
    """One value written on a command line: a YAML scalar or flow collection. `file` is "--set" or "--vary".

    Text that YAML would quietly take for a comment or for a block is a problem too.
    """
    found: list[Problem] = []
    value, _ = read_yaml(text, file, found)
    if not found:
        node = _compose(text)
        rest = (text if node is None else text[node.end_mark.index :]).strip()
        if rest.startswith("#"):
            found.append(Problem("", f"YAML reads {rest!r} as a comment", hint="put the value in quotes"))
        elif isinstance(node, yaml.CollectionNode) and not node.flow_style:
            hint = "put text in quotes; write a list as [a, b] and a block as {name: value}"
            found.append(Problem("", f"{text!r} is neither a single value nor in brackets", hint=hint))
    problems += [Problem(p.path, p.message, where=file, hint=p.hint) for p in found]
    return None if found else value


def flow_text(value: Any) -> str:
    """`value` in one line of YAML that `read_yaml` reads back as the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return ".nan" if math.isnan(value) else f"{'-' * (value < 0)}.inf" if math.isinf(value) else repr(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{flow_text(str(key))}: {flow_text(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value, key=str) if isinstance(value, set | frozenset) else value
        return "[" + ", ".join(flow_text(item) for item in items) + "]"
    text = str(value)
    if _PLAIN.match(text) and _implicit(text) == "str":
        return text
    return json.dumps(text, ensure_ascii=False)


def _compose(text: str) -> yaml.Node | None:
    loader = _Loader(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()


class _TooMany(Exception):
    def __init__(self, mark: Mark) -> None:
        self.mark = mark


class _Walk:
    """From PyYAML's nodes to plain values, by hand: aliases are counted and nothing is constructed from tags."""

    def __init__(self, file: str, problems: list[Problem]) -> None:
        self.file, self.problems = file, problems
        self.marks: Marks = {}
        self.seen = 0
        self.open: list[int] = []

    def mark(self, node: yaml.Node) -> Mark:
        return Mark(self.file, node.start_mark.line + 1)

    def problem(self, path: KeyPath, message: str, node: yaml.Node, hint: str = "") -> None:
        self.problems.append(Problem(dotted(path), message, where=str(self.mark(node)), hint=hint))

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.seen += 1
        if self.seen > MAX_VALUES:
            raise _TooMany(self.mark(node))
        self.marks.setdefault(path, self.mark(node))
        if id(node) in self.open:
            self.problem(path, "an alias stands inside the very value it repeats", node)
            return None
        if not str(node.tag).startswith(_TAG) or node.tag.removeprefix(_TAG) not in _TAGS[type(node)]:
            tag = node.tag.replace(_TAG, "!!")
            self.problem(path, f"the tag {tag} is not allowed", node, hint="a config holds plain values only")
            return None
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        self.open.append(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, i)) for i, item in enumerate(node.value)]
            assert isinstance(node, yaml.MappingNode)
            return self.mapping(node, path)
        finally:
            self.open.pop()

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        result: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, item in node.value:
            key, line = key_node.value, key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
                shown = repr(key) if isinstance(key, str) and key else "an empty key or a collection"
                hint = f'put it in quotes: "{key}"' if isinstance(key, str) and key else "write NAME: VALUE"
                self.problem(path, f"expected a name as key, found {shown}", key_node, hint=hint)
                continue
            inner = (*path, key)
            if key == "<<":
                hint = "use an alias for a whole block, or `extends: other.yaml`"
                self.problem(inner, "merge keys are not read", key_node, hint=hint)
                continue
            if key in lines:
                message = f"is given twice, in line {lines[key]} and in line {line}"
                self.problem(inner, message, key_node, hint="keep one of them")
                continue
            lines[key] = line
            self.marks[inner] = self.mark(key_node)
            result[key] = self.value(item, inner)
        return result

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        text, kind = node.value, node.tag.removeprefix(_TAG)
        try:
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            if kind == "float":
                return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        except (ValueError, KeyError):
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            self.problem(path, f"cannot be read as !!{kind}: {shown!r}", node)
            return None
        return text


_TAGS: dict[type[yaml.Node], set[str]] = {
    yaml.ScalarNode: {"null", "bool", "int", "float", "str"},
    yaml.SequenceNode: {"seq"},
    yaml.MappingNode: {"map"},
}

# The parser's words, and what they mostly mean to the person who wrote the file.
_PLAIN_WORDS = (
    ("found character '\\t'", "a tab is used where YAML wants spaces", "indent with spaces"),
    (
        "mapping values are not allowed here",
        "a ':' stands where no new name can begin",
        "put a text that holds ': ' in quotes, or mend the indentation",
    ),
    ("expected <block end>", "the indentation fits no block above", "give neighbours the same indentation"),
    ("could not find expected ':'", "a name without its ':'", "write NAME: VALUE"),
    ("while parsing a flow", "a list or block in brackets is not well formed", "close it, and mind its commas"),
    ("while scanning a quoted scalar", "a quoted text is not closed", "add the closing quote"),
    ("expected a single document", "the file holds more than one document", "keep one; remove the line `---`"),
    ("found undefined alias", "an alias names no anchor above it", "define it first: &NAME"),
)


def _syntax_problem(error: yaml.YAMLError, text: str, file: str) -> Problem:
    """One problem for a syntax error: file:line, plain words, and the parser's own."""
    if isinstance(error, yaml.MarkedYAMLError):
        words = ", ".join(part for part in (error.context, error.problem) if part)
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        known = (entry[1:] for entry in _PLAIN_WORDS if entry[0] in words)
        meaning, hint = next(known, ("this is not valid YAML", ""))
        lines = text.splitlines()
        if "while parsing a flow" in words and 0 < line <= len(lines) and "${" in lines[line - 1]:
            hint = 'inside brackets a reference wants quotes: "${...}"'
        return Problem("", f"{meaning} (the parser says: {words})", where=str(Mark(file, line)), hint=hint)
    position = getattr(error, "position", 0)
    line = text.count("\n", 0, position) + 1 if isinstance(position, int) else 0
    reason = getattr(error, "reason", str(error))
    return Problem("", f"a character that YAML does not allow ({reason})", where=str(Mark(file, line)))


def _implicit(text: str) -> str:
    """The kind of a plain scalar: "null", "bool", "int", "float" or "str"."""
    for tag, pattern in _Loader.yaml_implicit_resolvers[None]:
        if pattern.match(text):
            return str(tag).removeprefix(_TAG)
    return "str"


def dotted(path: KeyPath) -> str:
    """A path as a person writes it: cells.0.name."""
    return ".".join(map(str, path))


def nearest_mark(marks: Marks, path: KeyPath) -> Mark | None:
    """The mark of `path`, or of the nearest block around it that has one."""
    for end in range(len(path), -1, -1):
        if path[:end] in marks:
            return marks[path[:end]]
    return None
