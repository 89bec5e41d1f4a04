"""Vectors in shards: each written beside its place and renamed when whole, with a note that holds its hash, so that of
a store that was cut short or altered only what is broken is made again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from modbridge.errors import ArtefactError
from modbridge.store.artefact import read_manifest, read_tensors, write_manifest
from modbridge.store.keys import file_hash

INDEX = "index.json"


@dataclass(frozen=True)
class Note:
    """What is said of a shard: the sha256 of its file, and why items of it could not be read, by key."""

    sha256: str
    unread: Mapping[str, str]


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.safetensors"


def write_shard(folder: Path, name: str, values: torch.Tensor, rows: Sequence[int], unread: Mapping[str, str]) -> Note:
    """Write vectors (m, D) or (m, n, D), float32, of the rows `rows` (m) of what is embedded."""
    part = folder / f".{name}.part"
    save_file({"values": values.contiguous(), "rows": torch.tensor(rows, dtype=torch.int64)}, part)
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
    work: Path, out: Path, shards: Mapping[str, Note], index: Mapping[str, Any], about: Mapping[str, Any]
) -> None:
    """Move finished shards into their store, with its index and manifest."""
    for name in shards:
        (work / name).replace(out / name)
    notes = {name: {"sha256": note.sha256, "unread": note.unread} for name, note in shards.items()}
    (out / INDEX).write_text(json.dumps({**index, "shards": notes}), encoding="utf-8")
    write_manifest(out, {"kind": "embeddings", **about})


def read_index(folder: Path) -> dict[str, Any]:
    """What `close` was given of a store, with the notes of its shards. Raises ArtefactError if it cannot be read."""
    read_manifest(folder, verify=False)
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtefactError(f"{folder / INDEX} cannot be read ({error}). Remove {folder} to make it anew.") from error
    return found


def broken(folder: Path) -> list[str]:
    """The files of a store that are missing or are not what was written."""
    files = read_manifest(folder, verify=False).get("files", {})
    return [n for n, sha256 in files.items() if not (folder / n).is_file() or file_hash(folder / n) != sha256]


def reopen(folder: Path, work: Path, bad: Sequence[str]) -> None:
    """Move what is whole of a store back to where it was made, so that making it again makes the rest."""
    if INDEX in bad:
        return
    for name, note in read_index(folder)["shards"].items():
        if name not in bad:
            (folder / name).replace(work / name)
            _write_note(work, name, Note(note["sha256"], note["unread"]))


def read_shards(folder: Path, names: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The vectors of shards one after another, and the row that each belongs to, int64."""
    shards = [read_tensors(folder / name) for name in names]
    return torch.cat([shard["values"] for shard in shards]), torch.cat([shard["rows"] for shard in shards])


def _note(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _write_note(folder: Path, name: str, note: Note) -> None:
    part = folder / f".{name}.json.part"
    part.write_text(json.dumps({"sha256": note.sha256, "unread": note.unread}), encoding="utf-8")
    part.replace(_note(folder, name))
