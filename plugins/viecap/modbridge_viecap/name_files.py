"""Lists of names as files hold them: those of this package, and the published ones that are given by path."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from modbridge.errors import DataError

_BACKGROUND = "__background__"  # what detectors call the absence of an object


@dataclass(frozen=True)
class Listed:
    """Names in their order, all different, and other words for some of them."""

    names: tuple[str, ...]
    synonyms: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def normalised(name: str) -> str:
    """A name in lower case, with single spaces."""
    return " ".join(name.lower().split())


def doubles(names: Iterable[str]) -> list[str]:
    """The names that occur more than once."""
    return [name for name, count in Counter(names).items() if count > 1]


def packaged(file: str) -> Any:
    """What a JSON file of this package's folder `names` holds."""
    return json.loads((files("modbridge_viecap") / "names" / file).read_text(encoding="utf-8"))


def pieces(name: str) -> list[str]:
    """The parts of a name between commas, without "etc."; a comma in parentheses parts nothing."""
    found = map(normalised, re.split(r",(?![^(]*\))", name))
    return [piece for piece in found if piece not in ("", "etc.")]


def without_suffix(name: str) -> str:
    """A name without what stands in parentheses at its end: "bat (animal)" is bat."""
    return re.sub(r"(?<=.)\s*\([^()]*\)$", "", name)


def unambiguous(names: Sequence[str], others: Mapping[str, Iterable[str]]) -> dict[str, tuple[str, ...]]:
    """Other words by name, without those that are a name themselves or stand for more than one."""
    owners = Counter(other for name in names for other in set(others.get(name, ())))
    taken = set(names)
    kept = {
        name: tuple(w for w in dict.fromkeys(others.get(name, ())) if owners[w] == 1 and w not in taken)
        for name in names
    }
    return {name: words for name, words in kept.items() if words}


def read_visual_genome(path: Path) -> Listed:
    """Visual Genome's objects: text with one a line, its spellings between commas (the first is the name), or the
    dictionaries of a scene graph model (JSON with `label_to_idx`, as VinVL's VG-SGG-dicts)."""
    expected = "a .txt file with one object a line, or a .json file with label_to_idx"
    if path.suffix.lower() == ".json":
        held = _json(path, expected)
        numbers = held.get("label_to_idx") if isinstance(held, dict) else None
        return Listed(_by_number(path, numbers, expected))
    rows = [row for row in map(pieces, _read(path, expected).splitlines()) if row]
    names = _some(path, [row[0] for row in rows], expected)
    spellings: dict[str, list[str]] = {}
    for row in rows:
        spellings.setdefault(row[0], []).extend(row[1:])
    return Listed(names, unambiguous(names, spellings))


def read_vinvl(path: Path) -> Listed:
    """VinVL's objects: JSON that gives each name its number (vgcocooiobjects_v1_class2ind.json)."""
    expected = "JSON that gives each name its number"
    return Listed(_by_number(path, _json(path, expected), expected))


def read_open_images(path: Path) -> Listed:
    """OpenImages' classes: a CSV of LabelName, DisplayName, with or without these in the first line. What stands in
    parentheses behind a name falls away where that leaves no two names the same."""
    expected = "a CSV file of LabelName,DisplayName"
    rows = [row for row in _csv(path, expected) if row]
    head = [cell.strip() for cell in rows[0]] if rows else []
    column = head.index("DisplayName") if "DisplayName" in head else 1
    rows = rows[1:] if "DisplayName" in head else rows
    if any(len(row) <= column for row in rows) or (
        "DisplayName" not in head and not all(r[0][:1] == "/" for r in rows)
    ):
        raise DataError(f"{path}: found other columns; expected {expected}.")
    full = _some(path, [normalised(row[column]) for row in rows], expected)
    bare = Counter(map(without_suffix, full))
    return Listed(tuple(name if bare[without_suffix(name)] > 1 else without_suffix(name) for name in full))


def read_names(path: Path) -> Listed:
    """Anyone's names: .txt with one a line, .json with a list of them (or numbers by name), .csv with a column `name`.

    Raises DataError for names that occur twice.
    """
    kind = path.suffix.lower()
    if kind == ".json":
        expected = "a .json file with a list of names, or with numbers by name"
        held = _json(path, expected)
        if isinstance(held, dict):
            return Listed(_by_number(path, held, expected))
        if not isinstance(held, list) or not all(isinstance(name, str) for name in held):
            raise DataError(f"{path}: found something else; expected {expected}.")
        names = held
    elif kind == ".csv":
        expected = "a .csv file with a column `name`"
        rows = [row for row in _csv(path, expected) if row]
        head = [cell.strip() for cell in rows[0]] if rows else []
        if "name" not in head or any(len(row) <= head.index("name") for row in rows):
            raise DataError(f"{path}: found the columns {', '.join(head) or 'none'}; expected {expected} in every row.")
        names = [row[head.index("name")] for row in rows[1:]]
    elif kind == ".txt":
        expected = "a .txt file with one name a line"
        names = _read(path, expected).splitlines()
    else:
        raise DataError(f"{path}: found a {kind or 'nameless'} file; expected .txt, .json or .csv.")
    names = [name for name in map(normalised, names) if name]
    if twice := doubles(names):
        raise DataError(
            f"{path}: found {len(twice)} names twice ({', '.join(twice[:5])}), not counting capitals and spaces; "
            f"expected each once."
        )
    return Listed(_some(path, names, expected))


def read_ontology(path: Path) -> dict[str, set[str]]:
    """AudioSet's ontology (ontology.json): by the id of each class those of all classes above it."""
    expected = "AudioSet's ontology.json, a list of classes with `id` and `child_ids`"
    held = _json(path, expected)
    try:
        children = {str(node["id"]): [str(child) for child in node["child_ids"]] for node in held}
    except (TypeError, KeyError):
        raise DataError(f"{path}: found something else; expected {expected}.") from None
    above: dict[str, set[str]] = {}
    for top in children:
        below = list(children[top])
        while below:
            node = below.pop()
            if top not in above.setdefault(node, set()):
                above[node].add(top)
                below += children.get(node, [])
    return above


def _read(path: Path, expected: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); expected {expected}.") from error


def _json(path: Path, expected: str) -> Any:
    try:
        return json.loads(_read(path, expected))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: is no JSON ({error}); expected {expected}.") from error


def _csv(path: Path, expected: str) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(_read(path, expected), newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: is no CSV ({error}); expected {expected}.") from error


def _by_number(path: Path, numbers: Any, expected: str) -> tuple[str, ...]:
    """Names in the order of their numbers, without the background."""
    if not isinstance(numbers, dict) or not all(isinstance(n, int) for n in numbers.values()):
        raise DataError(f"{path}: found something else; expected {expected}.")
    ordered = sorted(numbers, key=lambda name: int(numbers[name]))
    return _some(path, [normalised(name) for name in ordered if name != _BACKGROUND], expected)


def _some(path: Path, names: Sequence[str], expected: str) -> tuple[str, ...]:
    """The names, each once. Raises DataError if there are none."""
    found = tuple(dict.fromkeys(name for name in names if name))
    if not found:
        raise DataError(f"{path}: found no names; expected {expected}.")
    return found
