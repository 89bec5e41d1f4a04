"""Tiny files for the components that read some, and configs that read them: what the conformance checks try them on."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from modbridge.builtin.parquet import pyarrow_parquet
from modbridge.noise import Draw

COUNT, DIM = 16, 8
VECTORS = {"image": {"array": "image"}, "text": {"array": "text", "keys": "owner"}}
_COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "white": (240, 240, 240)}


def _pictures(folder: Path) -> list[tuple[str, list[str]]]:
    """Plain pictures 0.png, 1.png ...; gives the name of each, and two captions."""
    found = []
    for row in range(4):
        colour = list(_COLOURS)[row]
        Image.new("RGB", (8, 8), _COLOURS[colour]).save(folder / f"{row}.png")
        found.append((f"{row}.png", [f"a {colour} picture", f"it is all {colour}"]))
    return found


def folder(at: Path) -> dict[str, Any]:
    """A folder of pictures with captions beside them."""
    for name, captions in _pictures(at):
        (at / name).with_suffix(".txt").write_text("\n".join(captions), encoding="utf-8")
    return {"path": str(at), "captions": "sidecar"}


def jsonl(at: Path) -> dict[str, Any]:
    """A file of one JSON object a line, beside its pictures."""
    lines = [json.dumps({"image": name, "captions": captions}) for name, captions in _pictures(at)]
    (at / "items.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": str(at / "items.jsonl")}


def webdataset(at: Path) -> dict[str, Any]:
    """Two tar files of two pictures each, with their captions."""
    for shard in range(2):
        with tarfile.open(at / f"{shard}.tar", "w") as tar:
            for name, captions in _pictures(at)[2 * shard : 2 * shard + 2]:
                (at / name).with_suffix(".txt").write_text("\n".join(captions), encoding="utf-8")
                for member in (name, str(Path(name).with_suffix(".txt"))):
                    tar.add(at / member, member)
    return {"path": str(at / "{0..1}.tar"), "index": str(at / "index")}


def parquet(at: Path) -> dict[str, Any]:
    """A parquet file of the pictures, two a row group, with their captions."""
    rows = [{"image": {"bytes": (at / n).read_bytes(), "path": n}, "caption": c} for n, c in _pictures(at)]
    tables = pyarrow_parquet()
    import pyarrow

    tables.write_table(pyarrow.Table.from_pylist(rows), at / "items.parquet", row_group_size=2)
    return {"path": str(at / "items.parquet")}


def encoder(at: Path) -> dict[str, Any]:
    """Vectors of 16 items and of one text of each."""
    return {"file": _vectors(at), "space": "example", "vectors": VECTORS}


def source(at: Path) -> dict[str, Any]:
    """The items of such a file, with the captions that belong to them."""
    lines = [json.dumps({"key": str(row), "captions": [f"item number {row}"]}) for row in range(COUNT)]
    (at / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"file": _vectors(at), "vectors": VECTORS, "captions": str(at / "captions.jsonl")}


def recorded(at: Path) -> dict[str, Any]:
    """Captions of 16 items, and of the first text of each."""
    keys = [f"{row}{text}" for row in range(COUNT) for text in ("", "#0")]
    lines = [json.dumps({"key": key, "text": f"what was said of {key}"}) for key in keys]
    (at / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"path": str(at / "captions.jsonl")}


def vocabulary(at: Path) -> dict[str, Any]:
    """Four names and their vectors."""
    names = list(_COLOURS)
    np.savez(at / "names.npz", vectors=Draw.of(names, 0).normal(DIM).numpy())
    (at / "names.json").write_text(json.dumps(names), encoding="utf-8")
    return {"path": str(at / "names.npz"), "vectors": "vectors", "names": str(at / "names.json"), "space": "example"}


def _vectors(at: Path) -> str:
    keys = [str(row) for row in range(COUNT)]
    sides = {side: Draw.of(keys, 0).named(side).normal(DIM).numpy() for side in ("image", "text")}
    np.savez(at / "vectors.npz", image=sides["image"], text=sides["text"], owner=np.array(keys))
    return str(at / "vectors.npz")
