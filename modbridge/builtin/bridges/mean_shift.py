"""Mean shift: the gap is taken for one constant vector between the modalities, and taken away.

Text frame, to_text: v' = n(n(v) - mean_v + mean_t); texts stay as they are.
Text frame, to_source: t' = n(n(t) - mean_t + mean_v) in training, n(v) at test.
Centred frame: v' = n(n(v) - mean_v), t' = n(n(t) - mean_t).

Source: Liang et al., "Mind the gap" (NeurIPS 2022), section 5, which moves embeddings along the difference of the two
means; to_source without noise is the offset of CapDec and of CLOSE; the centred form is C3's (ICLR 2024) "remove mean".
Means are of unit vectors of the training split.

Needs text vectors and unpaired source vectors.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import MeanShiftConfig
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import centre, unit
from modbridge.noise import Draw


class MeanShiftBridge(StatisticsBridge[MeanShiftConfig]):
    """Takes a modality's mean away and, in the text frame, adds the other's."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        if self.config.frame == "centred":
            return centre(x, self.statistic("source_mean"))
        return self._moved(x, "source_mean", "text_mean") if self.config.direction == "to_text" else unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        if self.config.frame == "centred":
            return centre(x, self.statistic("text_mean"))
        return self._moved(x, "text_mean", "source_mean") if self.config.direction == "to_source" else x

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        crossed = self.cross_vectors(x, draw)
        return [("encoded", x), ("bridged", self.in_text_frame(crossed) if self.config.frame == "centred" else crossed)]

    def _moved(self, x: torch.Tensor, start: str, end: str) -> torch.Tensor:
        return unit(unit(x) + (self.statistic(end) - self.statistic(start)).to(x))
