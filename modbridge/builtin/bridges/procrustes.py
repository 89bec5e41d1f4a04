"""Orthogonal Procrustes: the rotation that brings paired source vectors nearest to their texts.

V'T = U S W' (singular value decomposition), R = U W'; v' = n((n(v) - mean_v) R + mean_t). V and T hold the unit vectors
of the pairs, each side less its mean and not normalised again.

With fewer pairs than dimensions R is settled only on the r axes that pairs speak of. Beyond them ours turns as little
as possible: of all orthogonal completions the one nearest the identity, U_0 Q W_0' with Q the orthogonal factor of
U_0'W_0, whatever basis the decomposition chose.

Source: Schönemann, "A generalized solution of the orthogonal Procrustes problem" (Psychometrika 31, 1966); as a closed
form between CLIP's modalities ReCap (Paischer et al., arXiv 2307.05591), which also fits it on centred vectors.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.covariances import rank
from modbridge.builtin.bridges.map_config import ProcrustesConfig
from modbridge.builtin.bridges.maps import SquareMapBridge
from modbridge.builtin.bridges.pairs import PairedMoments
from modbridge.interfaces import FitData, Fitting


class ProcrustesBridge(SquareMapBridge[ProcrustesConfig]):
    """Rotates centred source vectors onto centred texts."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        pairs = PairedMoments.of(data, self.who)
        u, s, wt = torch.linalg.svd(pairs.across)
        r = rank(s)
        rotation = u[:, :r] @ wt[:r] + _nearest_completion(u[:, r:], wt[r:].T)
        told = (
            f"the pairs determine the rotation in {r} of {len(s)} dimensions; in the others it stays near the identity"
        )
        note = {"note": told} if r < len(s) else {}
        fitting.log(fit="procrustes", pairs=pairs.count, rank=r, dim=len(s), **note)
        self.keep(pairs.source_mean, pairs.text_mean, map=rotation)


def _nearest_completion(u: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """The map from the space of u (D, m) onto that of w (D, m), orthonormal columns each, nearest the identity."""
    x, _, yt = torch.linalg.svd(u.T @ w)
    completion: torch.Tensor = u @ (x @ yt) @ w.T
    return completion
