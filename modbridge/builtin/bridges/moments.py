"""Mean and variance of unit vectors, in float64, a chunk at a time; and the refusal of vectors that are no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modbridge.errors import DataError
from modbridge.geometry import CHUNK, finite, unit
from modbridge.spaces import Embeddings


def require_finite(vectors: Embeddings, who: str) -> None:
    """Raise DataError, naming the items, where a vector holds NaN or infinity: one of them would spoil every mean."""
    if vectors.moments is not None:  # they are finite only where all vectors are
        return
    bad = [vectors.keys[row] for row in (~finite(vectors.values)).nonzero().reshape(-1).tolist()]
    if bad:
        raise DataError(
            f"{who} cannot be fitted: {len(bad)} of {len(vectors)} {vectors.port.modality} vectors hold NaN or "
            f"infinity ({', '.join(bad[:3])}). Leave these items out, or encode them again."
        )


def unit_chunks(x: torch.Tensor, chunk: int = CHUNK) -> Iterator[torch.Tensor]:
    """The vectors (N, D) at length 1, float64 on the CPU, `chunk` rows at a time."""
    for start in range(0, len(x), chunk):
        yield unit(x[start : start + chunk].detach().cpu().double())


@dataclass(frozen=True)
class Moments:
    """Mean and variance of vectors that have been brought to length 1.

    `mean`, `variance`: float64 (D,), the variance of each dimension divided by N (ours). `count`: N.
    """

    mean: torch.Tensor
    variance: torch.Tensor
    count: int

    @classmethod
    def of(cls, vectors: Embeddings, who: str, *, chunk: int = CHUNK) -> Moments:
        """Of vectors (N, D), in two passes where they are not known already. Raises DataError for fewer than two, which
        have no variance, and for NaN or infinity."""
        require_finite(vectors, who)
        if len(vectors) < 2:
            raise DataError(
                f"{who} needs the variance of {vectors.port.modality} vectors: found {len(vectors)}, expected at least "
                f"two."
            )
        if vectors.moments is not None:
            return cls(vectors.moments.mean, vectors.moments.covariance.diagonal().clone(), len(vectors))
        x = vectors.values
        mean = torch.zeros(x.shape[1], dtype=torch.float64)
        for part in unit_chunks(x, chunk):
            mean += part.sum(dim=0)
        mean /= len(x)
        variance = torch.zeros_like(mean)
        for part in unit_chunks(x, chunk):
            variance += (part - mean).square().sum(dim=0)
        return cls(mean, variance / len(x), len(x))

    @property
    def std(self) -> torch.Tensor:
        """The standard deviation of each dimension, float64 (D,)."""
        return self.variance.sqrt()

    @property
    def trace(self) -> torch.Tensor:
        """The trace of the covariance, float64 (): the mean squared distance from the mean."""
        return self.variance.sum()
