"""What all ways to find names have in common: what they give, and how items are compared with names.

Everything is computed in float64 and rounded, so that an item gets the same names whatever its batch and device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import normalize

from modbridge.errors import DataError, PortError

_DECIMALS = 12  # logits that are the same to this many are level: all that a product's order of adding up can change
_SCORE_DECIMALS = 9


@dataclass(frozen=True)
class Candidate:
    """A name that may be said of an item. `score`: higher is better. `kept`: whether it is said; the others came
    close."""

    name: str
    score: float
    kept: bool


@dataclass(frozen=True)
class Side:
    """One way to compare items with names, both in one space and frame.

    `queries`: float32 (B, D), the items. `names`: float32 (V, D), the vocabulary. Of unit length.
    """

    queries: torch.Tensor
    names: torch.Tensor


class Retriever(ABC):
    """Finds names for items."""

    @abstractmethod
    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        """For each of B items (`keys`) the candidates, the best first; those that came close are there with `kept`
        False. `sides`: those that the config's `sides` names, in that order. `seed`: for what is drawn."""
        ...

    def tell(self, references: Mapping[str, Sequence[str]]) -> None:  # noqa: B027 - most have nothing to be told
        """What the captions of each item say, by its key. Only an oracle listens."""


def unit(x: torch.Tensor) -> torch.Tensor:
    """The rows of x (N, D) at unit length, float64, on the CPU. Raises DataError if a number is not finite."""
    if not torch.isfinite(x).all():
        raise DataError("a vector that names are to be found by holds NaN or infinity; look for a broken item.")
    return normalize(x.cpu().double(), dim=1)


def cosines(side: Side) -> torch.Tensor:
    """Of each item with each name, float64 (B, V). Raises PortError if their vectors are not of one size."""
    if side.queries.ndim != 2 or side.queries.shape[1] != side.names.shape[1]:
        raise PortError(
            f"items are compared with names by vectors of {side.names.shape[1]} numbers; found "
            f"{tuple(side.queries.shape[1:])} an item. Set retrieval.source to 'bridged', or use an encoder that puts "
            f"both modalities into one space."
        )
    return (unit(side.queries) @ unit(side.names).T).round(decimals=_DECIMALS)


def standardised(values: torch.Tensor) -> torch.Tensor:
    """Values (B, V) less their mean over V, in standard deviations; 0 where all are alike."""
    centred = values - values.mean(dim=1, keepdim=True)
    spread = centred.square().mean(dim=1, keepdim=True).sqrt()
    level = spread <= 10.0**-_DECIMALS
    return torch.where(level, 0.0, centred / spread.masked_fill(level, 1.0)).round(decimals=_DECIMALS)


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Softmax of logits / temperature over the names, (B, V)."""
    return (logits / temperature).softmax(dim=1).round(decimals=_SCORE_DECIMALS)


def ranked(scores: torch.Tensor, count: int, level: torch.Tensor | None = None) -> torch.Tensor:
    """The `count` best names of each item by `scores` (B, V), the best first: int64 (B, <= count). Where scores are
    level, `level` (B, V) decides, then the vocabulary's order."""
    if level is None:
        order = torch.arange(scores.shape[1]).expand(scores.shape)
    else:
        order = level.argsort(dim=1, descending=True, stable=True)
    again = scores.gather(1, order).argsort(dim=1, descending=True, stable=True)
    return order.gather(1, again)[:, :count]
