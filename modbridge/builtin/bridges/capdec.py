"""CapDec: the gap is taken for noise around a text vector, which the decoder learns to overlook.

Training: t' = n(n(t) + e). Test: n(v), nothing else.
    noise: gaussian      e = s eps, eps standard normal; s = `noise_std` is a standard deviation per dimension, so that
                         |e| is about s sqrt(D)
    noise: uniform_ball  e uniform in the ball of radius s: s u^(1/D) times a random direction, u uniform in (0, 1), so
                         that |e| is at most s; far less noise than `gaussian` at the same s
    modality_offset      t' = n(n(t) + e + mean_v - mean_t)

Source: Nukrai et al., "Text-only training for image captioning using noise-injected CLIP" (EMNLP Findings 2022), and
the authors' code (train.py, noise_injection; --noise_variance 0.016 of the README; its own default is 0, no noise).
There variance 0 returns the vector before it is normalised or offset; here noise_std 0 takes away the noise alone. The
authors' offset is a file's; here the means are of unit vectors of the training split.

Needs nothing; with `modality_offset`, text vectors and unpaired source vectors.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import CapDecConfig
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw


class CapDecBridge(StatisticsBridge[CapDecConfig]):
    """Adds noise, and if asked the way from the text mean to the source mean, to text vectors in training only."""

    kept = ("text_mean", "source_mean")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return super().shapes() if self.config.modality_offset else {}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Only the offset is learnt: the noise level is given, not estimated."""
        if self.config.modality_offset:
            super().fit(data, fitting)

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        moved = unit(x) + self._noise(draw, x.shape[1]).to(x)
        if self.config.modality_offset:
            moved = moved + (self.statistic("source_mean") - self.statistic("text_mean")).to(x)
        return unit(moved)

    def _noise(self, draw: Draw, dim: int) -> torch.Tensor:
        normal = draw.normal(dim)
        if self.config.noise == "gaussian":
            return self.config.noise_std * normal
        length: torch.Tensor = draw.named(f"{draw.purpose}/length").uniform(1) ** (1 / dim)
        direction = normal / normal.norm(dim=1, keepdim=True).clamp_min(torch.finfo(normal.dtype).tiny)
        found: torch.Tensor = self.config.noise_std * length * direction
        return found
