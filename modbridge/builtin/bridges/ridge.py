"""Ridge: the linear map of least squares from paired source vectors to their texts, held down by a penalty.

W = (V'V + l I)^-1 V'T; v' = n((n(v) - mean_v) W + mean_t). V and T hold the unit vectors of the pairs, each side less
its mean and not normalised again; l is added to the sum over pairs, not to the mean.

Source: Hoerl and Kennard, "Ridge regression" (Technometrics 12, 1970). As a bridge ours; ReCap (Paischer et al., arXiv
2307.05591) aligns CLIP's modalities by least squares in closed form.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.covariances import rank
from modbridge.builtin.bridges.map_config import RidgeConfig
from modbridge.builtin.bridges.maps import SquareMapBridge
from modbridge.builtin.bridges.pairs import PairedMoments
from modbridge.errors import DataError
from modbridge.interfaces import FitData, Fitting


class RidgeBridge(SquareMapBridge[RidgeConfig]):
    """Predicts the centred text from the centred source vector."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        pairs = PairedMoments.of(data, self.who)
        values, axes = torch.linalg.eigh(pairs.within)
        r, dim = rank(values), len(values)
        penalised = values + self.config.ridge
        if rank(penalised) < dim:
            raise DataError(
                f"{self.who} has no solution at ridge {self.config.ridge:g}: the source vectors "
                f"of {pairs.count} pairs span only {r} of {dim} dimensions. Fit on more pairs than dimensions, or set "
                f"`ridge` above 0 (the default is 0.3)."
            )
        note = (
            {"note": f"the pairs determine the map in {r} of {dim} dimensions; the others are dropped"}
            if r < dim
            else {}
        )
        fitting.log(fit="ridge", pairs=pairs.count, rank=r, dim=dim, ridge=self.config.ridge, **note)
        weights = axes @ ((axes.T @ pairs.across) / penalised[:, None])
        self.keep(pairs.source_mean, pairs.text_mean, map=weights)
