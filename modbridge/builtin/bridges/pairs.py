"""Texts with the source vector of each, streamed as unit vectors in float64, and what is fitted on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from modbridge.builtin.bridges.covariances import require_spread
from modbridge.builtin.bridges.moments import require_finite
from modbridge.errors import DataError
from modbridge.geometry import CHUNK, unit
from modbridge.interfaces import FitData

Side = Literal["text", "source"]


@dataclass(frozen=True)
class Pairs:
    """Rows of `text` (N, D) and of `source` (M, D) that belong together; a source vector may have several texts.

    `rows`: int64 (P, 2), the row of a text and the row of its source vector.
    """

    text: torch.Tensor
    source: torch.Tensor
    rows: torch.Tensor

    @classmethod
    def of(cls, data: FitData, who: str) -> Pairs:
        """Raises DataError if there are none, if they name rows that are not there, and for NaN or infinity."""
        texts, sources = paired_rows(data, who)
        source = data.require_source(who)
        for vectors in (data.text, source):
            require_finite(vectors, who)
        return cls(data.text.values, source.values, torch.stack([texts, sources], dim=1))

    def __len__(self) -> int:
        return len(self.rows)

    def chunks(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(texts, their source vectors), both (B, D) unit vectors, float64 on the CPU."""
        for rows in torch.split(self.rows, CHUNK):
            yield unit(self.text[rows[:, 0]].cpu().double()), unit(self.source[rows[:, 1]].cpu().double())

    @cached_property
    def means(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean text and the mean source vector of the pairs, float64 (D,) each."""
        text = torch.zeros(self.text.shape[1], dtype=torch.float64)
        source = torch.zeros_like(text)
        for t, v in self.chunks():
            text += t.sum(dim=0)
            source += v.sum(dim=0)
        return text / len(self), source / len(self)

    def difference(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (D,) and covariance (D, D), divided by the number of pairs, of v - t."""
        text, source = self.means
        mean, covariance = source - text, torch.zeros(len(text), len(text), dtype=torch.float64)
        for t, v in self.chunks():
            off = v - t - mean
            covariance += off.T @ off
        return mean, covariance / len(self)

    def scatter(self, x: Side) -> tuple[torch.Tensor, torch.Tensor, float]:
        """X'X and X'Y (D, D), sums over the pairs, of one side's vectors X and the other's Y less their means, and the
        trace of Y'Y."""
        text, source = self.means
        own, across = (torch.zeros(len(text), len(text), dtype=torch.float64) for _ in range(2))
        spread = 0.0
        for t, v in self.chunks():
            sides = {"text": t - text, "source": v - source}
            one = sides.pop(x)
            (other,) = sides.values()
            own += one.T @ one
            across += one.T @ other
            spread += float(other.square().sum())
        return own, across, spread


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
        pairs = Pairs.of(data, who)
        if len(pairs) < 2:
            raise DataError(f"{who} needs at least two pairs, found {len(pairs)}.")
        within, across, spread = pairs.scatter("source")
        require_spread(float(within.trace()) / len(pairs), who, data.require_source(who))
        require_spread(spread / len(pairs), who, data.text)
        text, source = pairs.means
        return cls(source, text, within, across, len(pairs))


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
