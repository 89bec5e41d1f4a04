"""Texts with the source vector of each, streamed as unit vectors in float64, and two statistics of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modbridge.builtin.bridges.covariances import paired_rows
from modbridge.builtin.bridges.moments import require_finite
from modbridge.geometry import CHUNK, unit
from modbridge.interfaces import FitData


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
        text, source = self.means()
        mean, covariance = source - text, torch.zeros(len(text), len(text), dtype=torch.float64)
        for t, v in self.chunks():
            off = v - t - mean
            covariance += off.T @ off
        return mean, covariance / len(self)

    def scatter(self) -> tuple[torch.Tensor, torch.Tensor]:
        """X'X and X'Y (D, D), sums over the pairs, of texts X and source vectors Y less their means."""
        text, source = self.means()
        own, across = (torch.zeros(len(text), len(text), dtype=torch.float64) for _ in range(2))
        for t, v in self.chunks():
            own += (t - text).T @ (t - text)
            across += (t - text).T @ (v - source)
        return own, across
