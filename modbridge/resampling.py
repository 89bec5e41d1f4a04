"""Intervals and tests for a table of scores by the bootstrap, over items and over seeds at once.

Resampled are two crossed factors, items and seeds (a seed may be a split), by the *pigeonhole bootstrap* (A. B. Owen,
Annals of Applied Statistics 2007): in one draw every distinct seed and every distinct item gets a multinomial weight,
and a score counts by the product of both. So an item that is drawn twice counts twice in every split that tests it,
whether all seeds share their items, each has its own, or splits overlap. All rows get the same draws: differences are
paired, over the seeds and the items that both rows have. Intervals are percentiles of the draws (B. Efron, Annals of
Statistics 1979; Efron and Tibshirani 1993, chapter 13). p values of many rows against one baseline are corrected by
S. Holm's step-down rule (Scandinavian Journal of Statistics 1979).

What to keep in mind:
- Few seeds make intervals too narrow: resampling S seeds sees (S - 1)/S of the variance between them, and never a value
  beyond those found. With 3 seeds an interval over seeds describes; it proves nothing.
- Items that are the same at every seed are counted once, as they should be. Items of their own at each seed, and noise
  of one (seed, item) alone, are counted up to three times (Owen 2007), so where these rule, intervals are too wide, by
  up to sqrt(3); with splits that overlap in part, by something between.
- Items must be independent of one another: five captions of one picture are one item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType

import numpy as np

from modbridge.errors import DataError
from modbridge.pigeonhole import Floats, Means, Places, Statistic, Term

SAME = 1e-6  # a corpus score nearer than this to the mean of its items is that mean
TIE = 1e-6  # differences nearer to 0 than this are 0: vectors are float32, and rounding has a sign


@dataclass(frozen=True)
class Replicate:
    """What one row scored at one seed.

    `seed`: a seed or a split. `columns`: scores, None where there is none. `items`: (n,) values, one an item, of
    columns that are the mean of their items; NaN for an item that has none in a column, and is no part of its mean.
    `ids`: which item each value is of; an id means the same item in every row and at every seed. Raises DataError where
    these don't fit together.
    """

    seed: int
    columns: Mapping[str, float | None]
    items: Mapping[str, Floats] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.ids)) != len(self.ids):
            raise DataError(f"seed {self.seed}: found an item twice among {len(self.ids)}; expected different ids.")
        for column, values in self.items.items():
            if np.shape(values) != (len(self.ids),):
                raise DataError(
                    f"seed {self.seed}: found items of {column!r} of shape {np.shape(values)}; expected one value for "
                    f"each of the {len(self.ids)} ids."
                )
            if np.isinf(values).any():
                raise DataError(f"seed {self.seed}: found infinity among the items of {column!r}.")


@dataclass(frozen=True)
class Estimate:
    """One cell of a table: a row's mean over its seeds in one column, and how far it is from the baseline's.

    `low`, `high`: of the mean. `over`: what they were resampled over, "items and seeds", "items", "seeds", or "" where
    nothing can be, and then they are None. `difference` to `p`: row minus baseline, over `difference_over`; None for
    the baseline itself and where the two have no seed (or no item) in common. `p_corrected`: by Holm over all rows that
    are compared in this column.
    """

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    over: str = ""
    difference: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    difference_over: str = ""
    p: float | None = None
    p_corrected: float | None = None


@dataclass(frozen=True)
class Derived:
    """A column made of others: `function` of the means of `inputs` in one draw at one seed, elementwise on arrays."""

    inputs: tuple[str, ...]
    function: Callable[..., Floats]


def harmonic(cosine: Floats, recall: Floats) -> Floats:
    """`measures.harmonic_mean` on arrays: 2 c r / (c + r), and 0 where either is not above 0."""
    both = (cosine > 0) & (recall > 0)
    return np.where(both, 2 * cosine * recall / np.where(both, cosine + recall, 1.0), 0.0)


HARMONIC_MEAN = Derived(("centred_paired_cosine", "centred_r_at_1"), harmonic)


def estimates(
    rows: Mapping[str, Sequence[Replicate]],
    columns: Sequence[str],
    baseline: str | None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    derived: Mapping[str, Derived] = MappingProxyType({}),
) -> dict[str, dict[str, Estimate]]:
    """{row: {column: Estimate}}: means with intervals, and differences from the row `baseline` with theirs and with p.

    In one draw a row's statistic is sum_s w_s m_s / sum_s w_s over its seeds s, where m_s = sum_i v_i x_si / sum_i v_i
    over the items i of that seed, w and v being the draw's multinomial weights. A row with one seed is resampled over
    items alone. A column is resampled over seeds alone where it has no items or is not their mean (BLEU of a corpus).
    Columns in `derived` are made, in each draw and at each seed, of the m_s of their inputs. A row without a column, or
    without a seed, is left out there; draws in which none of a row's seeds or items comes up are left out of its own.

    p is two-sided: twice the smaller of (1 + draws at or below 0)/(1 + draws) and its like above, at most 1; it agrees
    with the interval. Over seeds alone it is no smaller than 2^(1 - S), the least that S differences of either sign can
    give. The result depends on `seed`, not on the order of rows or replicates.

    Raises DataError for a baseline that is no row, two replicates of one seed in one row, a level outside (0, 1), and
    fewer than one draw.
    """
    if baseline is not None and baseline not in rows:
        raise DataError(f"the baseline {baseline!r} is none of the rows: {', '.join(sorted(rows))}. Name one of them.")
    if not 0 < level < 1 or resamples < 1:
        raise DataError(f"found level {level} and {resamples} resamples; expected a level in (0, 1), one draw or more.")
    for name, replicates in rows.items():
        if len({one.seed for one in replicates}) != len(replicates):
            raise DataError(f"the row {name!r} has two replicates of one seed; expected one a seed.")

    statistics = _Statistics(rows)
    own: dict[tuple[str, str], int | None] = {}
    against: dict[tuple[str, str], int | None] = {}
    for name in sorted(rows):
        for column in columns:
            parts = derived.get(column) or Derived((column,), _itself)
            side = _Side.of(rows[name], parts)
            own[name, column] = statistics.mean(side)
            if baseline is not None and name != baseline:
                against[name, column] = statistics.difference(side, _Side.of(rows[baseline], parts))
    points = statistics.means.points
    drawn = statistics.means.draw(statistics.every, resamples, seed)
    results = [
        _Result.of(statistic, statistic.point(points), draws[np.isfinite(draws)], level)
        for statistic, draws in zip(statistics.every, drawn, strict=True)
    ]

    found: dict[str, dict[str, Estimate]] = {name: {} for name in rows}
    for column in columns:
        tests = {}
        for name in rows:
            place, other = own[name, column], against.get((name, column))
            estimate = Estimate()
            if place is not None:
                mean = results[place]
                estimate = Estimate(mean.point, mean.low, mean.high, mean.over)
            if other is not None:
                gap = results[other]
                estimate = replace(
                    estimate,
                    difference=gap.point,
                    difference_low=gap.low,
                    difference_high=gap.high,
                    difference_over=gap.over,
                    p=gap.p,
                )
                if gap.p is not None:
                    tests[name] = gap.p
            found[name][column] = estimate
        for name, p in zip(tests, holm(list(tests.values())), strict=True):
            found[name][column] = replace(found[name][column], p_corrected=p)
    return found


def holm(p: Sequence[float]) -> list[float]:
    """p values corrected for their number: the k-th smallest of m becomes the largest (m - j + 1) p_j over j <= k, at
    most 1. Keeps the chance of any false finding at the level, however the tests depend on one another (Holm 1979).
    """
    corrected, least = [0.0] * len(p), 0.0
    for place, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - place) * p[i]))
        corrected[i] = least
    return corrected


def _itself(mean: Floats) -> Floats:
    return mean


@dataclass(frozen=True)
class _Result:
    """What the draws of one statistic say. `p`: that it is 0."""

    point: float
    over: str
    low: float | None = None
    high: float | None = None
    p: float | None = None

    @staticmethod
    def of(statistic: Statistic, point: float, draws: Floats, level: float) -> _Result:
        over = statistic.over
        if not over or not len(draws):
            return _Result(point, "")
        low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
        tie = TIE * max(1.0, float(np.abs(draws).max()))
        fewer = min(int((draws <= tie).sum()), int((draws >= -tie).sum()))
        least = 2.0 ** (1 - len(statistic.terms)) if over == "seeds" else 0.0
        p = min(1.0, max(least, 2 * (1 + fewer) / (1 + len(draws))))
        return _Result(point, over, float(low), float(high), p)


@dataclass(frozen=True)
class _Side:
    """One row's part in one column: the replicates that have it, by seed, and whether their items can be resampled."""

    replicates: Sequence[Replicate]
    parts: Derived
    by_items: bool

    @staticmethod
    def of(replicates: Sequence[Replicate], parts: Derived) -> _Side:
        have = [one for one in replicates if all(one.columns.get(name) is not None for name in parts.inputs)]
        have.sort(key=lambda one: one.seed)
        return _Side(have, parts, all(_is_mean_of_items(one, name) for one in have for name in parts.inputs))


