"""Where the items of tar shards lie: made of each shard once, kept as arrays of some 40 bytes an item."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from modbridge.builtin.tar_members import members
from modbridge.errors import DataError, SetupError
from modbridge.interfaces.key_list import KeyList
from modbridge.store.artefact import part_of
from modbridge.store.keys import stable_hash

FORMAT = 1  # of a kept index; another one is made anew


@dataclass(frozen=True)
class Places:
    """Where the image (`at`, `size`) and the captions (`told_at`, `told_size`; size 0: there are none) of each item lie
    in its file, int64 (N,) each, and the items' keys."""

    keys: KeyList
    at: NDArray[np.int64]
    size: NDArray[np.int64]
    told_at: NDArray[np.int64]
    told_size: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.at)

    def part(self, rows: Any) -> Places:
        """Those of some rows: a slice, or their numbers."""
        arrays = {field.name: getattr(self, field.name)[rows] for field in fields(self)[1:]}
        return Places(self.keys[rows] if isinstance(rows, slice) else self.keys.take(rows), **arrays)

    @classmethod
    def joined(cls, parts: list[Places]) -> Places:
        """One after another."""
        arrays = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)[1:]}
        return cls(KeyList.joined([part.keys for part in parts]), **arrays)


def places(path: Path, images: frozenset[str], told: str | None, folder: Path) -> Places:
    """The items of a shard, from the index in `folder` if it is there, else from its headers, and then kept there.

    `images`, `told`: the extensions of images and of the members with captions. A shard of another size or time of
    change is another one. Raises DataError for a shard that is no whole tar file, or in which one key has two images,
    SetupError where the index cannot be kept.
    """
    about = path.stat()
    wanted = [FORMAT, str(path.resolve()), about.st_size, about.st_mtime_ns, sorted(images), told]
    kept = folder / f"{stable_hash(wanted)}.npz"
    try:
        with np.load(kept, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
        return Places(KeyList(arrays.pop("text"), arrays.pop("ends")), **arrays)
    except (OSError, ValueError, KeyError, TypeError, EOFError, RuntimeError, BadZipFile):  # not there, or damaged
        pass
    made = _read(path, images, told)
    numbers = {f.name: getattr(made, f.name) for f in fields(Places)[1:]}
    part = part_of(kept)  # of its own: processes of several machines may make it at a time
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            np.savez(file, text=made.keys.text, ends=made.keys.ends, **numbers)
        os.replace(part, kept)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise SetupError(
            f"{folder}: where items lie in the shards cannot be kept there ({error}). Give another folder by `index`, "
            f"or another cache by MODBRIDGE_CACHE."
        ) from error
    return made


def member_at(path: Path, offset: int) -> str:
    """The name of the member whose content begins there, for messages."""
    return next((name for name, at, _ in members(path) if at == offset), "?")


def _read(path: Path, images: frozenset[str], told: str | None) -> Places:
    keys: list[str] = []
    rows: list[tuple[int, int, int, int]] = []
    for key, group in _groups(path):
        seen = [(name, at, size) for name, at, size in group if _extension(name) in images]
        if len(seen) > 1:
            raise DataError(
                f"{path}: {key!r} has several images: {', '.join(name for name, *_ in seen)}. Name the one that is "
                f"meant by `extensions`."
            )
        if not seen:
            continue
        captions = [(at, size) for name, at, size in group if told is not None and _extension(name) == told]
        keys.append(key)
        rows.append((*seen[0][1:], *(captions[0] if captions else (0, 0))))
    table = np.array(rows, np.int64).reshape(-1, 4)
    return Places(KeyList.of(keys), *(np.ascontiguousarray(column) for column in table.T))


def _groups(path: Path) -> Iterator[tuple[str, list[tuple[str, int, int]]]]:
    """Members that lie together and differ in their extension only, with the name that they share."""
    last, group = "", list[tuple[str, int, int]]()
    for member in members(path):
        name = PurePosixPath(member[0]).name
        if name.startswith((".", "__")) or "." not in name:  # hidden ones; __meta__ ones are webdataset's
            continue
        key = member[0].removeprefix("./")[: -len(_extension(member[0]))]
        if key != last and group:
            yield last, group
            group = []
        last = key
        group.append(member)
    if group:
        yield last, group


def _extension(name: str) -> str:
    """All from the first dot of the last part on, small: webdataset's convention."""
    base = name.rsplit("/", 1)[-1]
    return base[base.index(".") :].lower() if "." in base else ""
