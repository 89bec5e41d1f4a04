"""Vectors in shards: each written beside its place and renamed when whole, with a note that holds its hash, so that of
a store that was cut short or altered only what is broken is made again.

A finished store is read through memory maps into one tensor, or, where that would not fit, mapped as a whole.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from modbridge import room
from modbridge.errors import ArtefactError
from modbridge.moments import Moments
from modbridge.store.artefact import link, part_of, read_manifest, read_tensors, write_manifest
from modbridge.store.keys import file_hash

INDEX, MOMENTS, SEEN = "index.json", "moments.safetensors", "seen.json"
WHOLE = {"values": "whole.bin", "mask": "whole-mask.bin"}


@dataclass(frozen=True)
class Note:
    """What is said of a shard: the sha256 of its file, and why items of it could not be read, by key."""

    sha256: str
    unread: Mapping[str, str]


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def write_shard(
    folder: Path,
    name: str,
    values: torch.Tensor,
    rows: Sequence[int],
    unread: Mapping[str, str],
    mask: torch.Tensor | None = None,
) -> Note:
    """Write vectors (m, D) or (m, n, D), float32, of the rows `rows` (m) of what is embedded, in the order of rows; of
    ragged sequences with their mask (m, n)."""
    part = part_of(folder / name)
    order = torch.tensor(rows, dtype=torch.int64).argsort()
    tensors = {"values": values, "rows": torch.tensor(rows, dtype=torch.int64)} | (
        {} if mask is None else {"mask": mask}
    )
    save_file({of: tensor[order].contiguous() for of, tensor in tensors.items()}, part)
    note = Note(file_hash(part), dict(unread))
    part.replace(folder / name)
    _write_note(folder, name, note)
    return note


def whole(folder: Path, name: str) -> Note | None:
    """The note of a shard that is there and is what was written; None if it has to be made (again)."""
    try:
        content = json.loads(_note(folder, name).read_text(encoding="utf-8"))
        note = Note(str(content["sha256"]), dict(content["unread"]))
        return note if file_hash(folder / name) == note.sha256 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def close(
    work: Path,
    out: Path,
    shards: Mapping[str, Note],
    index: Mapping[str, Any],
    about: Mapping[str, Any],
    moments: Moments | None = None,
) -> None:
    """Put finished shards into their store, with its index, its moments and its manifest. They stay where they were
    made as well: a process that ends in here has lost nothing."""
    for name in shards:
        link(work / name, out / name)
    notes = {name: {"sha256": note.sha256, "unread": note.unread} for name, note in shards.items()}
    (out / INDEX).write_text(json.dumps({**index, "shards": notes}), encoding="utf-8")
    if moments is not None and moments.known:
        save_file(moments.tensors(), out / MOMENTS)
    write_manifest(out, {"kind": "embeddings", **about}, known={name: note.sha256 for name, note in shards.items()})
    _mark_seen(out)


def read_index(folder: Path) -> dict[str, Any]:
    """What `close` was given of a store, with the notes of its shards. Raises ArtefactError if it cannot be read."""
    read_manifest(folder, verify=False)
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder / INDEX} cannot be read ({error}). Remove {folder} to make it anew.") from error
    return found


def broken(folder: Path) -> list[str]:
    """The files of a store that are missing or are not what was written. Those that have the size and the time of
    their writing still are taken for whole; others (copied, say) are looked through, once."""
    files = read_manifest(folder, verify=False).get("files", {})
    try:
        seen = json.loads((folder / SEEN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        seen = {}
    unsure = {name: sha256 for name, sha256 in files.items() if name not in seen or seen[name] != _stamp(folder / name)}
    bad = [n for n, sha256 in unsure.items() if not (folder / n).is_file() or file_hash(folder / n) != sha256]
    if unsure and not bad:
        with suppress(OSError):  # a store that may only be read is looked through every time
            _mark_seen(folder)
    return bad


def reopen(folder: Path, work: Path) -> bool:
    """Move what is whole of a store back to where it was made, so that making it again makes the rest; False, and
    nothing is moved, where all of it is whole."""
    bad = broken(folder)
    for name, note in read_index(folder)["shards"].items() if bad and INDEX not in bad else ():
        if name not in bad:
            (folder / name).replace(work / name)
            _write_note(work, name, Note(note["sha256"], note["unread"]))
    return bool(bad)


def read_vectors(folder: Path, index: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of a store for the keys of its index, float32 (M, ...), and which of the keys have one, int64 (M,).

    They are copied into memory. What is too large for it is put into one file of the store, once, which is mapped.
    """
    at, kept = _places(folder, index)
    return _read(folder, index, at, "values", torch.float32), kept


