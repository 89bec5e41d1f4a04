"""Mean shift: the gap is taken for one constant vector between the modalities, and taken away.

Text frame: v' = n(n(v) - mean_v + mean_t); texts stay as they are.
Centred frame: v' = n(n(v) - mean_v), t' = n(n(t) - mean_t).

Source: Liang et al., "Mind the gap" (NeurIPS 2022), section 5, which moves embeddings along the difference of the two
means; the centred form is C3's (ICLR 2024) "remove mean". Means are of unit vectors of the training split.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import MeanShiftConfig
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import centre, unit
from modbridge.noise import Draw


class MeanShiftBridge(StatisticsBridge[MeanShiftConfig]):
    """Takes the source mean away and, in the text frame, adds the text mean."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        if self.config.frame == "centred":
            return centre(x, self.statistic("source_mean"))
        return self._shifted(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return centre(x, self.statistic("text_mean")) if self.config.frame == "centred" else x

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        crossed = self.cross_vectors(x, draw)
        return [("encoded", x), ("bridged", self.in_text_frame(crossed) if self.config.frame == "centred" else crossed)]

    def _shifted(self, x: torch.Tensor) -> torch.Tensor:
        return unit(unit(x) + (self.statistic("text_mean") - self.statistic("source_mean")).to(x))
