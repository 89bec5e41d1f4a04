"""The identity bridge: source vectors stand in for text vectors as they are. The baseline of every comparison."""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import IdentityConfig
from modbridge.interfaces import Bridge, FitData, Fitting
from modbridge.noise import Draw


class IdentityBridge(Bridge[IdentityConfig]):
    """v' = v; text vectors in training are untouched."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Nothing to learn."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x

    def augment_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x
