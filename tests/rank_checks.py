"""What `test_distributed.py` starts on two processes: checks of the combination, each against a whole batch computed in
one place; and, given a verb, that verb, stopped behind a checkpoint as if it had been killed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from modbridge import training_media
from modbridge.distributed import Elsewhere, World
from modbridge.errors import DataError
from modbridge.interfaces.fitting import WeightsJudge
from modbridge.testing.fitting import MemoryFitting
from modbridge.training import Batches, Media, Share, train

X = torch.randn(23, 4, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(23) % 5  # how many of a row's four numbers count; of some none


class Net(torch.nn.Module):
    """`unused` is in no loss, `rare` in that of a few rows only."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.linear, self.rare = torch.nn.Linear(4, 4), torch.nn.Parameter(torch.ones(4))
            self.unused = torch.nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.linear(x)
        few = (rows > 18)[:, None]
        return torch.where(few, out * self.rare, out) if bool(few.any()) else out


def fitted(world: World, loss: str, batch_size: int, *, split: bool = True, **more: Any) -> tuple[Net, Any, list[Any]]:
    """A net trained for a few steps, its optimiser, and the log."""
    net = Net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.05)
    fitting = MemoryFitting(seed=3)
    fitting.world = world

    def of(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor | Share:
        errors = (net(X[rows], rows) - X[rows].flip(1)).square()
        if loss == "mean":
            return errors.mean()
        if loss == "across":
            return (errors.mean(1)[:, None] - errors.mean(1)[None, :]).square().mean() + errors.mean()
        counted = (torch.arange(4) < TOKENS[rows][:, None]).float()
        return Share((errors * counted).sum(), counted.sum())

    batches = Batches(len(X), batch_size, 3)
    last = train("net", modules={"net": net}, optimiser=optimiser, batches=batches, steps=9, loss=of, fitting=fitting,
                 clip=0.5, log_every=3, split=split, **more)  # fmt: skip
    return net, optimiser, [*(line["loss"] for line in fitting.logged if "loss" in line), last]


def same(one: tuple[Net, Any, list[Any]], other: tuple[Net, Any, list[Any]], tolerance: float) -> None:
    for (name, a), (_, b) in zip(one[0].state_dict().items(), other[0].state_dict().items(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance, msg=lambda m, name=name: f"{name}: {m}")
    assert one[1].state_dict()["state"].keys() == other[1].state_dict()["state"].keys()  # none for what has no gradient
    torch.testing.assert_close(torch.tensor(one[2]), torch.tensor(other[2]), rtol=1e-5, atol=1e-6)


def check_gradients_are_those_of_the_whole_batch(world: World) -> None:
    for loss in ("mean", "tokens"):
        for batch_size in (1, 7, 8):  # fewer rows than processes, an uneven part, an even one
            same(fitted(world, loss, batch_size), fitted(World(), loss, batch_size), 1e-5)


def check_a_loss_across_rows_is_not_divided(world: World) -> None:
    together, alone = fitted(world, "across", 8, split=False), fitted(World(), "across", 8)
    for name, value in together[0].state_dict().items():
        assert torch.equal(value, alone[0].state_dict()[name]), name
    assert together[2][-1] == alone[2][-1]


def check_all_choose_the_same_weights(world: World) -> None:
    values = iter([3.0, 1.0, 2.0, 5.0, 5.0, 5.0] if world.main else [])
    alone = iter([3.0, 1.0, 2.0, 5.0, 5.0, 5.0])
    two = fitted(world, "mean", 7, judge=WeightsJudge("toy", lambda: next(values)))
    same(two, fitted(World(), "mean", 7, judge=WeightsJudge("toy", lambda: next(alone))), 1e-5)


def check_processes_begin_alike(world: World) -> None:
    net, mine = Net(), torch.full((2, 3), float(world.rank)).T
    world.spread([*net.state_dict().values(), mine, torch.tensor(True), torch.zeros(0)])
    assert mine.eq(0).all()


def check_what_the_first_does_alone(world: World) -> None:
    assert world.size == 2
    seen = world.first(lambda: (os.getpid(), world.size, world.solo))
    assert seen[1:] == (1, True)
    assert (seen[0] == os.getpid()) == world.main
    assert (world.size, world.solo) == (2, False)


def check_an_error_is_everybodys(world: World) -> None:
    def fails(where: int) -> Callable[..., Any]:
        def step() -> Any:
            if world.rank == where:
                raise DataError("this row is broken")
            p.grad = torch.ones(2)
            return torch.tensor(1.0), 1

        return step

    p = torch.nn.Parameter(torch.zeros(2))
    for where in (0, 1):
        with pytest.raises(DataError if world.rank == where else Elsewhere, match="this row is broken") as told:
            world.combined([p], fails(where))
        assert told.value.exit_code == 1
    with pytest.raises(ZeroDivisionError if world.main else Elsewhere):
        world.first(lambda: 1 // 0)
    assert world.say("heard" if world.main else None) == "heard"  # and they still understand each other


def check_a_loss_that_is_not_finite_stops_all(world: World) -> None:
    bad = X.clone()
    net = Net()
    fitting = MemoryFitting()
    fitting.world = world

    def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
        whole = net(bad[rows], rows).square().mean()
        return whole * float("nan") if step == 2 and not world.main else whole

    batches = Batches(len(X), 8, 0)
    before: list[torch.Tensor] = []
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1)
    optimiser.register_step_post_hook(lambda *_: before.append(net.linear.weight.detach().clone()))
    with pytest.raises(DataError, match="nan at step 2"):
        train("net", modules={"net": net}, optimiser=optimiser, batches=batches, steps=5, loss=loss, fitting=fitting,
              split=True)  # fmt: skip
    assert len(before) == 2
    assert torch.equal(net.linear.weight, before[-1])


def check_each_reads_its_part_ahead(world: World) -> None:
    kept, training_media.KEPT_BYTES = training_media.KEPT_BYTES, 0  # so little would be kept in memory

    def read(of: World, workers: int) -> tuple[torch.Tensor, list[int]]:
        net, seen, fitting = Net(), [], MemoryFitting(seed=3)
        fitting.world = of
        media = Media(len(X), lambda row: X[row], fitting, "numbers", workers=workers)

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            seen.extend(rows.tolist())
            return (net(media.batch(rows), rows) - X[rows].flip(1)).square().mean()

        optimiser, batches = torch.optim.AdamW(net.parameters(), lr=0.05), Batches(len(X), 7, 3, (0, 5, 9))
        train("net", modules={"net": net}, optimiser=optimiser, batches=batches, steps=9, loss=loss, fitting=fitting,
              split=True, media=media)  # fmt: skip
        return net.linear.weight.detach(), seen

    try:
        (two, mine), (one, every) = read(world, 2), read(World(), 0)
    finally:
        training_media.KEPT_BYTES = kept
    torch.testing.assert_close(two, one, rtol=0, atol=1e-5)
    steps = [every[at : at + 7] for at in range(0, len(every), 7)]
    assert mine == [row for rows in steps for row in (rows[:3] if world.main else rows[3:])]


def verb(stop_after: int, arguments: list[str]) -> int:
    """The command line, whose first process dies behind that many checkpoints of a decoder."""
    from modbridge.assembly.session import StageFitting
    from modbridge.cli import main

    checkpoint, count = StageFitting.checkpoint, [0]

    def counted(self: StageFitting, name: str, state: Any, *, force: bool = False) -> None:
        checkpoint(self, name, state, force=force)
        if name == "prefix_lm" and self.world.main:
            count[0] += 1
            if count[0] == stop_after:
                os._exit(9)

    StageFitting.checkpoint = counted  # type: ignore[method-assign]
    return main(arguments)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(verb(int(sys.argv[1]), sys.argv[2:]))
    torch.set_num_threads(1)
    found = World.of_launch("cpu")
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            check(found)
            if found.main:
                print(name, flush=True)
    found.close()
    os._exit(0)  # as the command line does: the connection's threads may trip over an interpreter's end
