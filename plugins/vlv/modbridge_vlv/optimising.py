"""Training steps on a source's items, each with the random numbers of its own key."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from modbridge.errors import DataError
from modbridge.interfaces.fitting import Fitting
from modbridge.noise import Draw
from modbridge.training import Batches, Media, derived_seed, train, warmup_then
from modbridge_vlv.training_config import TrainConfig

Loss = Callable[[Sequence[int], Draw], torch.Tensor]
"""The loss (B,) of each of the items in these rows."""

_BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)


def optimise(
    label: str,
    modules: Mapping[str, torch.nn.Module],
    keys: Sequence[str],
    loss: Loss,
    config: TrainConfig,
    fitting: Fitting,
    device: torch.device,
    *,
    blocks: Sequence[int] = (),
    media: Media[Any] | None = None,
) -> None:
    """Train in place those parameters of `modules` that require gradients; each item has its own loss, so several
    processes can divide a batch. Batch normalisation would make it depend on the others: it stays in evaluation mode,
    with the mean and variance that it came with (0 and 1 in a network drawn from nothing), its weights trained.

    What is drawn for an item follows from the run's seed, `label`, the epoch and its key, so that a teacher and the
    encoder that it teaches draw nothing alike. `blocks` are the source's; `media` is what `loss` reads, if it is to be
    read ahead.

    Raises DataError if there are no items.
    """
    if not keys:
        raise DataError(f"{label}: there are no images to be trained on.")
    optimiser = torch.optim.AdamW(
        [p for module in modules.values() for p in module.parameters() if p.requires_grad],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )

    seed = derived_seed(label, fitting.seed)
    norms = [part for module in modules.values() for part in module.modules() if isinstance(part, _BATCH_NORMS)]

    def step_loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
        for norm in norms:
            norm.eval()
        listed = rows.tolist()
        draw = Draw.of([keys[row] for row in listed], seed, epoch, device=device)
        return loss(listed, draw).mean()

    train(
        label,
        modules=modules,
        optimiser=optimiser,
        batches=Batches(len(keys), config.batch_size, seed, blocks),
        steps=config.steps,
        loss=step_loss,
        fitting=fitting,
        schedule=warmup_then(config.schedule, min(config.warmup, config.steps // 2), config.steps),
        clip=config.clip,
        split=True,
        media=media,
    )
