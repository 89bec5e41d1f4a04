"""PLS-SVD: both modalities meet on the few axes along which pairs vary together; all else is dropped.

V'T = U S W' (singular value decomposition), V and T the unit vectors of the pairs, each side less its mean. Of the axis
pairs (u_k, w_k) the `num_axes` with the greatest covariance S_k are kept. Each text score is predicted from its source
score by least squares, b_k = cov(V u_k, T w_k) / var(V u_k) = S_k / u_k'V'V u_k:
z = sum_k b_k ((n(v) - mean_v).u_k) w_k; v' = n(z + mean_t).

Source: COMET (arXiv 2605.29628) sees CLAP's gap by PLS-SVD, a small set of axes carrying what both modalities share;
the regression on each axis is ours, as is the default number of axes.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.covariances import rank
from modbridge.builtin.bridges.map_config import PlsSvdConfig
from modbridge.builtin.bridges.maps import MapBridge
from modbridge.builtin.bridges.pairs import PairedMoments
from modbridge.errors import DataError
from modbridge.interfaces import FitData, Fitting


class PlsSvdBridge(MapBridge[PlsSvdConfig]):
    """Carries source vectors over along the axes shared with texts."""

    def matrices(self) -> dict[str, tuple[int, int]]:
        dim, axes = self.context.dim(), self.config.num_axes
        return {"scores": (dim, axes), "axes": (axes, dim)}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        pairs = PairedMoments.of(data, self.who)
        u, s, wt = torch.linalg.svd(pairs.across)
        k, r = self.config.num_axes, rank(s)
        if k > r:
            raise DataError(
                f"{self.who} was asked for {k} axes, but {pairs.count} pairs of {len(s)} "
                f"dimensions share only {r}. Set `num_axes` to at most {r}, or fit on more pairs."
            )
        u = u[:, :k]
        slopes = s[:k] / (u * (pairs.within @ u)).sum(dim=0)
        share = float(s[:k].square().sum() / s.square().sum())
        fitting.log(fit="pls_svd", pairs=pairs.count, rank=r, num_axes=k, share_of_squared_covariance=share)
        self.keep(pairs.source_mean, pairs.text_mean, scores=u * slopes, axes=wt[:k])
