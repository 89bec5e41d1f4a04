"""The pigeonhole bootstrap: seeds and items resampled, each on its own (A. B. Owen, Annals of Applied Statistics 2007).

One draw gives every seed s a weight w_s and every item i a weight v_i: how often it comes up among as many drawn with
replacement. A value x_si then counts w_s v_i times. All statistics get the same draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

CELLS = 2**21  # weights, or means, held at once: with what they are made of, less than 100 MB


@dataclass(frozen=True)
class Term:
    """One seed's part of a statistic: the seed's place among all, and the slots of the means it is made of."""

    seed: int
    slots: tuple[int, ...]


@dataclass(frozen=True)
class Statistic:
    """sum_s w_s value(means at s) / sum_s w_s. `value`: elementwise on arrays, one for each slot of a term. `over`:
    what is resampled, in words, "" for nothing."""

    terms: Sequence[Term]
    value: Callable[..., Floats]
    over: str

    def among(self, means: Floats, seed_weights: Floats) -> Floats:
        """In each draw (draws,), from means (draws, slots) and weights (draws, seeds); a seed alone is not resampled.

        NaN where none of its seeds comes up, or none of their items.
        """
        slots = np.array([term.slots for term in self.terms])
        values = self.value(*(means[:, slots[:, k]] for k in range(slots.shape[1])))
        there = np.isfinite(values)
        weights = there.astype(np.float64)
        if len(self.terms) > 1:
            weights *= seed_weights[:, [term.seed for term in self.terms]]
        return _ratio((weights * np.where(there, values, 0.0)).sum(1), weights.sum(1))

    def point(self, means: Floats) -> float:
        """Without resampling, from means (slots,)."""
        return float(np.mean([self.value(*means[list(term.slots)]) for term in self.terms]))


class Means:
    """The means that statistics are made of, each in a slot: of some items, or a score that is no mean of items."""

    def __init__(self, seeds: int, items: int) -> None:
        self.seeds, self.items = seeds, items
        self._points: list[float] = []
        self._groups: dict[bytes, list[tuple[int, Floats]]] = {}  # by the items that they are means of

    @property
    def points(self) -> Floats:
        """Every mean as it is, unweighted (slots,)."""
        return np.array(self._points, dtype=np.float64)

    def score(self, value: float) -> int:
        """The slot of a score that is the same in every draw."""
        self._points.append(value)
        return len(self._points) - 1

    def of_items(self, places: Places, values: Floats, point: float) -> int:
        """The slot of the mean of `values` (n,) of the items at `places` (n,), ascending; unweighted it is `point`."""
        slot = self.score(point)
        self._groups.setdefault(places.astype(np.int64).tobytes(), []).append((slot, values))
        return slot

    def draw(self, statistics: Sequence[Statistic], resamples: int, seed: int) -> list[Floats]:
        """Each statistic in each draw (resamples,)."""
        found = [np.empty(resamples) for _ in statistics]
        for rows, seed_weights, item_weights in self._weights(resamples, seed):
            means = np.tile(self.points, (len(seed_weights), 1))
            for key, members in self._groups.items():
                places = np.frombuffer(key, dtype=np.int64)
                # Of all items, which is the usual case, without a copy.
                weights = item_weights if len(places) == self.items else item_weights[:, places]
                sums = weights @ np.stack([values for _, values in members], axis=1)
                means[:, [slot for slot, _ in members]] = _ratio(sums, weights.sum(1, keepdims=True))
            for statistic, out in zip(statistics, found, strict=True):
                out[rows] = statistic.among(means, seed_weights)
        return found

    def _weights(self, resamples: int, seed: int) -> Iterator[tuple[slice, Floats, Floats]]:
        """Weights of seeds and of items, in pieces that fit the memory; how large these are changes no weight."""
        of_seeds, of_items = np.random.default_rng([seed, 0]), np.random.default_rng([seed, 1])
        step = max(1, CELLS // max(self.items, len(self._points), self.seeds, 1))
        for start in range(0, resamples, step):
            count = min(step, resamples - start)
            seeds = multinomial_weights(self.seeds, count, of_seeds)
            yield slice(start, start + count), seeds, multinomial_weights(self.items, count, of_items)


def multinomial_weights(count: int, draws: int, rng: np.random.Generator) -> Floats:
    """How often each of `count` comes up among `count` drawn with replacement, `draws` times: (draws, count)."""
    picks = rng.integers(count, size=(draws, count)) if count else np.zeros((draws, 0), dtype=np.int64)
    picks += np.arange(draws)[:, None] * count
    return np.bincount(picks.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


def _ratio(above: Floats, below: Floats) -> Floats:
    """NaN where `below` is 0."""
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)
