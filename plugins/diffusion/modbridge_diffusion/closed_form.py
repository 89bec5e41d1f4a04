"""Closed-form denoisers (ours): the exact posterior mean E[x_0 | x_t] under two laws of the clean vectors.

Both are what a network trained on the same vectors would tend to: `Gaussian` if it knew mean and covariance alone,
`Empirical` if it knew the training vectors by heart. Nothing is trained.

They want x_t at the norm that the noise process gives it. The sampler instead puts it on the sphere of radius C, so
with a `radius` the norm is set to the expected one first, sqrt(ab C^2 + (1 - ab) D), ab = `alpha_bar[t]`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import nn

from modbridge_diffusion.schedule import NoiseSchedule

FIT_CHUNK = 16_384
MEMORY_CELLS = 2**24
"""How many pairs (vector, training vector) are held at once."""


class ClosedForm(nn.Module, ABC):
    """(x_t (B, D), t int64 (B,) or (1,)) -> E[x_0 | x_t] (B, D). NaN until fitted."""

    alpha_bar: torch.Tensor

    def __init__(self, dim: int, schedule: NoiseSchedule, radius: float | None) -> None:
        super().__init__()
        self.dim, self.radius = dim, radius
        self.register_buffer("alpha_bar", schedule.alpha_bar.clone(), persistent=False)

    @abstractmethod
    def fit(self, clean: torch.Tensor) -> None:
        """Take up the clean vectors (N, D)."""

    @abstractmethod
    def posterior(self, x: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        """E[x_0 | x_t] for x_t (B, D) as the noise process gives it, `left` (B or 1, 1) the alpha_bar of its t."""

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        left = self.alpha_bar[t][:, None]
        if self.radius is not None:
            expected = (left * self.radius**2 + (1 - left) * self.dim).sqrt()
            x = nn.functional.normalize(x, dim=1) * expected
        return self.posterior(x, left)


class Gaussian(ClosedForm):
    """x_0 ~ N(mean, S): E[x_0 | x_t] = mean + sqrt(ab) S (ab S + (1 - ab) I)^-1 (x_t - sqrt(ab) mean).

    S is kept by its principal directions and their variances, with one variance for all others. `rank` None keeps all
    D. `shrinkage` in [0, 1] draws every variance to their common mean, tr(S) / D.
    """

    mean: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    remainder: torch.Tensor

    def __init__(
        self,
        dim: int,
        schedule: NoiseSchedule,
        radius: float | None,
        rank: int | None = None,
        shrinkage: float = 0.0,
    ) -> None:
        super().__init__(dim, schedule, radius)
        self.rank, self.shrinkage = rank or dim, shrinkage
        self.register_buffer("mean", torch.full((dim,), torch.nan))
        self.register_buffer("directions", torch.full((dim, self.rank), torch.nan))
        self.register_buffer("variances", torch.full((self.rank,), torch.nan))
        self.register_buffer("remainder", torch.tensor(torch.nan))

    def fit(self, clean: torch.Tensor) -> None:
        """Mean and covariance (divided by N) of the clean vectors (N, D), summed in float64 over chunks."""
        mean, covariance = moments(clean)
        found, directions = torch.linalg.eigh(covariance)
        found = found.clamp_min(0)
        found = (1 - self.shrinkage) * found + self.shrinkage * found.mean()
        others = found[: self.dim - self.rank]
        self.mean.copy_(mean)
        self.variances.copy_(found[self.dim - self.rank :])
        self.directions.copy_(directions[:, self.dim - self.rank :])
        self.remainder.copy_(others.mean() if len(others) else torch.tensor(0.0))

    def posterior(self, x: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        off = x - left.sqrt() * self.mean
        kept, rest = (v / (left * v + 1 - left) for v in (self.variances, self.remainder))
        inside = (off @ self.directions) * (kept - rest)
        return self.mean + left.sqrt() * (inside @ self.directions.T + rest * off)


class Empirical(ClosedForm):
    """x_0 is one of the training vectors x_i: E[x_0 | x_t] = sum_i w_i x_i,
    w = softmax_i(-|x_t - sqrt(ab) x_i|^2 / (2 (1 - ab))).

    Keeps all training vectors, in its artefact too. A vector that occurs twice counts twice. The softmax runs over
    chunks in float64, since at small t differences of 1e-6 in a distance decide.
    """

    vectors: torch.Tensor

    def __init__(self, dim: int, schedule: NoiseSchedule, radius: float | None) -> None:
        super().__init__(dim, schedule, radius)
        self.register_buffer("vectors", torch.full((1, dim), torch.nan))

    def hold(self, count: int) -> None:
        """Make room for `count` training vectors; they are NaN until given."""
        self.vectors = self.vectors.new_full((count, self.dim), torch.nan)

    def fit(self, clean: torch.Tensor) -> None:
        """Keep a copy of the clean vectors (N, D)."""
        self.vectors = clean.detach().to(self.vectors).clone()

    def posterior(self, x: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        # Apple's GPUs know no float64.
        exact = torch.float32 if x.device.type == "mps" else torch.float64
        x, left = x.to(exact), left.to(exact)
        highest = x.new_full((len(x), 1), -math.inf)
        total, found = x.new_zeros(len(x), 1), torch.zeros_like(x)
        for rows in torch.split(self.vectors, max(1, MEMORY_CELLS // max(1, len(x)))):
            part = rows.to(exact)
            # |x_t|^2 is the same for all x_i, and drops out of the softmax.
            score = (left.sqrt() * (x @ part.T) - left / 2 * part.square().sum(dim=1)) / (1 - left)
            now = torch.maximum(highest, score.amax(dim=1, keepdim=True))
            weight, before = (score - now).exp(), (highest - now).exp()
            total = total * before + weight.sum(dim=1, keepdim=True)
            found = found * before + weight @ part
            highest = now
        return (found / total).to(self.vectors)


def moments(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (D,) and covariance (D, D), divided by N, of vectors (N, D): float64 on the CPU, a chunk at a time."""
    mean = torch.stack([chunk.sum(dim=0) for chunk in _chunks(x)]).sum(dim=0) / len(x)
    covariance = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for chunk in _chunks(x):
        off = chunk - mean
        covariance += off.T @ off
    return mean, covariance / len(x)


def _chunks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    return (chunk.detach().to("cpu", torch.float64) for chunk in torch.split(x, FIT_CHUNK))
