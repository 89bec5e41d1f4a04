"""The one training loop: every trained part goes through it, so that resuming, clipping and progress are alike.

Every step is a pure function of (weights, seed, step): data order, noise and dropout are drawn from them, so a run that
was killed and goes on from its last checkpoint ends with the same bytes as an undisturbed one. Where several processes
train together (`modbridge.distributed`), they divide the rows of every batch; weights, checkpoints and logs are those
of the whole batch, and say nothing of how many there were.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel

from modbridge.distributed import Share, World
from modbridge.errors import DataError, SetupError
from modbridge.interfaces.fitting import Fitting, WeightsJudge
from modbridge.training_media import Media

__all__ = ["Batches", "Media", "Share", "derived_seed", "epoch_order", "train", "warmup_then"]


WINDOW = 8  # blocks whose rows are shuffled together; as many row groups of a table are held


def derived_seed(*parts: object) -> int:
    """A seed for one purpose, from a run's seed and what it is for."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest(), "little")


def epoch_order(size: int, seed: int, epoch: int, blocks: Sequence[int] = ()) -> torch.Tensor:
    """The order of `size` items in one epoch, int64 (size,).

    `blocks`: the first row of each of several runs of rows that lie together on disk (`Source.blocks`). Blocks are then
    shuffled, and their rows among those of the WINDOW blocks that stand together, so that what is read at a time lies
    in few places. With one block or none all rows are shuffled. Source: ours.
    """
    generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
    if len(blocks) < 2:
        return torch.randperm(size, generator=generator)
    ends = [*blocks[1:], size]
    order = torch.randperm(len(blocks), generator=generator).tolist()
    windows = []
    for at in range(0, len(order), WINDOW):
        rows = torch.cat([torch.arange(blocks[block], ends[block]) for block in order[at : at + WINDOW]])
        windows.append(rows[torch.randperm(len(rows), generator=generator)])
    return torch.cat(windows)


@dataclass(frozen=True, slots=True)
class Batches:
    """The rows of every training step: shuffled epochs of full batches (the last, short one is left out).

    A data set smaller than one batch gives batches of its own size. `blocks`: as `epoch_order` takes them.
    """

    size: int
    batch_size: int
    seed: int
    blocks: Sequence[int] = ()

    @property
    def width(self) -> int:
        return min(self.batch_size, self.size)

    @property
    def per_epoch(self) -> int:
        return self.size // self.width

    def steps(self, epochs: float) -> int:
        return max(1, math.ceil(epochs * self.per_epoch))

    def rows(self, start: int, stop: int) -> Iterator[tuple[int, int, torch.Tensor]]:
        """(step, epoch, rows) for the steps from `start` to `stop`."""
        order, at = torch.empty(0, dtype=torch.int64), -1
        for step in range(start, stop):
            epoch, index = divmod(step, self.per_epoch)
            if epoch != at:
                order, at = epoch_order(self.size, self.seed, epoch, self.blocks), epoch
            yield step, epoch, order[index * self.width : (index + 1) * self.width]


def warmup_then(decay: str, warmup: int, total: int) -> Callable[[int], float]:
    """A learning-rate multiplier by step: linear warm-up, then "constant", "linear" or "cosine" down to zero."""

    def multiplier(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        if decay == "constant":
            return 1.0
        done = min(1.0, (step - warmup) / max(1, total - warmup))
        return 1.0 - done if decay == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))

    return multiplier


