"""Reading for training: shards against bare files, and steps whose images workers read ahead against steps that wait.

Pictures of 640 x 480 in tar shards. A step is a wait, as long as reading its images takes: as if a device did it, so
that it is seen whether it waits for them.
"""

from __future__ import annotations

import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from modbridge import training_media
from modbridge.builtin.shard_config import WebdatasetConfig
from modbridge.builtin.webdataset import WebdatasetSource
from modbridge.media import load_image
from modbridge.testing import MemoryFitting
from modbridge.training import Batches, Media, epoch_order, train
from speed.measure import Row, fastest
from speed.pictures import write_pictures

NAMES = ("reading-shards", "reading-ahead")
BATCH, SIDE = 16, 64


def rows(full: bool) -> Iterator[Row]:
    count, rounds = (192, 3) if full else (48, 2)
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        folder = Path(name)
        files = sorted(write_pictures(folder / "pictures", count).parent.glob("*.jpg"))
        per = len(files) // 4
        for shard in range(4):
            with tarfile.open(folder / f"{shard}.tar", "w") as tar:
                for file in files[shard * per : (shard + 1) * per]:
                    tar.add(file, file.name)
        source = WebdatasetSource(
            WebdatasetConfig(type="webdataset", path=str(folder / "*.tar"), captions=None, index=str(folder / "index"))
        )
        yield _shards(source, files, 10 * rounds)
        yield _ahead(source, rounds)


def _shards(source: WebdatasetSource, files: list[Path], rounds: int) -> Row:
    """Images in an epoch's order, opened and not decoded."""
    order = epoch_order(len(source), 0, 0, source.blocks()).tolist()

    def ours() -> None:
        for row in order:
            source.media(row)

    def bare() -> None:
        for row in order:
            files[row].read_bytes()

    seconds = fastest({"ours": ours, "bare": bare}, rounds)
    return Row(
        name="reading-shards", unit="images", rate=len(order) / seconds["ours"],
        rate_of="webdataset's media, in the order of an epoch: found in the index, read, its header looked at",
        other=len(order) / seconds["bare"], other_of="Path.read_bytes of the same images as files", goal=None,
        rounds=rounds, limit="both from the page cache; looking at a JPEG's header is most of the difference",
        more={"bytes an image": sum(file.stat().st_size for file in files) // len(files)},
    )  # fmt: skip


def _ahead(source: WebdatasetSource, rounds: int) -> Row:
    """Steps that take a device as long as reading their images does."""
    keys, steps = source.keys(), len(source) // BATCH
    kept, training_media.KEPT_BYTES = training_media.KEPT_BYTES, 0  # so few would be kept in memory
    found: dict[int, Any] = {}

    begun = time.perf_counter()
    for row in range(2 * BATCH):
        _pixels(source, row)
    busy = (time.perf_counter() - begun) / 2

    def trained(workers: int) -> None:
        net, fitting = torch.nn.Linear(SIDE, 1), MemoryFitting()
        for value in net.parameters():
            torch.nn.init.ones_(value)
        media = Media(len(keys), lambda row: _pixels(source, row), fitting, "images", workers=workers)

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = net(media.batch(rows).float() / 255).square().mean()
            time.sleep(busy)
            return values

        train(
            "net", modules={"net": net}, optimiser=torch.optim.AdamW(net.parameters(), lr=1e-4),
            batches=Batches(len(keys), BATCH, 0, source.blocks()), steps=steps, loss=loss, fitting=fitting, media=media,
        )  # fmt: skip
        found[workers] = [value.clone() for value in net.state_dict().values()]

    try:
        ways = {"ahead": lambda: trained(1), "waiting": lambda: trained(0)}
        seconds = fastest(ways, rounds)
    finally:
        training_media.KEPT_BYTES = kept
    images = steps * BATCH
    differ = sum(not torch.equal(one, other) for one, other in zip(found[0], found[1], strict=True))
    return Row(
        name="reading-ahead", unit="images", rate=images / seconds["ahead"],
        rate_of=f"training steps of {BATCH} images from shards, one worker reading ahead",
        other=images / seconds["waiting"], other_of="the same steps, each image read when it is wanted", goal=1.5,
        rounds=rounds, limit="2, but for the first batch, which is waited for",
        more={"a step's wait": f"{busy:.3f} s", "weights that differ": f"{differ} of {len(found[0])}"},
    )  # fmt: skip


def _pixels(source: WebdatasetSource, row: int) -> torch.Tensor:
    image = load_image(source.media(row)).resize((SIDE, SIDE))
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(SIDE, SIDE, 3).permute(2, 0, 1)
