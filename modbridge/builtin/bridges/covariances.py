"""The covariance of unit vectors, a chunk at a time in float64: the number of vectors never matters for memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modbridge.builtin.bridges.moments import require_finite, unit_chunks
from modbridge.errors import DataError
from modbridge.geometry import CHUNK
from modbridge.spaces import Embeddings

ALIKE = 1e-12


def rank(values: torch.Tensor) -> int:
    """How many eigenvalues or singular values (D,) are not zero to float64's precision."""
    largest = float(values.max())
    return int((values > largest * len(values) * torch.finfo(torch.float64).eps).sum()) if largest > 0 else 0


@dataclass(frozen=True)
class Spread:
    """Where one modality's unit vectors lie, and how they spread.

    `mean`: (D,). `covariance`: (D, D), divided by the count. `fourth`: the mean of |n(x) - mean|^4.
    """

    mean: torch.Tensor
    covariance: torch.Tensor
    fourth: float
    count: int

    @classmethod
    def of(cls, vectors: Embeddings, who: str) -> Spread:
        """Raises DataError for fewer than two vectors, for NaN, and where all vectors are the same."""
        if len(vectors) < 2:
            raise DataError(
                f"{who} was given {len(vectors)} {vectors.port.modality} vectors; a covariance takes at least two."
            )
        require_finite(vectors, who)
        count, known = len(vectors), vectors.moments
        if known is None:
            mean = torch.zeros(vectors.values.shape[1], dtype=torch.float64)
            for x in unit_chunks(vectors.values, CHUNK):
                mean += x.sum(dim=0) / count
        else:
            mean = known.mean
        fourth, parts = 0.0, torch.zeros(len(mean), len(mean), dtype=torch.float64)
        for x in unit_chunks(vectors.values, CHUNK):
            z = x - mean
            if known is None:
                parts += z.T @ z / count
            fourth += float(z.square().sum(dim=1).square().sum()) / count
        covariance = parts if known is None else known.covariance
        require_spread(float(covariance.trace()), who, vectors)
        return cls(mean, covariance, fourth, count)


def require_spread(variance: float, who: str, vectors: Embeddings) -> None:
    """Raise DataError where vectors of this variance are one and the same."""
    if variance <= ALIKE:
        raise DataError(
            f"{who}: all {vectors.port.modality} vectors are the same (their variance is {variance:.1g}), so there is "
            f"nothing to learn a map from. Look at the encoder, and at whether the items differ."
        )
