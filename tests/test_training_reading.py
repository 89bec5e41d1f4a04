"""Training media read ahead by worker processes: the same bytes, weights and errors; and orders in blocks."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import get_worker_info

from modbridge import training_media
from modbridge.distributed import World
from modbridge.errors import DataError, PluginError, SetupError
from modbridge.interfaces import Source, SourceConfig
from modbridge.testing import MemoryFitting
from modbridge.testing.fitting import Interrupted
from modbridge.training import WINDOW, Batches, Media, epoch_order, train

COUNT, STEPS = 24, 14


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """No media fit into what is kept, so that all are read."""
    monkeypatch.setattr(training_media, "KEPT_BYTES", 0)


def two_views(log: Path, row: int) -> tuple[torch.Tensor, ...]:
    """A row as two tensors; who made it is written down."""
    with log.open("a") as file:
        file.write(f"{os.getpid()} {row}\n")
    return torch.tensor([float(row), row / 7]), torch.tensor([row], dtype=torch.uint8)


def read(log: Path) -> list[tuple[int, int]]:
    """(process, row) of all that was prepared."""
    return [(int(pid), int(row)) for pid, row in (line.split() for line in log.read_text().splitlines())]


def fitted(
    prepare: Callable[[int], Any], workers: int, fitting: MemoryFitting | None = None, **more: Any
) -> tuple[torch.nn.Module, list[list[int]]]:
    """A net trained on what `prepare` gives, and the rows that its loss saw."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 1))
    fitting = fitting or MemoryFitting(seed=5)
    media: Media[Any] = Media(COUNT, prepare, fitting, "pictures", workers=workers)
    seen: list[list[int]] = []

    def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
        x, y = media.batch(rows)
        assert y[:, 0].tolist() == rows.tolist()
        seen.append(rows.tolist())
        found: torch.Tensor = (net(x)[:, 0] - y[:, 0].float()).square().mean()
        return found

    optimiser = torch.optim.Adam(net.parameters(), lr=0.01)
    batches = Batches(COUNT, 5, 3)
    train("net", modules={"net": net}, optimiser=optimiser, batches=batches, steps=STEPS, loss=loss, fitting=fitting,
          media=media, **more)  # fmt: skip
    return net, seen


def equal(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_no_byte(tmp_path: Path, workers: int) -> None:
    alone, seen = fitted(partial(two_views, tmp_path / "alone"), 0)
    net, also = fitted(partial(two_views, tmp_path / "ahead"), workers)
    assert equal(net, alone)
    assert also == seen == [rows.tolist() for _, _, rows in Batches(COUNT, 5, 3).rows(0, STEPS)]
    by = read(tmp_path / "ahead")[1:]  # but the first, which tells the shape
    assert len({pid for pid, _ in by}) == workers
    assert os.getpid() not in {pid for pid, _ in by}
    assert sorted(row for _, row in by) == sorted(row for rows in seen for row in rows)  # each read once


def test_training_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, seen = fitted(partial(two_views, tmp_path / "whole"), 0)
    fitting = MemoryFitting(seed=5, stop_after=6)
    with pytest.raises(Interrupted):
        fitted(partial(two_views, tmp_path / "half"), 2, fitting)
    net, rest = fitted(partial(two_views, tmp_path / "rest"), 2, fitting)
    assert equal(net, whole)
    assert rest == seen[6:]
    assert len(read(tmp_path / "rest")) == 1 + sum(len(rows) for rows in rest)  # nothing of the steps before is read


def test_what_is_kept_is_prepared_by_the_workers_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_media, "KEPT_BYTES", 2**20)
    alone, _ = fitted(partial(two_views, tmp_path / "alone"), 0)
    net, _ = fitted(partial(two_views, tmp_path / "ahead"), 2)
    assert equal(net, alone)
    assert sorted(row for _, row in read(tmp_path / "ahead")[1:]) == list(range(COUNT))
    assert os.getpid() not in {pid for pid, _ in read(tmp_path / "ahead")[1:]}


def test_each_process_reads_its_part() -> None:
    class Second(World):
        """The second of two processes; nobody is there to be talked to."""

        def __init__(self) -> None:
            super().__init__(rank=1, size=2)

        def first(self, make: Callable[[], Any]) -> Any:
            return make()

        def spread(self, tensors: Any) -> None:
            pass

        def combined(self, parameters: Any, step: Any) -> torch.Tensor:
            return step()[0].double() if step is not None else torch.zeros((), dtype=torch.float64)

    fitting = MemoryFitting(seed=5)
    fitting.world = Second()
    _, seen = fitted(lambda row: (torch.tensor([float(row), 0.0]), torch.tensor([row])), 2, fitting, split=True)
    assert seen == [rows[2:].tolist() for _, _, rows in Batches(COUNT, 5, 3).rows(0, STEPS)]


def test_what_cannot_be_read_is_told_as_without_workers() -> None:
    def broken(row: int) -> tuple[torch.Tensor, ...]:
        if row == 11:
            raise DataError("picture 11 is no picture.")
        return torch.zeros(2), torch.tensor([row])

    for workers in (0, 2):
        with pytest.raises(DataError) as told:
            fitted(broken, workers)
        assert str(told.value) == "picture 11 is no picture."


def test_a_mistake_of_ones_own_is_no_dead_process() -> None:
    def mistaken(row: int) -> tuple[torch.Tensor, ...]:
        if row == 11:
            raise ZeroDivisionError("of mine")
        return torch.zeros(2), torch.tensor([row])

    with pytest.raises(ZeroDivisionError, match="of mine"):
        fitted(mistaken, 1)


