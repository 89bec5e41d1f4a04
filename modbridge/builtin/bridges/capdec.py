"""CapDec: the gap is taken for noise around a text vector, which the decoder learns to overlook.

Training: t' = n(n(t) + sigma eps), eps standard normal. Test: n(v), nothing else.

Source: Nukrai et al., "Text-only training for image captioning using noise-injected CLIP" (EMNLP Findings 2022), and
the authors' code (train.py, --noise_variance 0.016 of the README; its own default is 0, no noise).
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import CapDecConfig
from modbridge.geometry import unit
from modbridge.interfaces import Bridge, FitData, Fitting
from modbridge.noise import Draw


class CapDecBridge(Bridge[CapDecConfig]):
    """Adds Gaussian noise to text vectors in training only."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Nothing to learn: the noise level is given, not estimated."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(unit(x) + self.config.noise_std * draw.normal(x.shape[1]).to(x))
