"""Covariances and cross-covariances of unit vectors, a chunk at a time in float64: the number of vectors never matters
for memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modbridge.builtin.bridges.moments import require_finite
from modbridge.errors import DataError
from modbridge.geometry import unit
from modbridge.interfaces import FitData
from modbridge.spaces import Embeddings

CHUNK = 8192
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
        count, dim = vectors.values.shape
        mean = torch.zeros(dim, dtype=torch.float64)
        for x in _chunks(vectors.values):
            mean += x.sum(dim=0) / count
        covariance, fourth = torch.zeros(dim, dim, dtype=torch.float64), 0.0
        for x in _chunks(vectors.values):
            z = x - mean
            covariance += z.T @ z / count
            fourth += float(z.square().sum(dim=1).square().sum()) / count
        _require_spread(float(covariance.trace()), who, vectors)
        return cls(mean, covariance, fourth, count)


@dataclass(frozen=True)
class PairedMoments:
    """The normal equations of pairs: V (N, D) source and T (N, D) text unit vectors, each less its own mean.

    `within`: V'V. `across`: V'T. The means are those of the pairs, so that a source with several texts counts as often
    as it has texts.
    """

    source_mean: torch.Tensor
    text_mean: torch.Tensor
    within: torch.Tensor
    across: torch.Tensor
    count: int

    @classmethod
    def of(cls, data: FitData, who: str) -> PairedMoments:
        """Raises DataError where there are fewer than two pairs, for NaN, and where a side's vectors are all alike."""
        texts, sources = paired_rows(data, who)
        source = data.require_source(who)
        if len(texts) < 2:
            raise DataError(f"{who} needs at least two pairs, found {len(texts)}.")
        for vectors in (data.text, source):
            require_finite(vectors, who)
        count, dim = len(texts), data.text.values.shape[1]
        source_mean, text_mean = (torch.zeros(dim, dtype=torch.float64) for _ in range(2))
        for v, t in zip(_chunks(source.values, sources), _chunks(data.text.values, texts), strict=True):
            source_mean += v.sum(dim=0) / count
            text_mean += t.sum(dim=0) / count
        within, across = (torch.zeros(dim, dim, dtype=torch.float64) for _ in range(2))
        spread = 0.0
        for v, t in zip(_chunks(source.values, sources), _chunks(data.text.values, texts), strict=True):
            v, t = v - source_mean, t - text_mean
            within += v.T @ v
            across += v.T @ t
            spread += float(t.square().sum())
        _require_spread(float(within.trace()) / count, who, source)
        _require_spread(spread / count, who, data.text)
        return cls(source_mean, text_mean, within, across, count)


def paired_rows(data: FitData, who: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows of the texts that have a partner, and those partners' rows among the source vectors: int64 (P,) each.

    Raises DataError where there is no pair, and for pairs that do not fit the vectors.
    """
    source = data.require_source(who)
    pairs = data.pairs
    if pairs is None or not bool((pairs >= 0).any()):
        why = "the data give none" if pairs is None else f"none of {len(pairs)} texts has its item among the source"
        raise DataError(
            f"{who} needs pairs, found none: {why}. Give training items that have both a text and a source vector, or "
            f"choose a bridge that learns from unpaired vectors (mean_shift, coral, memory)."
        )
    if pairs.shape != (len(data.text),) or int(pairs.max()) >= len(source):
        raise DataError(
            f"{who}: expected for each of {len(data.text)} texts a row of {len(source)} source vectors; found "
            f"{tuple(pairs.shape)} up to row {int(pairs.max())}."
        )
    texts = (pairs >= 0).nonzero().flatten()
    return texts, pairs[texts]


def _chunks(values: torch.Tensor, rows: torch.Tensor | None = None) -> Iterator[torch.Tensor]:
    """n(x) of all rows, or of `rows` in their order, float64 on the CPU."""
    count = len(values) if rows is None else len(rows)
    for start in range(0, count, CHUNK):
        part = slice(start, start + CHUNK)
        chosen = values[part] if rows is None else values[rows[part].to(values.device)]
        yield unit(chosen.detach().cpu().double())


def _require_spread(variance: float, who: str, vectors: Embeddings) -> None:
    if variance <= ALIKE:
        raise DataError(
            f"{who}: all {vectors.port.modality} vectors are the same (their variance is {variance:.1g}), so there is "
            f"nothing to learn a map from. Look at the encoder, and at whether the items differ."
        )