def test_a_reading_process_that_dies_is_told() -> None:
    def deadly(row: int) -> tuple[torch.Tensor, ...]:
        if row == 11 and get_worker_info() is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        return torch.zeros(2), torch.tensor([row])

    with pytest.raises(SetupError, match=r"read pictures ahead was ended .*fewer `workers`.*last checkpoint"):
        fitted(deadly, 1)


def test_other_rows_than_the_steps_are_refused() -> None:
    media = Media(COUNT, lambda row: torch.tensor([row]), MemoryFitting(), "pictures", workers=1)
    with media.ahead([[3, 1], [2, 0]]):
        assert media.batch(torch.tensor([3, 1])).tolist() == [[3], [1]]
        with pytest.raises(PluginError, match=r"media\.batch\(rows\) once"):
            media.batch(torch.tensor([0, 2]))
    assert media.batch(torch.tensor([0, 2])).tolist() == [[0], [2]]  # afterwards nothing is ahead


def test_global_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    fitted(lambda row: (torch.zeros(2), torch.tensor([row])), 1)
    assert torch.equal(torch.get_rng_state(), before)


# Blocks.


def runs(blocks: list[int], size: int) -> list[int]:
    """The number of each row's block."""
    return [max(number for number, start in enumerate(blocks) if start <= row) for row in range(size)]


def test_an_epoch_in_blocks_is_local_and_shuffled() -> None:
    blocks, size = [0, 7, 7 + 13, 40, *range(47, 200, 9)], 203
    of = runs(blocks, size)
    orders = [epoch_order(size, 1, epoch, blocks).tolist() for epoch in range(3)]
    for order in orders:
        assert sorted(order) == list(range(size))
        first = {block: min(at for at, row in enumerate(order) if of[row] == block) for block in set(of)}
        ranked = sorted(first, key=lambda block: first[block])
        # Windows of WINDOW blocks follow each other: what stands in one never stands in another.
        at = 0
        windows = []
        while at < size:
            window: set[int] = set()
            while at < size and (len(window) < WINDOW or of[order[at]] in window):
                window.add(of[order[at]])
                at += 1
            windows.append(window)
        assert sum(map(len, windows)) == len(blocks)
        assert ranked != sorted(ranked)
        inside = [row for row in order if of[row] in windows[0]]
        assert inside != sorted(inside)
        assert [of[row] for row in inside] != sorted((of[row] for row in inside), key=lambda b: first[b])
    assert orders[0] != orders[1] != orders[2]
    assert epoch_order(size, 1, 0, blocks).tolist() == orders[0]
    assert epoch_order(size, 2, 0, blocks).tolist() != orders[0]


def test_without_blocks_the_order_is_what_it_was() -> None:
    # As versions before blocks drew it: randperm of a generator seeded by blake2b of "order/3/1".
    expected = [9, 4, 0, 7, 3, 6, 5, 2, 8, 1]
    for blocks in ((), (0,)):
        assert epoch_order(10, 3, 1, blocks).tolist() == expected
        assert [rows.tolist() for _, _, rows in Batches(10, 5, 3, blocks).rows(2, 4)] == [expected[:5], expected[5:]]


def test_batches_in_blocks_go_on_anywhere() -> None:
    batches = Batches(30, 4, 3, (0, 10, 20))
    whole = [rows.tolist() for _, _, rows in batches.rows(0, 20)]
    assert [rows.tolist() for _, _, rows in batches.rows(9, 20)] == whole[9:]
    assert whole != [rows.tolist() for _, _, rows in Batches(30, 4, 3).rows(0, 20)]


class Numbers(Source[SourceConfig]):
    """Twelve items in blocks of one, four, one and six."""

    def keys(self) -> list[str]:
        return [str(row) for row in range(12)]

    def media(self, row: int) -> int:
        return row

    def texts(self, row: int) -> tuple[str, ...]:
        return ()

    def blocks(self) -> tuple[int, ...]:
        return (0, 1, 5, 6)

    def fingerprint(self) -> str:
        return "numbers"


def firsts(source: Source[Any], block_of: dict[int, int]) -> Iterator[int]:
    """The first rows of runs of one block, as the items themselves tell."""
    last = None
    for row in range(len(source)):
        if block_of[source.media(row)] != last:
            yield row
        last = block_of[source.media(row)]


def test_a_shard_has_the_blocks_of_its_rows() -> None:
    source = Numbers(SourceConfig(type="numbers"))
    block_of = dict(enumerate(runs([0, 1, 5, 6], 12)))
    for count in (1, 2, 3, 5, 12):
        for index in range(count):
            shard = source.shard(index, count)
            assert list(shard.blocks()) == list(firsts(shard, block_of)), (index, count)


@pytest.mark.parametrize("kept", [0, 2**30])
@pytest.mark.parametrize("workers", [0, 1])
def test_rows_may_share_a_medium(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, kept: int) -> None:
    monkeypatch.setattr(training_media, "KEPT_BYTES", kept)
    log = tmp_path / "log"
    fitting = MemoryFitting()
    media: Media[Any] = Media(3, partial(two_views, log), fitting, "pictures", workers=workers, of=[0, 0, 1, 2, 2])
    asked = [torch.tensor([1, 4, 3]), torch.tensor([0, 2, 1])]
    with media.ahead([rows.tolist() for rows in asked]):
        found = [media.batch(rows)[1][:, 0].tolist() for rows in asked]
    assert found == [[0, 2, 2], [0, 1, 0]]
    if kept:
        assert sorted(row for _, row in read(log)) == [0, 0, 1, 2]  # each once, after a first look at one