def train(
    label: str,
    *,
    modules: Mapping[str, torch.nn.Module],
    optimiser: torch.optim.Optimizer,
    batches: Batches,
    steps: int,
    loss: Callable[[int, int, torch.Tensor], torch.Tensor | Share],
    fitting: Fitting,
    schedule: Callable[[int], float] = lambda step: 1.0,
    clip: float | None = None,
    averaged: AveragedModel | None = None,
    average_every: int = 1,
    log_every: int = 100,
    judge: WeightsJudge | None = None,
    split: bool = False,
    media: Media[Any] | None = None,
) -> float:
    """Take `steps` optimiser steps on `loss(step, epoch, rows)`; gives the last logged loss.

    `split`: whether several processes may divide the rows of a batch: its loss is then the mean of its rows' losses,
    or `loss` gives a `Share`. One that looks across the rows of a batch (a contrastive loss) cannot be divided; process
    0 then trains alone, and the others are given its weights. With `split`, dropout is drawn anew in each process, so
    that the number of processes changes its draws; all else is the same within rounding.

    `media`: what `loss` reads of its rows by `media.batch(rows)`, read ahead from here on by the processes that it has
    (`Media`). They read this process's part of each batch.

    Goes on from the last checkpoint if there is one. With a `judge` (a decoder hands on `fitting.judge`) the weights
    are judged every `judge.every` epochs and after the last step; the best ones, the first among equals, are put back
    at the end, those of `averaged` with them.

    Raises DataError, naming the step, when the loss stops being finite: on a CPU before the weights are touched by it.
    Elsewhere the losses of up to `log_every` steps are looked at together, because each look waits for the device; but
    always before a checkpoint is written or weights are judged, so that nothing spoiled is kept. Raises DataError also
    when the judge gives no finite number.
    """
    world = fitting.world
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    base_rates = [group["lr"] for group in optimiser.param_groups]
    kept: dict[str, torch.nn.Module] = dict(modules)
    if averaged is not None:
        kept["averaged"] = averaged
    if world.size > 1 and not split:
        alone = partial(
            train,
            label,
            modules=modules,
            optimiser=optimiser,
            batches=batches,
            steps=steps,
            loss=loss,
            fitting=fitting,
            schedule=schedule,
            clip=clip,
            averaged=averaged,
            average_every=average_every,
            log_every=log_every,
            judge=judge,
            media=media,
        )
        last = world.first(alone)
        _spread(world, kept)
        for module in kept.values():
            module.eval()
        return last
    start, last = 0, math.nan
    losses = _Losses(label)
    choice = None if judge is None else _Choice(label, judge, batches.per_epoch, kept, world)

    restored = fitting.restore(label)
    if restored is not None:
        for name, module in kept.items():
            module.load_state_dict(restored["modules"][name])
        optimiser.load_state_dict(restored["optimiser"])
        start, losses.sum, last = restored["step"], restored["running"], restored["last"]
        if choice is not None:
            choice.best = restored.get("best")  # checkpoints of older versions have none
    if world.first(lambda: start) != start:
        raise SetupError(
            f"{label}: this process does not see the checkpoint that another one goes on from. The cache must be a "
            f"folder that all processes share."
        )
    _spread(world, kept)

    for module in modules.values():
        module.train()
    parts = (world.mine(rows).tolist() for _, _, rows in batches.rows(start, steps))
    pin = parameters[0].device.type == "cuda"
    ahead = nullcontext() if media is None else media.ahead(filter(None, parts), pin=pin)
    # One fork for the whole loop: the generators of every device are afterwards as they were.
    with fitting.progress(label, steps, start) as progress, torch.random.fork_rng(), ahead:
        for step, epoch, rows in batches.rows(start, steps):
            rate = schedule(step)
            for group, base in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = base * rate
            own = () if world.size == 1 else (world.rank,)
            torch.manual_seed(derived_seed("dropout", fitting.seed, label, step, *own))
            optimiser.zero_grad(set_to_none=True)
            losses.add(step, _backward(world, parameters, world.mine(rows), partial(loss, step, epoch)))
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            done = step + 1
            if averaged is not None and done % average_every == 0:
                averaged.update_parameters(next(iter(modules.values())))
            if done % log_every == 0 or done == steps:
                last = losses.take() / (step % log_every + 1)
                fitting.log(fit=label, step=done, loss=last, lr=base_rates[0] * rate)
            if choice is not None and (done % choice.every == 0 or done == steps):
                losses.look()
                judged = choice.look(done)
                fitting.log(fit=label, step=done, select=choice.judge.name, value=judged, best_step=choice.step)
            progress.advance(note=f"loss {last:.4f}" if math.isfinite(last) else "")

            def state(done: int = done, last: float = last) -> dict[str, object]:
                losses.look()
                return {
                    "modules": {name: module.state_dict() for name, module in kept.items()},
                    "optimiser": optimiser.state_dict(),
                    "step": done,
                    "running": losses.sum,
                    "last": last,
                    "best": None if choice is None else choice.best,
                }

            fitting.checkpoint(label, state)
    if choice is not None:
        choice.put_back()
    for module in kept.values():
        module.eval()
    return last