def read_mask(folder: Path, index: Mapping[str, Any]) -> torch.Tensor:
    """The mask that belongs to what `read_vectors` gives of ragged sequences, bool (M, n), held as that is."""
    return _read(folder, index, _places(folder, index)[0], "mask", torch.bool)


def _places(folder: Path, index: Mapping[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Of the keys of an index that have a vector: its place among those of all shards, one after another, and the
    number of the key, both int64 (M,)."""
    present = torch.cat([_tensor(folder / name, "rows") for name in index["shards"]])
    rows = torch.tensor(index["rows"], dtype=torch.int64)
    place = torch.full((int(rows.max()) + 1,), -1, dtype=torch.int64)
    place[present] = torch.arange(len(present))
    at = place[rows]
    kept = (at >= 0).nonzero().flatten()
    return at[kept], kept


def _read(folder: Path, index: Mapping[str, Any], at: torch.Tensor, name: str, dtype: torch.dtype) -> torch.Tensor:
    """One tensor of all shards, (M, ...): row i is at place `at[i]`."""
    files = [folder / file for file in index["shards"]]
    shape = (len(at), *_tensor(files[0], name).shape[1:])
    count = dtype.itemsize * math.prod(shape)
    if room.fits(count):
        found = torch.empty(shape, dtype=dtype)
        _gather(files, name, at, found)
        return found
    path = folder / WHOLE[name]
    if not _reached_disk(path, count):
        with FileLock(path.with_suffix(".lock")):  # others that want it wait
            if not _reached_disk(path, count):
                for left in folder.glob(f".{path.name}.*.part"):  # by one that was killed
                    left.unlink()
                beside = part_of(path)
                with beside.open("w+b") as file:
                    room.reserve(file, count, folder)
                    _gather(files, name, at, room.mapped(beside, shape, dtype, shared=True))
                    os.fsync(file.fileno())
                beside.replace(path)
                path.with_suffix(".json").write_text(json.dumps(_stamp(path)), encoding="utf-8")
    return room.mapped(path, shape, dtype)


def _reached_disk(path: Path, count: int) -> bool:
    """Whether a file of `count` bytes is there as it was when all of it had been written out."""
    try:
        noted = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(noted == _stamp(path) and noted[0] == count)


def _gather(files: Sequence[Path], name: str, at: torch.Tensor, out: torch.Tensor) -> None:
    """Fill `out` (M, ...): row i with row `at[i]` of all files' tensors of a name, one after another."""
    counts = [len(_tensor(file, "rows")) for file in files]
    plain = torch.equal(at, torch.arange(sum(counts)))
    order = at if plain else at.argsort(stable=True)
    asked, start = at if plain else at[order], 0
    for file, count in zip(files, counts, strict=True):
        stop = start + count
        if plain:
            out[start:stop] = _tensor(file, name)
        else:
            first, last = torch.searchsorted(asked, torch.tensor([start, stop])).tolist()
            out[order[first:last]] = _tensor(file, name)[asked[first:last] - start]
        start = stop


def read_shard(file: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of one shard, mapped, and the row that each belongs to, int64."""
    return _tensor(file, "values"), _tensor(file, "rows")


def read_moments(folder: Path) -> Moments | None:
    """The moments of a store's vectors, each counted as often as it has keys; None for sequences, and where a vector
    has no direction."""
    return Moments.from_tensors(read_tensors(folder / MOMENTS)) if (folder / MOMENTS).is_file() else None


def _tensor(file: Path, name: str) -> torch.Tensor:
    """A tensor of a shard, mapped into memory. Raises ArtefactError if the file is damaged."""
    try:
        with safe_open(file, framework="pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
            return found
    except (SafetensorError, OSError) as error:
        raise ArtefactError(
            f"{file} cannot be read as a shard ({error}). Remove its folder to make it anew."
        ) from error


def _mark_seen(folder: Path) -> None:
    """Note of every file how it looks now that it is known to be whole."""
    stamps = {name: _stamp(folder / name) for name in read_manifest(folder, verify=False)["files"]}
    (folder / SEEN).write_text(json.dumps(stamps), encoding="utf-8")


def _stamp(file: Path) -> list[int] | None:
    """The size of a file and when it was written, in nanoseconds; None if it is not there."""
    try:
        about = file.stat()
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns]


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _write_note(folder: Path, name: str, note: Note) -> None:
    part = part_of(_note(folder, name))
    part.write_text(json.dumps({"sha256": note.sha256, "unread": note.unread}), encoding="utf-8")
    part.replace(_note(folder, name))
