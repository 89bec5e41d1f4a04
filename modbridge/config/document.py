"""A config file as plain values that still know their lines: `extends`, `--set` and `${...}` applied."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modbridge.config.grid import LOADER_FIELDS, with_grid
from modbridge.config.interpolation import interpolate
from modbridge.config.overrides import apply_sets, deep_merge, merge_marks, parse_set
from modbridge.config.reading import KeyPath, Mark, Marks, dotted, nearest_mark, read_yaml
from modbridge.errors import ConfigError, Problem

__all__ = ["Document", "Mark", "Reading", "load_document", "read_config"]


@dataclass(slots=True)
class Document:
    """What a config file says.

    `tree`: plain values, without `extends`; in a variant's document also without the blocks that name all variants and
    profiles. `marks`: where each path of it was written. `files`: the file itself, then its ancestors. `to_be_given`:
    dotted names under `paths` that hold no value yet; references to them still stand in the tree as text. `text`: the
    file as it was given.
    """

    tree: dict[str, Any]
    marks: Marks
    files: list[Path]
    to_be_given: list[str]
    text: str
    _names: dict[str, Mark] = field(init=False, repr=False, default_factory=dict)

    def where(self, path: str | KeyPath) -> str:
        """ "file:line" of a path ("data.train.path" or its parts), or of the nearest block around it."""
        if not isinstance(path, str):
            return str(nearest_mark(self.marks, path) or "")
        if not self._names:  # asked for where something is wrong only
            self._names = {dotted(path): mark for path, mark in self.marks.items()}
        name = path
        while name and name not in self._names:
            name = name.rpartition(".")[0]
        return str(self._names.get(name, ""))


@dataclass(frozen=True, slots=True)
class Reading:
    """A config file and its ancestors, read once, with a profile, `--set` and the grid applied: what the documents of
    all its variants begin from."""

    tree: dict[str, Any]
    marks: Marks
    files: list[tuple[Path, str]]
    problems: list[Problem]

    def document(self, variant: str | None = None, point: Sequence[str] = ()) -> Document:
        """The document of one variant at one point of the varied axes; see `load_document`."""
        tree, marks, problems = self.tree, self.marks, list(self.problems)
        if variant is not None:
            tree, marks = _overlay("variants", variant, tree, marks, problems)
            # They are read, and their mistakes told, with the document of no variant; a matrix has many of them.
            tree = {name: block for name, block in tree.items() if name not in LOADER_FIELDS}
        tree, marks = apply_sets(tree, marks, point, problems, said_by="--vary")
        tree, given = interpolate(tree, marks, problems)
        document = Document(tree, marks, [file for file, _ in self.files], given, self.files[0][1])
        if problems:
            raise ConfigError(problems, partial=document)
        return document


def load_document(
    path: str | Path,
    *,
    sets: Sequence[str] = (),
    profile: str | None = None,
    variant: str | None = None,
    point: Sequence[str] = (),
) -> Document:
    """Read a config file.

    The file is laid over the one it `extends` (a path relative to itself). Over the result comes its block
    `profiles.PROFILE`, which may change variants too (of several, "paper,smoke", the later over the earlier), then all
    `sets` ("bridge.start_step=400"), then `variants.VARIANT` (one that it names, or a point of its `grid`), which says
    what is the variant's own and so wins over `sets`, then `point`, one value of each varied axis. References are
    resolved last.

    Raises ConfigError with every mistake found, each with its file and line.
    """
    return read_config(path, sets=sets, profile=profile).document(variant, point)


def read_config(path: str | Path, *, sets: Sequence[str] = (), profile: str | None = None) -> Reading:
    """Read a config file as far as all its variants have in common. Raises ConfigError where nothing can be read; other
    mistakes are told with each document."""
    problems: list[Problem] = []
    files: list[tuple[Path, str]] = []
    tree, marks = _read_chain(Path(path), [], files, problems)
    if tree is None:
        if not problems:
            problems.append(Problem("", "the file is empty", where=str(path), hint="a config begins with NAME: VALUE"))
        for text in sets:
            parse_set(text, problems)
        raise ConfigError(problems)
    for name in profile.split(",") if profile is not None else ():
        tree, marks = _overlay("profiles", name, tree, marks, problems)
    tree, marks = apply_sets(tree, marks, sets, problems)
    tree, marks = with_grid(tree, marks, problems)
    return Reading(tree, marks, files, problems)


def _read_chain(
    path: Path, below: list[tuple[Path, str]], files: list[tuple[Path, str]], problems: list[Problem]
) -> tuple[dict[str, Any] | None, Marks]:
    """One file laid over its ancestors. `below`: the files that led here, each with the place of its `extends`."""
    text = _read_text(path, below[-1][1] if below else "", problems)
    if text is None:
        return None, {}
    files.append((path, text))
    before = len(problems)
    tree, marks = read_yaml(text, str(path), problems)
    if not isinstance(tree, dict):
        if tree is not None:
            message = f"expected names and values at the top, found {_kind(tree)}"
            problems.append(Problem("", message, where=str(marks[()]), hint="a config begins with NAME: VALUE"))
        elif below and len(problems) == before:
            problems.append(Problem("", "the file is empty", where=str(path), hint=f"{below[-1][1]} extends it"))
        return None, {}
    parent = tree.pop("extends", None)
    place = marks.pop(("extends",), Mark(str(path)))
    if parent is None:
        return tree, marks
    if not isinstance(parent, str):
        marks = {inner: mark for inner, mark in marks.items() if inner[:1] != ("extends",)}
        message = f"expected the path of one other file, found {_kind(parent)}"
        problems.append(Problem("extends", message, where=str(place), hint="write extends: other.yaml"))
        return tree, marks
    other = Path(os.path.normpath(path.parent / parent))
    here = [*below, (path, str(place))]
    seen = [file.resolve() for file, _ in here]
    if other.resolve() in seen:
        circle = [str(file) for file, _ in here[seen.index(other.resolve()) :]]
        message = f"files extend each other in a circle: {' -> '.join([*circle, circle[0]])}"
        problems.append(Problem("extends", message, where=str(place), hint="one of them must stand alone"))
        return tree, marks
    base, base_marks = _read_chain(other, here, files, problems)
    if base is None:
        return tree, marks
    merged = deep_merge(base, tree)
    return merged, merge_marks(merged, base_marks, marks)


def _read_text(path: Path, wanted_at: str, problems: list[Problem]) -> str | None:
    """The text of a file. `wanted_at`: the file:line of the `extends` that names it, or ""."""
    name = "extends" if wanted_at else ""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{path} is not a text file in UTF-8 (byte {error.start})"
        problems.append(Problem(name, message, where=wanted_at, hint="save it as UTF-8"))
    except FileNotFoundError:
        problems.append(Problem(name, f"there is no file {path}", where=wanted_at, hint=_neighbours(path)))
    except OSError as error:
        what = "is a folder, expected a file" if path.is_dir() else f"cannot be read: {error.strerror}"
        problems.append(Problem(name, f"{path} {what}", where=wanted_at, hint=_neighbours(path / "x.yaml")))
    return None


def _neighbours(path: Path) -> str:
    """What there is in the folder where `path` was looked for."""
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder} either"
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    stems = difflib.get_close_matches(path.stem, {Path(name).stem for name in names}, n=3, cutoff=0.6)
    close = [name for name in names if Path(name).stem in stems and name != path.name]
    if close:
        return f"did you mean {' or '.join(str(folder / name) for name in close)}?"
    configs = [name for name in names if name.endswith((".yaml", ".yml"))][:8]
    return f"configs in {folder}: {', '.join(configs) or 'none'}"


def _overlay(
    group: str, name: str, tree: dict[str, Any], marks: Marks, problems: list[Problem]
) -> tuple[dict[str, Any], Marks]:
    """`tree` with the overrides `name` of its own block `group` laid over it."""
    path = (group, name)
    block = tree.get(group)
    if not isinstance(block, dict) or name not in block:
        known = list(block) if isinstance(block, dict) else []
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known) or 'none'}"
        problems.append(Problem(group, f"hold no {name!r}", where=str(nearest_mark(marks, path)), hint=hint))
        return tree, marks
    overrides = block[name]
    if overrides is None:
        return tree, marks
    if not isinstance(overrides, dict):
        message = f"expected a block of fields to change, found {_kind(overrides)}"
        problems.append(Problem(dotted(path), message, where=str(nearest_mark(marks, path))))
        return tree, marks
    inner = {at[2:]: mark for at, mark in marks.items() if at[:2] == path and len(at) > 2}
    # What the overrides do not touch stays as it is, with its marks: most of a large file.
    base = {key: tree[key] for key in overrides if key in tree}
    merged: dict[str, Any] = deep_merge(base, overrides)
    merged_marks = {at: mark for at, mark in marks.items() if not at or at[0] not in overrides}
    merged_marks |= merge_marks(merged, marks, inner)
    return tree | merged, merged_marks


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "a list"
    return "a block" if isinstance(value, dict) else f"the single value {value!r}"