def _spread(world: World, modules: Mapping[str, torch.nn.Module]) -> None:
    """Give every process the state that the modules of process 0 have."""
    world.spread(tensor for module in modules.values() for tensor in module.state_dict().values())


def _backward(
    world: World,
    parameters: Sequence[torch.nn.Parameter],
    rows: torch.Tensor,
    loss: Callable[[torch.Tensor], torch.Tensor | Share],
) -> torch.Tensor:
    """The loss of a whole batch, whose gradients are left with the parameters; `rows` are this process's part of it."""

    def step() -> tuple[torch.Tensor, torch.Tensor | int]:
        value = loss(rows)
        mean, count = (value.mean, value.count) if isinstance(value, Share) else (value, len(rows))
        mean.backward()  # type: ignore[no-untyped-call]
        return mean.detach(), count

    return step()[0] if world.size == 1 else world.combined(parameters, step if len(rows) else None)


class _Losses:
    """The losses since the last log line, and whether all were finite. `sum`: of those that were looked at.

    They wait on the device until somebody looks. On a CPU there is nothing to wait for, so each is looked at when it is
    added.
    """

    def __init__(self, label: str) -> None:
        self.label, self.sum = label, 0.0
        self._waiting: list[tuple[int, torch.Tensor]] = []

    def add(self, step: int, value: torch.Tensor) -> None:
        self._waiting.append((step, value.detach()))
        if value.device.type == "cpu":
            self.look()

    def look(self) -> None:
        """Raise DataError if a loss was not finite."""
        if not self._waiting:
            return
        steps, values = zip(*self._waiting, strict=True)
        self._waiting = []
        for step, value in zip(steps, torch.stack(values).tolist(), strict=True):
            if not math.isfinite(value):
                raise DataError(
                    f"{self.label}: the loss became {value} at step {step}. Lower the learning rate, or look for "
                    f"broken vectors in the training data."
                )
            self.sum += value

    def take(self) -> float:
        """The sum of all, which begins anew."""
        self.look()
        found, self.sum = self.sum, 0.0
        return found


class _Choice:
    """The best weights so far: `best` holds their "value", their "step", and their state by "modules"."""

    def __init__(
        self, label: str, judge: WeightsJudge, per_epoch: int, modules: Mapping[str, torch.nn.Module], world: World
    ) -> None:
        self.label, self.judge, self.modules, self.world = label, judge, modules, world
        self.every = max(1, round(judge.every * per_epoch))
        self.best: dict[str, Any] | None = None

    @property
    def step(self) -> int:
        """After how many steps the best weights were there; 0 before any were judged."""
        return self.best["step"] if self.best else 0

    def look(self, step: int) -> float:
        """What the judge says of the present weights, which are kept if they are the best."""
        for module in self.modules.values():
            module.eval()
        with torch.no_grad():
            value = self.world.first(lambda: float(self.judge.measure()))
        for module in self.modules.values():
            module.train()
        if not math.isfinite(value):
            raise DataError(
                f"{self.label}: {self.judge.name} became {value} at step {step}, so that no weights can be chosen by "
                f"it. Look for broken vectors in the validation data, or keep the last weights."
            )
        if self.best is None or self._better(value, self.best["value"]):
            # In the CPU's memory: a language model twice on a GPU could be once too often.
            states = {
                name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in module.state_dict().items()}
                for name, module in self.modules.items()
            }
            self.best = {"value": value, "step": step, "modules": states}
        return value

    def _better(self, one: float, other: float) -> bool:
        return one > other if self.judge.higher_is_better else one < other

    def put_back(self) -> None:
        """Give the modules their best weights."""
        if self.best is not None:
            for name, module in self.modules.items():
                module.load_state_dict(self.best["modules"][name])
