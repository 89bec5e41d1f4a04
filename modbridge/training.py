"""The one training loop: every trained part goes through it, so that resuming, clipping and progress are alike.

Every step is a pure function of (weights, seed, step): data order, noise and dropout are drawn from them, so a run that
was killed and goes on from its last checkpoint ends with the same bytes as an undisturbed one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch.optim.swa_utils import AveragedModel

from modbridge.errors import DataError
from modbridge.interfaces.fitting import Fitting


def derived_seed(*parts: object) -> int:
    """A seed for one purpose, from a run's seed and what it is for."""
    return int.from_bytes(hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=7).digest(), "little")


def epoch_order(size: int, seed: int, epoch: int) -> torch.Tensor:
    """The order of `size` items in one epoch, int64 (size,)."""
    generator = torch.Generator().manual_seed(derived_seed("order", seed, epoch))
    return torch.randperm(size, generator=generator)


@dataclass(frozen=True, slots=True)
class Batches:
    """The rows of every training step: shuffled epochs of full batches (the last, short one is left out).

    A data set smaller than one batch gives batches of its own size.
    """

    size: int
    batch_size: int
    seed: int

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
                order, at = epoch_order(self.size, self.seed, epoch), epoch
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
    loss: Callable[[int, int, torch.Tensor], torch.Tensor],
    fitting: Fitting,
    schedule: Callable[[int], float] = lambda step: 1.0,
    clip: float | None = None,
    averaged: AveragedModel | None = None,
    average_every: int = 1,
    log_every: int = 100,
) -> float:
    """Take `steps` optimiser steps on `loss(step, epoch, rows)`; gives the last logged loss.

    Goes on from the last checkpoint if there is one. Raises DataError when the loss stops being finite, before the
    weights are touched by it.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    base_rates = [group["lr"] for group in optimiser.param_groups]
    kept: dict[str, torch.nn.Module] = dict(modules)
    if averaged is not None:
        kept["averaged"] = averaged
    start, running, last = 0, 0.0, math.nan

    restored = fitting.restore(label)
    if restored is not None:
        for name, module in kept.items():
            module.load_state_dict(restored["modules"][name])
        optimiser.load_state_dict(restored["optimiser"])
        start, running, last = restored["step"], restored["running"], restored["last"]

    for module in modules.values():
        module.train()
    with fitting.progress(label, steps, start) as progress:
        for step, epoch, rows in batches.rows(start, steps):
            rate = schedule(step)
            for group, base in zip(optimiser.param_groups, base_rates, strict=True):
                group["lr"] = base * rate
            with torch.random.fork_rng():  # the generators of every device, and all as they were afterwards
                torch.manual_seed(derived_seed("dropout", fitting.seed, label, step))
                value = loss(step, epoch, rows)
            if not torch.isfinite(value):
                raise DataError(
                    f"{label}: the loss became {value.item()} at step {step}. Lower the learning rate, or look for "
                    f"broken vectors in the training data."
                )
            optimiser.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            if clip is not None:
                torch.nn.utils.clip_grad_norm_(parameters, clip)
            optimiser.step()
            if averaged is not None and (step + 1) % average_every == 0:
                averaged.update_parameters(next(iter(modules.values())))
            running += value.item()
            if (step + 1) % log_every == 0 or step + 1 == steps:
                last = running / (step % log_every + 1)
                running = 0.0
                fitting.log(fit=label, step=step + 1, loss=last, lr=base_rates[0] * rate)
            progress.advance(note=f"loss {last:.4f}" if math.isfinite(last) else "")

            def state(done: int = step + 1, running: float = running, last: float = last) -> dict[str, object]:
                return {
                    "modules": {name: module.state_dict() for name, module in kept.items()},
                    "optimiser": optimiser.state_dict(),
                    "step": done,
                    "running": running,
                    "last": last,
                }

            fitting.checkpoint(label, state)
    for module in modules.values():
        module.eval()
    return last
