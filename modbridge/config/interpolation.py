"""`${a.b}`: one scalar of a config used in another.

A value that is nothing but a reference keeps the type of what it names; inside a longer text the value is written out.
`$${` stands for a plain `${`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from modbridge.config.reading import KeyPath, Marks, dotted, flow_text, nearest_mark
from modbridge.errors import Problem

# Ours: a chain of references that doubles at each step is stopped here.
MAX_TEXT = 100_000

_TOKEN = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")


def interpolate(tree: dict[str, Any], marks: Marks, problems: list[Problem]) -> tuple[dict[str, Any], list[str]]:
    """`tree` with its references resolved, and the dotted names of `paths` that hold no value yet.

    References to those stay in the text as they are. Adds to `problems`: unknown names, blocks and lists named as if
    they were scalars, cycles, references that are not closed.
    """
    resolver = _Resolver(tree, marks, problems)
    resolved = resolver.everything(tree, ())
    given = [dotted(path) for path, value in leaves(tree) if value is None and path[0] == "paths" and len(path) > 1]
    return resolved, given


def leaves(tree: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every scalar of a tree with its path, in the tree's order."""
    if isinstance(tree, dict):
        for key, item in tree.items():
            yield from leaves(item, (*path, key))
    elif isinstance(tree, list):
        for i, item in enumerate(tree):
            yield from leaves(item, (*path, i))
    else:
        yield path, tree


class _Broken(Exception):
    """The value depends on a reference whose problem has been told."""


class _Resolver:
    def __init__(self, tree: dict[str, Any], marks: Marks, problems: list[Problem]) -> None:
        self.marks, self.problems = marks, problems
        self.tree = tree
        self.values = dict(leaves(tree))
        self.names = {dotted(path): path for path in self.values}
        self.done: dict[KeyPath, Any] = {}
        self.failed: set[KeyPath] = set()
        self.open: list[KeyPath] = []

    def everything(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, dict):
            return {key: self.everything(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.everything(item, (*path, i)) for i, item in enumerate(value)]
        try:
            return self.scalar(path)
        except _Broken:
            return value
        except RecursionError:
            self.problem(path, "its references lead on through too many others")
            return value

    def scalar(self, path: KeyPath) -> Any:
        """The resolved value of the scalar at `path`."""
        if path in self.failed:
            raise _Broken
        value = self.done.get(path, self.values[path])
        if path in self.done or not isinstance(value, str) or "${" not in value:
            return value
        self.open.append(path)
        try:
            value = self.text(value, path)
        except (_Broken, RecursionError):
            self.failed.add(path)
            raise
        finally:
            self.open.pop()
        self.done[path] = value
        return value

    def text(self, text: str, path: KeyPath) -> Any:
        whole = _TOKEN.fullmatch(text)
        if whole and whole.group(1) is not None:
            return self.reference(whole.group(1).strip(), whole.group(0), path)
        parts: list[str] = []
        end, broken = 0, False
        for match in _TOKEN.finditer(text):
            parts.append(text[end : match.start()])
            end = match.end()
            if match.group(0) == "$${":
                parts.append("${")
            elif match.group(1) is None:
                broken = True
                self.problem(
                    path, "a reference that begins with ${ is not closed", "write ${name}, or $${ for a plain ${"
                )
            else:
                try:
                    value = self.reference(match.group(1).strip(), match.group(0), path)
                except _Broken:
                    broken = True
                    continue
                if value is None:
                    broken = True
                    self.problem(
                        path, f"{match.group(0)} has no value that could be written into a text", "give it one"
                    )
                parts.append(value if isinstance(value, str) else flow_text(value))
            if sum(map(len, parts)) > MAX_TEXT:
                self.problem(path, f"its references expand to more than {MAX_TEXT:,} characters")
                raise _Broken
        if broken:
            raise _Broken
        return "".join(parts) + text[end:]

    def reference(self, name: str, literal: str, path: KeyPath) -> Any:
        """The value that `name` stands for in the scalar at `path`."""
        at = self.names.get(name)
        if at is None:
            self.problem(path, *self.unknown(name, literal, dotted(path)))
            raise _Broken
        if at in self.open:
            circle = self.open[self.open.index(at) :]
            self.failed.update(circle)
            chain = " -> ".join(map(dotted, [*circle, at]))
            self.problem(path, f"references go round in a circle: {chain}", "give one of them a value")
            raise _Broken
        if self.values[at] is None and at[0] == "paths":
            return literal
        return self.scalar(at)

    def unknown(self, name: str, literal: str, asker: str) -> tuple[str, str]:
        """What is wrong with a name that is no scalar of this config, and what to do."""
        if name and name in _block_names(self.tree):
            inside = ", ".join([known for known in self.names if known.startswith(f"{name}.")][:3])
            return f"{literal} names a block, expected a single value", inside and f"name one in it: {inside}"
        tail = name.rpartition(".")[2]
        others = [known for known in self.names if known != asker]
        close = difflib.get_close_matches(name, others, n=1, cutoff=0.6)
        close = close or [known for known in others if known.rpartition(".")[2] == tail]
        if close:
            hint = f"did you mean ${{{close[0]}}}?"
        else:
            paths = [known for known in self.names if known.startswith("paths.")]
            hint = f"a reference is the dotted path of a value of this config, as ${{{(paths or ['paths.data'])[0]}}}"
        return f"{literal} names nothing in this config", hint

    def problem(self, path: KeyPath, message: str, hint: str = "") -> None:
        mark = nearest_mark(self.marks, path)
        self.problems.append(Problem(dotted(path), message, where=str(mark or ""), hint=hint))


def _block_names(tree: Any, path: KeyPath = ()) -> set[str]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    names = {dotted(path)} if isinstance(tree, dict | list) else set()
    for key, item in items:
        names |= _block_names(item, (*path, key))
    return names
