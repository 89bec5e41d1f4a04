"""Embedding: the stage `embed` against the bare encoder on batches that are ready, and against one item at a time.

The stage reads, decodes, resizes and tokenizes, hashes the source, runs the encoder, and writes, sums up and reads back
its shards. Pictures are read by one worker process beside the encoder, which has one thread, as the bare one has.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.interfaces.encoder import Encoder
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.stages.embed_shards import Wanted
from modbridge.stages.fit_encoder import encoder, encoder_key
from modbridge.stages.read_ahead import Reader, bucketed
from modbridge.store.cache import Cache
from modbridge.talk import Talk
from speed.measure import Row, fastest
from speed.pictures import TINY, VIT_B_32, write_config, write_pictures

NAMES = ("embedding-images", "embedding-images-one-by-one", "embedding-texts", "embedding-texts-one-by-one")
BATCH = 16


def rows(full: bool) -> Iterator[Row]:
    """ViT-B/32 with random weights; the toy profile has a tiny one."""
    count, captions, rounds = (192, 1, 3) if full else (16, 2, 2)
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        folder = Path(name)
        block = {**(VIT_B_32 if full else TINY), "batch_size": BATCH, "workers": 1}
        data = write_pictures(folder / "pictures", count, captions)
        config = write_config(folder / "config.yaml", data, block)
        plugins = Plugins.discover()
        cell = load_experiment(config, plugins.registry).first
        model = encoder(Session(plugins, Cache(folder / "none")), cell)
        shape = "ViT-B/32, random weights" if full else "a tiny ViT"
        for side, goal in (("image", 0.95), ("text", 0.95)):
            yield from _side(plugins, cell, model, side, goal, rounds, folder / side, shape)


def _side(
    plugins: Plugins, cell: Cell, model: Encoder[Any], side: str, goal: float, rounds: int, folder: Path, shape: str
) -> Iterator[Row]:
    def opened(number: int) -> Session:
        """A session and a cache with nothing in them but the encoder: building it is on no side's clock."""
        session = Session(plugins, Cache(folder / str(number)), Talk(quiet=True))
        session.remember(f"encoder {encoder_key(session, cell)}", lambda: model)
        return session

    waiting = [opened(number) for number in range(rounds)]
    distinct = Wanted(side, cell.config.data.train).items(waiting[0], model).distinct
    plan = bucketed(distinct, range(len(distinct)), BATCH, len if side == "text" else None)
    reader = Reader(model, distinct, side, plan)
    ready = [reader[number] for number in range(len(reader))]
    few = range(min(len(distinct), 2 * BATCH))

    def stage() -> None:
        found = embeddings(waiting.pop(), cell, "train", side)
        assert len(found)

    def bare() -> None:
        with torch.inference_mode():
            for batch in ready:
                model.embed(batch.inputs, side)

    def alone() -> None:
        with torch.inference_mode():
            for row in few:
                model.embed(model.collate([model.prepare(distinct[row], side)], side), side)

    alone()  # what is set up once is not counted
    seconds = fastest({"stage": stage, "bare": bare, "alone": alone}, rounds, warm=False)
    rate = len(distinct) / seconds["stage"]
    name = f"embedding-{side}s"
    ours = f"stage embed, batches of {BATCH}, " + ("one worker" if side == "image" else "sorted by length")
    yield Row(
        name=name, unit=f"{side}s", rate=rate, rate_of=ours, other=len(distinct) / seconds["bare"],
        other_of=f"the bare encoder on the same {len(ready)} batches ({shape}, one thread)", goal=goal, rounds=rounds,
    )  # fmt: skip
    yield Row(
        name=f"{name}-one-by-one", unit=f"{side}s", rate=rate, rate_of=ours, other=len(few) / seconds["alone"],
        other_of="read, prepared and encoded one at a time", goal=None, rounds=rounds,
    )  # fmt: skip
