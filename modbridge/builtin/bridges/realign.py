"""ReAlign: one modality's cloud moved onto the other's, stretched to its size, and moved once more on the sphere.

Training (to_source, the authors' direction), with s = sqrt(tr cov_v / tr cov_t):
    t1 = n((n(t) - mean_t) s + mean_v)        anchor and trace alignment
    t' = n(t1 - mean_1 + mean_v)              mean_1 = the mean of t1 over the training texts
Test: n(v). Normalising t1 moves its mean off mean_v; the second shift puts it back before the last normalisation.
to_text (ours) is the mirror: the same map from source to text vectors at test, texts as they are.

Source: ReAlign / ReVision (arXiv 2602.07026) and the authors' code (Yu-xm/ReVision, embed_ReAlign.py), known to us
second-hand, which streams in float64. Here mean and trace take two passes over each modality, mean_1 a third over the
moved one, a chunk at a time. Covariances divide by N (ours). All statistics are of unit vectors of the training split.

Needs text vectors and unpaired source vectors, at least two of each.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import RealignConfig
from modbridge.builtin.bridges.moments import Moments, unit_chunks
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.errors import DataError
from modbridge.geometry import unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw


class RealignBridge(StatisticsBridge[RealignConfig]):
    """Centres, scales by one number, moves, normalises, and corrects the mean."""

    kept = ("start_mean", "end_mean", "scale", "moved_mean")

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """`start` is the modality that is moved, `end` the one it is moved to."""
        sides = [data.text, data.require_source(self.who)]
        start, end = sides if self.config.direction == "to_source" else sides[::-1]
        before, after = Moments.of(start, self.who), Moments.of(end, self.who)
        for vectors, moments in ((start, before), (end, after)):
            # Below, float64 sums of unit vectors are rounding alone.
            if moments.trace < 1e-14:
                raise DataError(
                    f"{self.who} sets the spread of two modalities equal, but all {len(vectors)} "
                    f"{vectors.port.modality} vectors have one direction. Fit it on vectors that differ."
                )
        self._values = {"start_mean": before.mean, "end_mean": after.mean, "scale": (after.trace / before.trace).sqrt()}
        total = torch.zeros_like(before.mean)
        for part in unit_chunks(start.values):
            total += self._aligned(part).sum(dim=0)
        self._values["moved_mean"] = total / before.count

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._moved(x) if self.config.direction == "to_text" else unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._moved(x) if self.config.direction == "to_source" else x

    def _aligned(self, x: torch.Tensor) -> torch.Tensor:
        centred = unit(x) - self.statistic("start_mean").to(x)
        return unit(centred * self.statistic("scale").to(x) + self.statistic("end_mean").to(x))

    def _moved(self, x: torch.Tensor) -> torch.Tensor:
        return unit(self._aligned(x) + (self.statistic("end_mean") - self.statistic("moved_mean")).to(x))
