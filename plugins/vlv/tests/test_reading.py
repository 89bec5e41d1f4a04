"""Images read ahead in training: the same weights, each image read once for teacher and encoder."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_vlv.plugin import TINY_TEACHER, TINY_VIT

from modbridge import training_media
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ConfigError
from modbridge.interfaces import Source
from modbridge.testing import MemoryFitting, build, build_config
from modbridge.training import Batches, derived_seed

STEPS, BATCH = 4, 3


class Watched(Source[SourceConfig]):
    """Images that write down who asked for them."""

    def __init__(self, items: list[Any], log: Path) -> None:
        super().__init__(SourceConfig(type="toy"))
        self.items, self.log = items, log

    def keys(self) -> list[str]:
        return [str(row) for row in range(len(self.items))]

    def media(self, row: int) -> Any:
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {row}\n")
        return self.items[row]

    def texts(self, row: int) -> tuple[str, ...]:
        return (f"picture {row}",)

    def blocks(self) -> tuple[int, ...]:
        return (0, 2, 4)

    def fingerprint(self) -> str:
        return "watched"

    def asked(self) -> list[tuple[int, int]]:
        lines = (line.split() for line in self.log.read_text().splitlines())
        return [(int(pid), int(row)) for pid, row in lines]


def block(kind: str, folder: Path, workers: int) -> dict[str, Any]:
    train = {"steps": STEPS, "batch_size": BATCH, "lr": 1e-3}
    if kind == "objective":
        return {**TINY_TEACHER, "train": train, "workers": workers}
    teacher = {"type": "diffusion_teacher", "model": str(folder)}
    return {"type": "query_encoder", "backbone": TINY_VIT, "queries": 4, "layers": 1, "heads": 2, "train": train,
            "objective": teacher, "workers": workers}  # fmt: skip


@pytest.mark.parametrize(("kind", "label"), [("encoder", "query_encoder"), ("objective", "diffusion_teacher")])
def test_workers_change_no_byte_and_read_each_image_once(
    kind: str,
    label: str,
    model: Callable[..., Path],
    images: list[Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(training_media, "KEPT_BYTES", 0)
    batches = Batches(len(images), BATCH, derived_seed(label, 0), (0, 2, 4))
    expected = Counter(row for _, _, rows in batches.rows(0, STEPS) for row in rows.tolist())
    found = []
    for workers in (0, 2):
        part = build(kind, block(kind, model(), workers), ports={}, seed=0)
        source = Watched(images, tmp_path / str(workers))
        part.fit(source, MemoryFitting())
        found.append({f"{n}.{k}": v.clone() for n, m in part.modules().items() for k, v in m.state_dict().items()})
        asked = source.asked()[1:]  # but the first, which tells the shape
        assert Counter(row for _, row in asked) == expected
        assert (os.getpid() in {pid for pid, _ in asked}) == (workers == 0)
    one, other = found
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_workers_of_a_teacher_that_is_not_trained_are_refused(model: Callable[..., Path]) -> None:
    from modbridge.plugins.manager import Plugins

    with pytest.raises(ConfigError, match="workers: of a small model that the run trains"):
        build_config(
            "objective", {"type": "diffusion_teacher", "model": str(model()), "workers": 2}, Plugins.discover().registry
        )
