"""Embedding: read ahead, batched by length, in shards of which only what is broken is made again, on any device's
memory."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch

from modbridge import room
from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.errors import ArtefactError, SetupError
from modbridge.geometry import Statistics
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embeddings
from modbridge.store import shards, tally
from modbridge.store.cache import Cache
from modbridge.store.keys import file_hash
from modbridge.talk import Talk

from .conftest import TOY


class Said(Talk):
    """Keeps what is said."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


class Embedding:
    """Embeds the tiny world's training split, and counts what the encoder was given."""

    def __init__(self, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.config, self.sizes, self.texts = config, [], []  # type: ignore[var-annotated]
        self.plugins = Plugins.discover([TOY], environ={})
        self.limit: int | None = None
        self.kill_at: int | None = None
        module: Any = sys.modules[f"modbridge_file_{TOY.stem}"]
        embed, prepare = module.Colours.embed, module.Colours.prepare

        def counted(encoder: Any, batch: torch.Tensor, modality: str) -> torch.Tensor:
            self.sizes.append(len(batch))
            if len(self.sizes) == self.kill_at:
                raise KeyboardInterrupt
            if self.limit is not None and len(batch) > self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            return embed(encoder, batch, modality)  # type: ignore[no-any-return]

        def noted(encoder: Any, item: Any, modality: str) -> torch.Tensor:
            self.texts += [item] if modality == "text" else []
            return prepare(encoder, item, modality)  # type: ignore[no-any-return]

        monkeypatch.setattr(module.Colours, "embed", counted)
        monkeypatch.setattr(module.Colours, "prepare", noted)

    def __call__(self, cache: Path, side: str = "image", *, rows: int = 10, **encoder: Any) -> Embeddings:
        self.sizes, self.texts, self.talk = [], [], Said()
        block = {"type": "toy_colours", **encoder}
        sets = [f"encoder={json.dumps(block)}"]
        (cell,) = load_experiment(str(self.config), self.plugins.registry, sets=sets).cells
        self.session = Session(self.plugins, Cache(cache), self.talk, device="cpu", shard_rows=rows)
        return embeddings(self.session, cell, "train", side)


@pytest.fixture
def embed(world: Path, monkeypatch: pytest.MonkeyPatch) -> Embedding:
    return Embedding(world, monkeypatch)


def store(cache: Path, side: str = "image") -> Path:
    (found,) = [
        path.parent
        for path in (cache / "embed").glob("*/modbridge.json")
        if json.loads(path.read_text("utf-8"))["type"] == side
    ]
    return found


def test_batches_shards_and_workers_change_nothing(embed: Embedding, tmp_path: Path) -> None:
    whole = embed(tmp_path / "a", rows=100, batch_size=100)
    assert embed.sizes == [24]
    parts = embed(tmp_path / "b", rows=10, batch_size=4)
    assert embed.sizes == [4, 4, 2, 4, 4, 2, 4]
    apart = embed(tmp_path / "c", rows=10, batch_size=4, workers=2)
    assert embed.sizes == [4, 4, 2, 4, 4, 2, 4]
    for other in (parts, apart):
        assert other.keys == whole.keys
        torch.testing.assert_close(other.values, whole.values, atol=1e-6, rtol=0)


def test_the_longest_texts_come_first_and_each_once(embed: Embedding, tmp_path: Path) -> None:
    found = embed(tmp_path / "a", "text", rows=100, batch_size=2)
    lengths = [len(text) for text in embed.texts]
    assert lengths == sorted(lengths, reverse=True)
    assert len(embed.texts) == len(set(embed.texts)) == 6  # of 48 captions
    assert found.keys[:3] == ("000#0", "000#1", "001#0")
    said = dict(zip(found.keys, found.values, strict=True))
    torch.testing.assert_close(said["000#0"], said["003#0"])
    assert not torch.allclose(said["000#0"], said["001#0"])


@pytest.mark.parametrize("damage", [b"", b"x" * 100, None])
def test_of_a_damaged_store_only_the_broken_shard_is_made_again(
    embed: Embedding, tmp_path: Path, damage: bytes | None
) -> None:
    before = embed(tmp_path / "cache")
    folder = store(tmp_path / "cache")
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "seen.json"}
    middle = folder / "shard-00001.safetensors"
    if damage is None:
        middle.unlink()
    else:
        middle.write_bytes(damage)
    after = embed(tmp_path / "cache")
    assert sum(embed.sizes) == 10
    assert any("shard-00001" in line and "making that again" in line for line in embed.talk.lines)
    assert torch.equal(before.values, after.values)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "seen.json"} == kept
    embed(tmp_path / "cache")
    assert embed.sizes == []