def _is_mean_of_items(replicate: Replicate, column: str) -> bool:
    values, score = replicate.items.get(column), replicate.columns[column]
    if values is None or score is None or np.isnan(values).all():
        return False
    return abs(float(np.nanmean(values)) - score) <= SAME * max(1.0, abs(score))


class _Statistics:
    """The statistics of a table, in terms of the means over items that they share."""

    def __init__(self, rows: Mapping[str, Sequence[Replicate]]) -> None:
        every = [one for replicates in rows.values() for one in replicates]
        # Sorted, so that neither the order of rows nor of their items decides which weight an item gets.
        self._seeds = {seed: i for i, seed in enumerate(sorted({one.seed for one in every}))}
        ids = {key: i for i, key in enumerate(sorted({key for one in every if one.items for key in one.ids}))}
        self._places = {id(one): np.array([ids[key] for key in one.ids], dtype=np.int64) for one in every if one.items}
        self._slots: dict[tuple[int, str, bytes | None], int] = {}
        self.means = Means(len(self._seeds), len(ids))
        self.every: list[Statistic] = []

    def mean(self, side: _Side) -> int | None:
        """The place of a row's mean; None where it has no score."""
        return self._add([(one,) for one in side.replicates], side.parts, side.parts.function, side.by_items)

    def difference(self, side: _Side, base: _Side) -> int | None:
        """The place of `side` minus `base` over what both have; None where they have nothing in common."""
        others = {one.seed: one for one in base.replicates}
        pairs = [(one, others[one.seed]) for one in side.replicates if one.seed in others]
        count = len(side.parts.inputs)

        def value(*means: Floats) -> Floats:
            return side.parts.function(*means[:count]) - side.parts.function(*means[count:])

        return self._add(pairs, side.parts, value, side.by_items and base.by_items)

    def _add(
        self, at_seeds: Sequence[tuple[Replicate, ...]], parts: Derived, value: Callable[..., Floats], by_items: bool
    ) -> int | None:
        """A statistic of what stands together at each seed, over the items that all of it has."""
        terms: list[Term] = []
        items: list[Places] = []
        for members in at_seeds:
            places = self._shared(members, parts.inputs) if by_items else None
            if places is not None:
                if not len(places):
                    continue
                items.append(places)
            slots = tuple(self._slot(one, name, places) for one in members for name in parts.inputs)
            terms.append(Term(self._seeds[members[0].seed], slots))
        if not terms:
            return None
        several = bool(items) and len(np.unique(np.concatenate(items))) > 1
        over = [*(["items"] if several else []), *(["seeds"] if len(terms) > 1 else [])]
        self.every.append(Statistic(terms, value, " and ".join(over)))
        return len(self.every) - 1

    def _scored(self, one: Replicate, column: str) -> Places:
        """The places of the items that have a score in the column."""
        return self._places[id(one)][~np.isnan(one.items[column])]

    def _shared(self, members: tuple[Replicate, ...], columns: Sequence[str]) -> Places:
        """The places, ascending, of the items that all of them have, with a score in each of the columns."""
        first, *others = (self._scored(one, column) for one in members for column in columns)
        shared = np.sort(first)
        for other in others:
            shared = np.intersect1d(shared, other, assume_unique=True)
        return shared

    def _slot(self, one: Replicate, column: str, places: Places | None) -> int:
        """Where the column's mean over the items at `places` stands, or without these its score as it is."""
        known = (id(one), column, None if places is None else places.tobytes())
        if known not in self._slots:
            score = one.columns[column]
            assert score is not None
            if places is None:
                self._slots[known] = self.means.score(score)
            else:
                own = self._places[id(one)]
                order = np.argsort(own)
                found = order[np.searchsorted(own, places, sorter=order)]
                values = np.asarray(one.items[column], dtype=np.float64)[found]
                point = score if len(places) == len(self._scored(one, column)) else float(values.mean())
                self._slots[known] = self.means.of_items(places, values, point)
        return self._slots[known]
