"""Reading a finished store of vectors against copying as many bytes from memory to memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from modbridge.noise import Draw
from modbridge.store import shards
from speed.measure import Row, fastest

NAMES = ("store",)
DIM, SHARD = 512, 4096


def rows(full: bool) -> Iterator[Row]:
    """A store as the stage `embed` writes it, its files in the page cache, read into a tensor of its own."""
    count, rounds = (200_000, 5) if full else (2_000, 2)
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        folder, work = Path(name) / "store", Path(name) / "work"
        folder.mkdir()
        work.mkdir()
        write(folder, work, count)
        values = read(folder)
        ways = {"store": lambda: read(folder), "copy": values.clone}
        seconds = fastest(ways, rounds)
    gigabytes = values.nbytes / 1e9
    yield Row(
        name="store", unit="GB", rate=gigabytes / seconds["store"],
        rate_of=f"index and shards of {count:,} x {DIM} float32, from the page cache",
        other=gigabytes / seconds["copy"], other_of="tensor.clone() of the same", goal=0.5, rounds=rounds,
        limit="both write every byte once to new memory; a store also reads its index of keys",
    )  # fmt: skip


def write(folder: Path, work: Path, count: int) -> None:
    notes = {}
    for number, start in enumerate(range(0, count, SHARD)):
        at = range(start, min(start + SHARD, count))
        values = Draw.of([f"shard{number}"], 0).normal(len(at) * DIM).view(len(at), DIM)
        notes[shards.shard_name(number)] = shards.write_shard(work, shards.shard_name(number), values, at, {})
    keys = [f"item{row:06d}" for row in range(count)]
    shards.close(work, folder, notes, {"keys": keys, "rows": list(range(count))}, {"type": "text"})


def read(folder: Path) -> torch.Tensor:
    values, _ = shards.read_vectors(folder, shards.read_index(folder))
    return values
