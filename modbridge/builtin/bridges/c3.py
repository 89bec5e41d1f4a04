"""C3: connect (centre), collapse-proof by corruption, cross.

Training: t' = n(n(t) - mean_t + sigma eps), eps standard normal. Test: v' = n(n(v) - mean_v).
The noise goes on the centred vector before it is normalised again; sigma is a standard deviation per dimension.
Frame "text" (ours): both come back among raw text vectors as n(r z + mean_t), r the mean length of n(t) - mean_t.

Source: Zhang et al., "Connect, Collapse, Corrupt" (ICLR 2024), and the authors' code (image_captioning/run.py,
src/datasets/dataset_coco.py: --normalize_prefix --remove_mean --add_gaussian_noise --re_normalize_prefix). Means are
of unit vectors of the training split, each modality its own.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.config import C3Config
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import centre, unit
from modbridge.noise import Draw


class C3Bridge(StatisticsBridge[C3Config]):
    """Centres both modalities on their own means; adds Gaussian noise to text vectors in training only."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._ended(centre(x, self.statistic("source_mean")))

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = self.config.noise_std * draw.normal(x.shape[1]).to(x)
        return self._ended(unit(unit(x) - self.statistic("text_mean").to(x) + noise))

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        return [("encoded", x), ("bridged", self.in_text_frame(centre(x, self.statistic("source_mean"))))]

    def _ended(self, z: torch.Tensor) -> torch.Tensor:
        return self.in_text_frame(z) if self.config.frame == "text" else z