def test_a_store_that_is_as_it_was_written_is_not_hashed_again(
    embed: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed(tmp_path / "cache")
    hashed: list[str] = []
    monkeypatch.setattr(shards, "file_hash", lambda path: hashed.append(path.name) or file_hash(path))
    embed(tmp_path / "cache")
    assert hashed == []
    last = store(tmp_path / "cache") / "shard-00002.safetensors"
    os.utime(last)
    embed(tmp_path / "cache")
    embed(tmp_path / "cache")
    assert hashed == [last.name]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1  # of the same size
    last.write_bytes(content)
    embed(tmp_path / "cache")
    assert sum(embed.sizes) == 4


@pytest.mark.parametrize("side", ["image", "text"])  # of the texts, several have one vector
def test_vectors_too_many_for_the_memory_are_mapped(
    embed: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    held = embed(tmp_path / "cache", side, rows=5)
    monkeypatch.setattr(room, "memory", lambda: 4 * (held.values.nbytes - 1))
    found = embed(tmp_path / "cache", side, rows=5)
    whole = store(tmp_path / "cache", side) / "whole.bin"
    written = whole.stat().st_mtime_ns
    assert found.keys == held.keys
    assert torch.equal(found.values, held.values)
    found.values.zero_()  # a copy of what is in the file, page by page
    assert torch.equal(embed(tmp_path / "cache", side, rows=5).values, held.values)
    assert whole.stat().st_mtime_ns == written


def test_what_was_mapped_is_made_again_where_it_is_not_what_was_written(
    embed: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "memory", lambda: 8)
    values = embed(tmp_path / "cache").values.clone()
    whole = store(tmp_path / "cache") / "whole.bin"
    whole.write_bytes(bytes(whole.stat().st_size))
    assert torch.equal(embed(tmp_path / "cache").values, values)
    assert embed.sizes == []


def test_a_process_that_ends_while_it_closes_a_store_has_lost_no_shard(
    embed: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as full:
        full.setattr(shards, "write_manifest", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            embed(tmp_path / "cache")
    found = embed(tmp_path / "cache")
    assert (embed.sizes, len(found)) == ([], 24)


def test_a_shard_that_cannot_be_read_back_is_not_left_out_of_the_moments(
    embed: Embedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tally, "PAUSE", 0.0)
    real, failures = shards.read_shard, [2, 10]

    def late(file: Path) -> Any:
        if file.name == "shard-00001.safetensors" and failures[0] > 0:
            failures[0] -= 1
            raise ArtefactError(f"{file} is not there yet")
        return real(file)

    monkeypatch.setattr(tally, "read_shard", late)
    found = embed(tmp_path / "a")
    assert found.moments is not None
    assert found.moments.count == 24
    failures[0] = failures[1]
    with pytest.raises(ArtefactError, match="not there yet"):
        embed(tmp_path / "b")


def test_one_that_mends_a_store_leaves_what_another_has_mended(embed: Embedding, tmp_path: Path) -> None:
    embed(tmp_path / "cache")
    folder = store(tmp_path / "cache")
    assert embed.session.cache.take_back("embed", folder.name, shards.reopen) is None
    assert shards.broken(folder) == []


def test_moments_are_taken_as_the_vectors_come(embed: Embedding, tmp_path: Path) -> None:
    for side in ("image", "text"):
        found = embed(tmp_path / side, side, rows=5)
        assert found.moments is not None
        x = found.values.double().numpy()
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        np.testing.assert_allclose(found.moments.mean.numpy(), x.mean(0), atol=1e-12)
        np.testing.assert_allclose(found.moments.covariance.numpy(), np.cov(x.T, bias=True), atol=1e-12)
        assert found.moments.count == len(x)
        apart = Statistics.of(found.values)
        known = Statistics.of(found)
        torch.testing.assert_close([known.mean, known.radius], [apart.mean, apart.radius], atol=1e-12, rtol=0)


def test_moments_do_not_depend_on_a_kill(embed: Embedding, tmp_path: Path) -> None:
    embed(tmp_path / "a", rows=5)
    embed.kill_at = 4
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "b", rows=5, batch_size=2)
    embed.kill_at = None
    embed(tmp_path / "b", rows=5)
    one, other = (store(tmp_path / name) / "moments.safetensors" for name in "ab")
    assert one.read_bytes() == other.read_bytes()


DEADLY = """
import os, signal, sys
from torch.utils.data import get_worker_info
from modbridge.cli import main
from modbridge.plugins.manager import Plugins

toy = sys.argv[1]
discover = Plugins.discover.__func__

def deadly(cls, *given, **more):
    plugins = discover(cls, *given, **more)
    colours = sys.modules["modbridge_file_toy_plugin"].Colours
    prepare = colours.prepare

    def dies(encoder, item, modality):
        if get_worker_info() is not None and "015" in str(item):
            os.kill(os.getpid(), signal.SIGKILL)
        return prepare(encoder, item, modality)

    colours.prepare = dies
    return plugins

Plugins.discover = classmethod(deadly)
sys.exit(main(["embed", *sys.argv[2:], "--split", "train", "--side", "image", "--plugin", toy]))
"""


def test_a_reading_process_that_dies_is_told(world: Path, tmp_path: Path) -> None:
    # Apart, since torch tells of it by a signal, wherever the process is by then.
    sets = ["--set", "encoder={type: toy_colours, workers: 1, batch_size: 4}", "--cache", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", DEADLY, TOY, world, *sets], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 4, done.stderr
    assert re.search(r"a process that read image items ahead was ended .*Give the encoder fewer `workers`", done.stderr)
    assert "Traceback" not in done.stderr


def test_a_store_without_its_index_is_made_again(embed: Embedding, tmp_path: Path) -> None:
    before = embed(tmp_path / "cache")
    (store(tmp_path / "cache") / "index.json").write_text("{")
    assert torch.equal(embed(tmp_path / "cache").values, before.values)
    assert sum(embed.sizes) == 24


def test_a_batch_too_large_for_the_device_is_halved(embed: Embedding, tmp_path: Path) -> None:
    whole = embed(tmp_path / "a", batch_size=8)
    embed.limit = 3
    found = embed(tmp_path / "b", batch_size=8)
    assert embed.sizes[:3] == [8, 4, 2]
    assert max(embed.sizes[2:]) == 2
    assert embed.talk.lines[:2] == [
        f"embed image: out of memory on the device; going on with batches of {size}" for size in (4, 2)
    ]
    torch.testing.assert_close(found.values, whole.values, atol=1e-6, rtol=0)
    embed.limit = 0
    with pytest.raises(SetupError, match="no memory for one image item"):
        embed(tmp_path / "c", batch_size=8)


def test_what_was_embedded_before_a_kill_is_kept(embed: Embedding, tmp_path: Path) -> None:
    embed.kill_at = 5
    with pytest.raises(KeyboardInterrupt):
        embed(tmp_path / "cache", batch_size=4)
    assert embed.sizes == [4, 4, 2, 4, 4]
    embed.kill_at = None
    whole = embed(tmp_path / "cache", batch_size=4)
    assert sum(embed.sizes) == 14  # the first shard was there
    assert torch.equal(whole.values, embed(tmp_path / "other", batch_size=4).values)
