"""CLOSE: cross-modal transfer on semantic embeddings, by noise and, if wanted, an adapter on text vectors in training.

Training: t' = n(a(n(t)) + w eps), eps standard normal; w multiplies it as it is, without division by sqrt(D).
Test: n(v), nothing else. a(x) is
    none        x
    mean        x + scale (mean_v - mean_t), and n of it if `renormalise`
    random      x + scale d, d a fixed random direction, and n of it if `renormalise`
    linear      n(A x + b), A and b the least squares of v = A t + b over pairs
    covariance  x + mean(v - t) + factor N(0, cov(v - t)) over pairs, its draws apart from eps; not normalised before
                the noise

Source: Gu, Clark and Kembhavi, "I Can't Believe There's No Images!" (ICCV 2023), and the authors' code
(close/model/language_adapters.py; close/experiments/train.py for w, and for `linear` renormalised and `mean` not). One
stored version of that code has w where ours has the factor 3, and no eps: factor w with noise_multiplier 0.
Ours: means and covariances are of unit vectors of the training split (the authors load files made from COCO or CC3M),
covariances divide by the number of pairs, the ridge term, and the default scale 1.

Needs by adapter: none, random: nothing; mean: text vectors and unpaired source vectors; linear, covariance: pairs.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.close_config import (
    CloseConfig,
    CovarianceAdapter,
    LinearAdapter,
    MeanAdapter,
    RandomAdapter,
)
from modbridge.builtin.bridges.covariances import rank
from modbridge.builtin.bridges.moments import require_finite
from modbridge.builtin.bridges.pairs import Pairs
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.errors import DataError
from modbridge.geometry import Statistics, unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw

KEPT: dict[str, dict[str, int]] = {
    "none": {},
    "mean": {"shift": 1},
    "random": {"shift": 1},
    "linear": {"map": 2, "bias": 1},
    "covariance": {"shift": 1, "root": 2},
}
"""The tensors of each adapter, with the number of their axes, which have all D entries."""

RIDGE = 1.0
"""Where pairs do not determine the linear adapter (ours): in units of the mean eigenvalue of X'X."""


class CloseBridge(StatisticsBridge[CloseConfig]):
    """Adapts text vectors, and adds noise to them, in training only."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: (self.context.dim(),) * axes for name, axes in KEPT[self.config.adapter.type].items()}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """What the adapter is made of; nothing without one."""
        adapter = self.config.adapter
        if isinstance(adapter, MeanAdapter):
            self._values = {"shift": self._gap(data)}
        elif isinstance(adapter, RandomAdapter):
            direction = Draw.of(["close"], adapter.seed).named("direction").normal(self.context.dim())
            self._values = {"shift": unit(direction[0].double())}
        elif isinstance(adapter, LinearAdapter):
            self._values = self._least_squares(adapter, Pairs.of(data, self.who), fitting)
        elif isinstance(adapter, CovarianceAdapter):
            self._values = self._way_of_a_pair(Pairs.of(data, self.who), fitting)
        else:
            self._values = {}

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(self._adapted(unit(x), draw) + self.config.noise_multiplier * draw.normal(x.shape[1]).to(x))

    def _adapted(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Unit text vectors (B, D) through the adapter."""
        adapter = self.config.adapter
        if isinstance(adapter, MeanAdapter | RandomAdapter):
            moved = x + adapter.scale * self.statistic("shift").to(x)
            return unit(moved) if adapter.renormalise else moved
        if isinstance(adapter, LinearAdapter):
            return unit(x @ self.statistic("map").to(x).T + self.statistic("bias").to(x))
        if isinstance(adapter, CovarianceAdapter):
            normal = draw.named(f"{draw.purpose}/covariance").normal(x.shape[1]).to(x)
            return x + self.statistic("shift").to(x) + adapter.factor * (normal @ self.statistic("root").to(x).T)
        return x

    def _gap(self, data: FitData) -> torch.Tensor:
        source = data.require_source(self.who)
        for vectors in (data.text, source):
            require_finite(vectors, self.who)
        return Statistics.of(source).mean - Statistics.of(data.text).mean

    def _least_squares(self, adapter: LinearAdapter, pairs: Pairs, fitting: Fitting) -> dict[str, torch.Tensor]:
        """A and b of v = A t + b, by the eigenvectors of X'X."""
        own, across, _ = pairs.scatter("text")
        eigenvalues, vectors = torch.linalg.eigh(own)
        level, determined = eigenvalues.mean(), rank(eigenvalues) == len(eigenvalues)
        if level <= 0:
            raise DataError(
                f"{self.who} fits a linear map, but all {len(pairs)} paired texts have one direction. Fit it on texts "
                f"that differ."
            )
        ridge = adapter.ridge if adapter.ridge is not None else 0.0 if determined else RIDGE
        if ridge == 0 and not determined:
            raise DataError(
                f"{self.who} fits a linear map by least squares, but {len(pairs)} pairs do not determine one in "
                f"{len(eigenvalues)} dimensions. Leave `adapter.ridge` out or set it above 0, or give more pairs."
            )
        note = {} if determined else {"note": f"the pairs do not determine the map: ridge term {ridge:g} (ours)"}
        fitting.log(fit="close", adapter="linear", pairs=len(pairs), ridge=ridge, **note)
        inverse = (vectors / (eigenvalues.clamp_min(0) + ridge * level)) @ vectors.T
        text, source = pairs.means
        matrix = (inverse @ across).T
        return {"map": matrix, "bias": source - matrix @ text}

    def _way_of_a_pair(self, pairs: Pairs, fitting: Fitting) -> dict[str, torch.Tensor]:
        """The mean of v - t, and a root R of its covariance, R R' = cov; by eigenvectors, so that it may be
        singular."""
        if len(pairs) < 2:
            raise DataError(
                f"{self.who} needs the covariance of v - t: found {len(pairs)} pair, expected at least two."
            )
        mean, covariance = pairs.difference()
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        singular = {}
        if len(pairs) <= len(mean):
            singular = {"note": f"fewer pairs than dimensions: noise in at most {len(pairs) - 1} directions"}
        fitting.log(fit="close", adapter="covariance", pairs=len(pairs), **singular)
        return {"shift": mean, "root": vectors * eigenvalues.clamp_min(0).sqrt()}
