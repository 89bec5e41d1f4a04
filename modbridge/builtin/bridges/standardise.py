"""Per-dimension standardisation: every dimension of one modality gets the mean and the deviation of the other's.

x' = n((n(x) - mean_x) / std_x * std_y + mean_y), dimension by dimension.
    to_text    x are source vectors, carried over at test; texts stay as they are. The classical use (ours here).
    to_source  x are text vectors in training, n(v) at test: TOMCap's direction.

A dimension of x that never varies has no deviation to divide by: it is only shifted, x - mean_x + mean_y (ours).

Source: to_source after TOMCap (arXiv 2512.04309), known to us second-hand, which adds noise and retrieval; a chain of
this and `capdec` adds the noise. Deviations divide by N (ours). Both are of unit vectors of the training split, in
float64.

Needs text vectors and unpaired source vectors, at least two of each.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import StandardiseConfig
from modbridge.builtin.bridges.moments import Moments
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw

CONSTANT = 1e-7
"""A dimension of unit vectors that deviates by less than this, the rounding of float32, is taken not to vary."""


class StandardiseBridge(StatisticsBridge[StandardiseConfig]):
    """Moves and stretches each dimension on its own."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return dict.fromkeys(("text_mean", "text_std", "source_mean", "source_std"), (self.context.dim(),))

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Takes both modalities' means and deviations; logs how many dimensions do not vary."""
        sides = {"text": data.text, "source": data.require_source(self.who)}
        self._values = {}
        for side, vectors in sides.items():
            moments = Moments.of(vectors, self.who)
            self._values |= {f"{side}_mean": moments.mean, f"{side}_std": moments.std}
            constant = int((moments.std < CONSTANT).sum())
            if constant:
                note = f"{constant} dimensions of the {side} vectors do not vary; from there they are only shifted"
                fitting.log(fit="standardise", side=side, constant_dimensions=constant, note=note)

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._moved(x, "source", "text") if self.config.direction == "to_text" else unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._moved(x, "text", "source") if self.config.direction == "to_source" else x

    def _moved(self, x: torch.Tensor, start: str, end: str) -> torch.Tensor:
        before, after = self.statistic(f"{start}_std"), self.statistic(f"{end}_std")
        stretch = torch.where(before < CONSTANT, 1.0, after / before)
        z = (unit(x) - self.statistic(f"{start}_mean").to(x)) * stretch.to(x)
        return unit(z + self.statistic(f"{end}_mean").to(x))
