"""Histogram matching, an old trick with pictures, on embeddings: optimal transport in each dimension by itself."""

from __future__ import annotations

import numpy as np
import torch
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting
from modbridge.noise import Draw
from torch.nn.functional import normalize

from colour_words.config import QuantileMatchConfig


class QuantileMatch(Bridge[QuantileMatchConfig]):
    """v'_d = Q_text,d(F_source,d(v_d)): F the distribution of training source vectors, Q the quantiles of texts. Of
    both the quantiles (D, Q) are kept, with straight lines between them."""

    def __init__(self, config: QuantileMatchConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.kept = {side: torch.zeros(context.dim(), config.quantiles) for side in ("source", "text")}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        levels = np.linspace(0, 1, self.config.quantiles)
        for side, vectors in (("source", data.require_source("quantile_match")), ("text", data.text)):
            found = np.quantile(normalize(vectors.values.cpu().double(), dim=1).numpy(), levels, axis=0)
            self.kept[side] = torch.from_numpy(found.T).float().contiguous()

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        columns, source, text = normalize(x, dim=1).T.contiguous(), self.kept["source"].to(x), self.kept["text"].to(x)
        above = torch.searchsorted(source, columns).clamp(1, self.config.quantiles - 1)
        low, high = source.gather(1, above - 1), source.gather(1, above)
        share = ((columns - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
        matched = torch.lerp(text.gather(1, above - 1), text.gather(1, above), share)
        return normalize(torch.lerp(columns, matched, self.config.strength).T, dim=1)

    def tensors(self) -> dict[str, torch.Tensor]:
        return self.kept

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.kept = tensors
