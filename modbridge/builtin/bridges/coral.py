"""CORAL: the source's spread is taken away (whitened) and the text's put in its place (coloured).

v' = S_t^1/2 S_v^-1/2 (n(v) - mean_v) + mean_t, then n; S the covariances of the unit vectors of the training split, the
roots symmetric (ZCA), computed by eigendecomposition in float64. No pairs are used.

With fewer vectors than dimensions a covariance has no inverse root, so both are first shrunk, (1 - s) S + s tr(S)/D I.
s is `shrinkage`, or per side that of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
matrices" (Journal of Multivariate Analysis 88, 2004).

Source: Sun, Feng and Saenko, "Return of frustratingly easy domain adaptation" (AAAI 2016), which maps features of one
domain; their code adds the identity to both covariances, which would drown those of unit vectors. Taking each side's
own mean, and this shrinkage, are ours.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.covariances import Spread, rank
from modbridge.builtin.bridges.map_config import CoralConfig
from modbridge.builtin.bridges.maps import SquareMapBridge
from modbridge.errors import DataError
from modbridge.interfaces import FitData, Fitting


class CoralBridge(SquareMapBridge[CoralConfig]):
    """Moves mean and covariance of the source vectors onto those of the text vectors."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        source = Spread.of(data.require_source(self.who), self.who)
        text = Spread.of(data.text, self.who)
        chosen = self.config.shrinkage
        shrinkage = {
            name: ledoit_wolf(side) if chosen == "auto" else chosen
            for name, side in (("source", source), ("text", text))
        }
        whiten, source_rank = _root(source, shrinkage["source"], -0.5, f"{self.who}: the source vectors")
        colour, text_rank = _root(text, shrinkage["text"], 0.5, f"{self.who}: the text vectors")
        thin = min(source_rank, text_rank) < len(text.mean)
        drawn = f"{shrinkage['source']:.2f} (source) and {shrinkage['text']:.2f} (text)"
        told = f"{len(text.mean)} dimensions, of which the vectors span {min(source_rank, text_rank)}"
        fitting.log(
            fit="coral",
            shrinkage_source=shrinkage["source"],
            shrinkage_text=shrinkage["text"],
            rank_source=source_rank,
            rank_text=text_rank,
            dim=len(text.mean),
            **({"note": f"{told}: covariances drawn to the identity by {drawn}"} if thin else {}),
        )
        self.keep(source.mean, text.mean, map=whiten @ colour)


def ledoit_wolf(side: Spread) -> float:
    """The shrinkage towards the scaled identity that is expected to lie nearest the true covariance, in [0, 1]."""
    dim, square = len(side.mean), float(side.covariance.square().sum())
    distance = square - float(side.covariance.trace()) ** 2 / dim
    noise = (side.fourth - square) / side.count
    return 1.0 if noise >= distance else max(noise, 0.0) / distance


def _root(side: Spread, shrinkage: float, power: float, what: str) -> tuple[torch.Tensor, int]:
    """A power of the shrunk covariance, and the rank it had before. Raises DataError if it is singular still."""
    values, axes = torch.linalg.eigh(side.covariance)
    before, dim = rank(values), len(values)
    shrunk = (1 - shrinkage) * values + shrinkage * values.mean()
    if rank(shrunk) < dim:
        raise DataError(
            f"{what} have a singular covariance at shrinkage {shrinkage:g}: {side.count} vectors of {dim} dimensions "
            f"span only {before}. Fit on more vectors than dimensions, or shrink: `shrinkage: auto` (the default), "
            f"or a value like 0.1."
        )
    return axes * shrunk**power @ axes.T, before
