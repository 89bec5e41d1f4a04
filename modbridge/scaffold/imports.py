"""Several pieces of Python as one module: their imports once, at the top, as ruff sorts them."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

WIDTH = 120
LINE = re.compile(r"from (\S+) import (.+)")


def joined(pieces: Iterable[str]) -> str:
    """The pieces behind each other. Each begins with lines `from X import a, b`, two empty lines before the rest."""
    names: dict[str, set[str]] = {"__future__": {"annotations"}}
    bodies = []
    for piece in pieces:
        head, body = piece.split("\n\n\n", 1)
        for module, words in LINE.findall(head):
            names.setdefault(module, set()).update(words.split(", "))
        bodies.append(body.strip("\n"))
    sections: list[list[str]] = [[], [], []]
    for module in sorted(names):
        place = 0 if module == "__future__" else 1 if module.partition(".")[0] in sys.stdlib_module_names else 2
        sections[place].append(_line(module, sorted(names[module])))
    head = "\n\n".join("\n".join(section) for section in sections if section)
    return "\n" + "\n\n\n".join([head, *bodies]) + "\n"


def _line(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    return line if len(line) <= WIDTH else f"from {module} import (\n    " + ",\n    ".join(names) + ",\n)"
