"""How far two clouds of vectors are from being one, beyond the distance of their means.

The gap has two parts: the distance of the centres (`measures.gap_norm`) and the difference in shape that is left when
each cloud is centred. The split is that of TPC-CMA (arXiv 2604.00279), which finds that the second tells more about
what a task loses; Fill the Gap (arXiv 2505.03703) measures it by optimal transport. We take the energy distance, which
has no width to choose, and has an unbiased estimate from a hundred pairs in 512 dimensions. The Frechet distance of two
normal laws has not: with fewer items than dimensions it is dominated by the number of items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modbridge.errors import DataError
from modbridge.measures import CELLS, exact
from modbridge.noise import key_hash

RIDGE = 1.0  # of the mean eigenvalue of X'X; on real pairs .01 to 10 give the same accuracy within .02
LARGEST = 5


def energy_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """E = 2 E|X - Y| - E|X - X'| - E|Y - Y'| of two sets (N, D), N at least 2, as they are (nothing is normalised).

    0 if and only if the laws are the same. The unbiased estimate (U-statistic): the mean over i != j of
    |a_i - b_j| + |a_j - b_i| - |a_i - a_j| - |b_i - b_j|. Pairs i = j are left out of the first terms too, so that row
    i of `a` may belong to row i of `b`. It may come out a little below 0. Source: Szekely and Rizzo (2013), Energy
    statistics.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) < 2:
        raise DataError(f"found sets of shape {tuple(a.shape)} and {tuple(b.shape)}; expected two of (N, D), N >= 2.")
    x, y = a.cpu().double(), b.cpu().double()
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DataError("found vectors with NaN or infinity; they have no distance. Embed them anew.")
    return (2 * _between(x, y) - _between(x, x) - _between(y, y)) / (len(x) * (len(x) - 1))


def _between(x: torch.Tensor, y: torch.Tensor) -> float:
    """The sum of |x_i - y_j| over i != j."""
    total = 0.0
    step = max(1, CELLS // len(y))
    for start in range(0, len(x), step):
        distances = torch.cdist(x[start : start + step], y)
        total += float(distances.sum() - distances.diagonal(start).sum())
    return total


def frechet_distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """|m_a - m_b|^2 + tr(A + B - 2 (A B)^(1/2)) of two sets (N, D), (M, D), as they are, in float64; at least 2 rows.

    The squared distance between the normal laws with their means and covariances. Biased upwards where rows are few:
    compare it between sets of one size only. Source: Dowson and Landau (1982); Heusel et al. (2017) for embeddings.
    """
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise DataError(
            f"found sets of shape {tuple(a.shape)} and {tuple(b.shape)}; expected (N, D) and (M, D), N >= 2."
        )
    x, y = a.cpu().double(), b.cpu().double()
    if not bool(torch.isfinite(x).all() and torch.isfinite(y).all()):
        raise DataError("found vectors with NaN or infinity; they have no distance. Embed them anew.")
    first, second = torch.cov(x.T, correction=0), torch.cov(y.T, correction=0)
    values, vectors = torch.linalg.eigh(second)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ first @ root).clamp_min(0).sqrt().sum()
    return float((x.mean(0) - y.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared)


def separability(a: torch.Tensor, b: torch.Tensor, keys: Sequence[str]) -> float | None:
    """The held-out accuracy of a linear classifier that is to tell rows of `a` from rows of `b`, both (N, D).

    .5: not to be told apart; 1: two half-spaces. Row i of both belongs to the item `keys[i]`. Items are halved by the
    hash of their key; a classifier learnt on one half judges the other, and the other way round. It is least squares on
    +1 and -1 with a ridge of RIDGE times the mean eigenvalue (ours), which is a regularised linear discriminant. None
    for fewer than 4 items. Source of the test: Lopez-Paz and Oquab (2017), Revisiting classifier two-sample tests.
    """
    if a.shape != b.shape or a.ndim != 2 or len(a) != len(keys):
        raise DataError(f"found {tuple(a.shape)}, {tuple(b.shape)} and {len(keys)} keys; expected two (N, D), N keys.")
    if len(a) < 4:
        return None
    x, y = exact(a), exact(b)
    order = torch.tensor(sorted(range(len(keys)), key=lambda i: (key_hash(keys[i]), keys[i])))
    halves = order[0::2], order[1::2]
    right = 0.0
    for fit, test in (halves, halves[::-1]):
        weights, bias = _discriminant(torch.cat([x[fit], y[fit]]))
        for side, sign in ((x[test], 1.0), (y[test], -1.0)):
            scores = sign * (side @ weights - bias)
            right += float((scores > 1e-12).sum()) + float((scores.abs() <= 1e-12).sum()) / 2
    return right / (2 * len(x))


def _discriminant(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (D,) and bias of the ridge fit of +1 for the first half of `rows` (2N, D) and -1 for the second."""
    mean = rows.mean(0)
    centred = rows - mean
    target = torch.ones(len(rows), dtype=torch.float64)
    target[len(rows) // 2 :] = -1
    ridge = RIDGE * centred.pow(2).sum() / rows.shape[1]
    if ridge == 0:
        weights = torch.zeros_like(mean)
    elif rows.shape[1] <= len(rows):
        gram = centred.T @ centred + ridge * torch.eye(rows.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(gram, centred.T @ target)
    else:
        gram = centred @ centred.T + ridge * torch.eye(len(rows), dtype=torch.float64)
        weights = centred.T @ torch.linalg.solve(gram, target)
    return weights, mean @ weights


@dataclass(frozen=True)
class Dimensions:
    """Two sets of unit vectors dimension by dimension, float64 (D,).

    `mean_shift`: mean of the first minus mean of the second. `std_ratio`: standard deviation of the first over that of
    the second (both n - 1); NaN where the second has none. `spread_ratio`: the root of the ratio of their summed
    variances.
    """

    mean_shift: torch.Tensor
    std_ratio: torch.Tensor
    spread_ratio: float | None

    @classmethod
    def of(cls, a: torch.Tensor, b: torch.Tensor) -> Dimensions:
        """Of sets (N, D), (M, D) of at least 2 rows."""
        if len(a) < 2 or len(b) < 2:
            raise DataError(f"standard deviations of {len(a)} and {len(b)} rows; expected at least 2 of each.")
        x, y = exact(a), exact(b)
        first, second = x.var(0), y.var(0)
        ratio = torch.where(second > 0, first / second, torch.nan).sqrt()
        spread = float((first.sum() / second.sum()).sqrt()) if second.sum() > 0 else None
        return cls(x.mean(0) - y.mean(0), ratio, spread)

    def share_of_largest(self, count: int = LARGEST) -> float | None:
        """The share of the squared distance of the means that the `count` dimensions of the largest shift carry.

        None where the means are the same. Source: Schrodi et al. (2024), Two effects, one trigger, who find that few
        dimensions carry the gap of CLIP.
        """
        squares = self.mean_shift**2
        total = float(squares.sum())
        return float(squares.topk(min(count, len(squares))).values.sum()) / total if total > 1e-24 else None

    def std_quantile(self, share: float) -> float | None:
        """A quantile of `std_ratio` over the dimensions that have one."""
        known = self.std_ratio[torch.isfinite(self.std_ratio)]
        return float(known.quantile(share)) if len(known) else None
