"""Contrastive training of a dual encoder (Radford et al. 2021, figure 3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy, normalize

from modbridge.config.contrastive import TrainConfig
from modbridge.errors import DataError
from modbridge.interfaces.fitting import Fitting
from modbridge.noise import Draw
from modbridge.training import Batches, Media, train, warmup_then

_HIGHEST_SCALE = math.log(100.0)


@dataclass(frozen=True)
class Captions:
    """All captions as token ids (N, L); item i has rows `first[i]` to `first[i] + count[i]`."""

    tokens: torch.Tensor
    first: torch.Tensor
    count: torch.Tensor

    @classmethod
    def of(
        cls, texts: Sequence[tuple[str, ...]], keys: Sequence[str], tokenize: Callable[[str], torch.Tensor]
    ) -> Captions:
        """Raises DataError if an item has no caption."""
        bare = [key for key, captions in zip(keys, texts, strict=True) if not captions]
        if bare:
            raise DataError(
                f"{len(bare)} items have no caption ({', '.join(bare[:3])}): training a dual encoder takes pairs."
            )
        count = torch.tensor([len(captions) for captions in texts])
        tokens = torch.stack([tokenize(caption) for captions in texts for caption in captions])
        return cls(tokens, count.cumsum(0) - count, count)

    def drawn(self, rows: torch.Tensor, keys: Sequence[str], seed: int, epoch: int) -> torch.Tensor:
        """One caption of each of the items `rows`, drawn by (seed, epoch, key): (B, L)."""
        draw = Draw.of([keys[row] for row in rows.tolist()], seed, epoch).named("caption")
        chosen = (draw.uniform(1)[:, 0] * self.count[rows]).long().clamp(max=self.count[rows] - 1)
        return self.tokens[self.first[rows] + chosen]


def train_dual_encoder(
    label: str,
    network: torch.nn.Module,
    *,
    encode_media: Callable[[torch.Tensor], torch.Tensor],
    encode_text: Callable[[torch.Tensor], torch.Tensor],
    logit_scale: torch.nn.Parameter,
    media: Media[torch.Tensor],
    captions: Captions,
    keys: Sequence[str],
    config: TrainConfig,
    fitting: Fitting,
    device: torch.device,
    blocks: Sequence[int] = (),
) -> None:
    """Train `network`, which stands on `device`, in place: every item against every caption of its batch, both ways.

    `encode_media` and `encode_text` give a batch's vectors (B, D), of any norm; `logit_scale` is the network's own
    parameter, the logarithm of the factor on cosines; `blocks` are the source's. AdamW with betas (0.9, 0.98) and
    epsilon 1e-6, no decay on biases, gains and the scale; cosine schedule.
    """
    if len(keys) < 2:
        raise DataError(f"found {len(keys)} training items; contrastive training needs at least two.")
    fixed = config.logit_scale if not isinstance(config.logit_scale, str) else None
    if fixed is not None:
        with torch.no_grad():
            logit_scale.fill_(math.log(fixed))
    trained = [p for p in network.parameters() if fixed is None or p is not logit_scale]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=config.lr,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    batches = Batches(len(keys), config.batch_size, fitting.seed, blocks)
    steps = batches.steps(config.epochs)

    def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
        if fixed is None:
            with torch.no_grad():
                logit_scale.clamp_(max=_HIGHEST_SCALE)  # as CLIP does: 100 at most
        one = normalize(encode_media(media.batch(rows).to(device)), dim=-1)
        text = normalize(encode_text(captions.drawn(rows, keys, fitting.seed, epoch).to(device)), dim=-1)
        scale = fixed if fixed is not None else logit_scale.exp()
        logits = scale * one @ text.T
        pairs = torch.arange(len(rows), device=device)
        return (cross_entropy(logits, pairs) + cross_entropy(logits.T, pairs)) / 2

    train(
        label,
        modules={"network": network},
        optimiser=optimiser,
        batches=batches,
        steps=steps,
        loss=loss,
        fitting=fitting,
        schedule=warmup_then("cosine", min(config.warmup, steps // 2), steps),
        media=media,
    )
