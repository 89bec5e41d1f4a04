"""Bootstrap intervals and tests: against loops, closed forms and simulation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

import modbridge.pigeonhole
from modbridge.errors import DataError
from modbridge.resampling import HARMONIC_MEAN, Derived, Estimate, Replicate, estimates, holm


def _replicate(seed: int, ids: Sequence[str], **items: Any) -> Replicate:
    arrays = {name: np.array(values, dtype=np.float64) for name, values in items.items()}
    return Replicate(seed, {name: float(np.nanmean(values)) for name, values in arrays.items()}, arrays, tuple(ids))


def _crossed(x: np.ndarray, column: str = "c") -> list[Replicate]:
    """Replicates of values (seeds, items), the same items at every seed."""
    return [_replicate(s, [f"i{i}" for i in range(x.shape[1])], **{column: row}) for s, row in enumerate(x)]


def _weights(count: int, resamples: int, stream: list[int]) -> np.ndarray:
    picks = np.random.default_rng(stream).integers(count, size=(resamples, count))
    return (picks[:, :, None] == np.arange(count)).sum(1)


# --- against loops


RNG = np.random.default_rng(5)
OVERLAPPING = {  # three splits that share some items, given in no order; row "b" lacks the split 7
    "a": [
        _replicate(9, ["z", "p", "q"], c=RNG.normal(size=3), d=RNG.normal(size=3)),
        _replicate(2, ["q", "r"], c=RNG.normal(size=2), d=RNG.normal(size=2)),
        _replicate(7, ["p"], c=RNG.normal(size=1), d=RNG.normal(size=1)),
    ],
    "b": [
        _replicate(2, ["r", "p", "q"], c=RNG.normal(size=3), d=RNG.normal(size=3)),
        _replicate(9, ["p", "q", "z"], c=RNG.normal(size=3), d=RNG.normal(size=3)),
    ],
}


def _by_loops(resamples: int, seed: int) -> tuple[list[float], list[float], list[float]]:
    """The draws of row a, of b - a, and of c^2 + d of row a, item by item."""
    seeds, items = [2, 7, 9], ["p", "q", "r", "z"]
    w, v = _weights(3, resamples, [seed, 0]), _weights(4, resamples, [seed, 1])
    found: tuple[list[float], list[float], list[float]] = ([], [], [])

    def mean(one: Replicate, column: str, only: set[str], draw: int) -> float | None:
        above = below = 0.0
        for key, value in zip(one.ids, one.items[column], strict=True):
            if key in only:
                above += v[draw, items.index(key)] * value
                below += v[draw, items.index(key)]
        return above / below if below else None

    def over_seeds(values: dict[int, float | None], draw: int) -> float | None:
        there = [(w[draw, seeds.index(s)], value) for s, value in values.items() if value is not None]
        total = sum(weight for weight, _ in there)
        return sum(weight * value for weight, value in there) / total if total else None

    for draw in range(resamples):
        a = {one.seed: one for one in OVERLAPPING["a"]}
        b = {one.seed: one for one in OVERLAPPING["b"]}
        own = {s: mean(one, "c", set(one.ids), draw) for s, one in a.items()}
        both: dict[int, float | None] = {}
        for s in (2, 9):
            only = set(a[s].ids) & set(b[s].ids)
            x, y = mean(b[s], "c", only, draw), mean(a[s], "c", only, draw)
            both[s] = None if x is None or y is None else x - y
        made: dict[int, float | None] = {}
        for s, one in a.items():
            c, d = (mean(one, column, set(one.ids), draw) for column in "cd")
            made[s] = None if c is None or d is None else c**2 + d
        for out, values in zip(found, (own, both, made), strict=True):
            if (value := over_seeds(values, draw)) is not None:
                out.append(value)
    return found


@pytest.mark.parametrize("cells", [2**21, 40])  # at once, and in pieces
def test_overlapping_splits_agree_with_loops_over_every_value(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modbridge.pigeonhole, "CELLS", cells)
    derived = {"made": Derived(("c", "d"), lambda c, d: c**2 + d)}
    found = estimates(OVERLAPPING, ["c", "made"], "a", level=0.9, resamples=301, seed=3, derived=derived)
    own, both, made = _by_loops(301, 3)
    assert len(own) < 301, "some draws have none of its items, and say nothing"
    a, b = found["a"]["c"], found["b"]["c"]
    assert (a.low, a.high) == pytest.approx(tuple(np.quantile(own, [0.05, 0.95])))
    assert a.mean == pytest.approx(np.mean([one.columns["c"] for one in OVERLAPPING["a"]]))
    assert (b.difference_low, b.difference_high) == pytest.approx(tuple(np.quantile(both, [0.05, 0.95])))
    sides = [1 + sum(d <= 0 for d in both), 1 + sum(d >= 0 for d in both)]
    assert b.p == pytest.approx(min(1.0, 2 * min(sides) / (1 + len(both))))
    assert (found["a"]["made"].low, found["a"]["made"].high) == pytest.approx(tuple(np.quantile(made, [0.05, 0.95])))
    squares = [one.columns["c"] ** 2 + one.columns["d"] for one in OVERLAPPING["a"]]
    assert found["a"]["made"].mean == pytest.approx(np.mean(squares))
    split_9 = [np.mean(OVERLAPPING["b"][1].items["c"]) - np.mean(OVERLAPPING["a"][0].items["c"])]
    split_2 = [OVERLAPPING["b"][0].items["c"][[2, 0]].mean() - OVERLAPPING["a"][1].items["c"].mean()]
    assert b.difference == pytest.approx(np.mean([split_9, split_2]))
    assert a.over == b.over == b.difference_over == "items and seeds"


def test_neither_the_order_of_rows_nor_of_items_counts_but_the_seed_does() -> None:
    found = estimates(OVERLAPPING, ["c", "d"], "a", resamples=200)
    turned = {}
    for name in ("b", "a"):
        turned[name] = [
            Replicate(one.seed, one.columns, {c: x[::-1] for c, x in one.items.items()}, one.ids[::-1])
            for one in reversed(OVERLAPPING[name])
        ]
    assert list(estimates(turned, ["d"], "a", resamples=200)) == ["b", "a"]
    again = estimates(turned, ["d", "c"], "a", resamples=200)
    for name, column in itertools.product("ab", "cd"):
        one, other = found[name][column], again[name][column]
        for field in ("mean", "low", "high", "difference", "difference_low", "p", "p_corrected"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), abs=1e-12)
    assert found == estimates(OVERLAPPING, ["c", "d"], "a", resamples=200)
    assert found["a"]["c"].low != estimates(OVERLAPPING, ["c"], "a", resamples=200, seed=1)["a"]["c"].low


# --- closed forms


def _spread(estimate: Estimate) -> float:
    """The standard deviation of a normal law with this 95 % interval."""
    assert estimate.low is not None
    assert estimate.high is not None
    return (estimate.high - estimate.low) / (2 * 1.959964)


def test_the_variance_of_balanced_crossed_data_is_the_closed_form() -> None:
    """x = m + a_s + b_i + e_si gives sum a^2 / S^2 + sum b^2 / I^2 + sum e^2 / (S I)^2."""
    rng = np.random.default_rng(0)
    for scales in ((1.0, 0.3, 0.3), (0.1, 2.0, 0.3), (0.0, 0.0, 1.0)):
        x = sum(s * rng.normal(size=shape) for s, shape in zip(scales, ((30, 1), (1, 40), (30, 40)), strict=True))
        a, b = x.mean(1) - x.mean(), x.mean(0) - x.mean()
        e = x - x.mean() - a[:, None] - b
        wanted = (a**2).sum() / 30**2 + (b**2).sum() / 40**2 + (e**2).sum() / 1200**2
        found = estimates({"row": _crossed(x)}, ["c"], None, resamples=20_000)["row"]["c"]
        assert _spread(found) == pytest.approx(np.sqrt(wanted), rel=0.04)


def test_one_seed_is_the_plain_bootstrap_and_seeds_alone_need_no_items() -> None:
    x = np.random.default_rng(1).normal(size=50)
    row = estimates({"row": [_replicate(4, [str(i) for i in range(50)], c=x)]}, ["c"], None, resamples=20_000)["row"]
    assert row["c"].over == "items"
    assert _spread(row["c"]) == pytest.approx(x.std() / np.sqrt(50), rel=0.03)
    scores = np.random.default_rng(2).normal(size=25)
    seeds = [Replicate(s, {"bleu": float(score)}) for s, score in enumerate(scores)]
    row = estimates({"row": seeds}, ["bleu"], None, resamples=20_000)["row"]
    assert row["bleu"].over == "seeds"
    assert _spread(row["bleu"]) == pytest.approx(scores.std() / 5, rel=0.04)


def test_the_stated_excess_where_every_seed_has_items_of_its_own() -> None:
    """Noise of single values alone: 3 times its variance (Owen 2007)."""
    x = np.random.default_rng(0).normal(size=(40, 40))
    rows = {"row": [_replicate(s, [f"{s} {i}" for i in range(40)], c=row) for s, row in enumerate(x)]}
    found = estimates(rows, ["c"], None, resamples=4_000)["row"]["c"]
    assert _spread(found) ** 2 * 1600 == pytest.approx(3.0, rel=0.3)


# --- simulation


@pytest.mark.parametrize(
    ("layout", "spreads", "least", "most"),
    [
        ("crossed", (1.0, 1.5, 1.0), 0.88, 0.985),
        ("nested", (1.0, 0.0, 1.5), 0.88, 0.985),
        ("one seed", (0.0, 1.0, 0.0), 0.9, 0.985),
    ],
)
def test_coverage_of_simulated_data(layout: str, spreads: tuple[float, ...], least: float, most: float) -> None:
    rng = np.random.default_rng(0)
    seeds, items = {"crossed": (15, 30), "nested": (20, 10), "one seed": (1, 40)}[layout]
    held = 0
    for _ in range(250):
        shapes = ((seeds, 1), (1, items), (seeds, items))
        x = 0.5 + sum(s * rng.normal(size=shape) for s, shape in zip(spreads, shapes, strict=True))
        name = "{s} {i}" if layout == "nested" else "{i}"
        rows = [_replicate(s, [name.format(s=s, i=i) for i in range(items)], c=x[s]) for s in range(seeds)]
        found = estimates({"row": rows}, ["c"], None, resamples=400)["row"]["c"]
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.5 <= found.high
    assert least <= held / 250 <= most


def test_p_of_no_effect_is_spread_evenly_and_that_of_an_effect_is_small() -> None:
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(60)]
    none, some = [], []
    for _ in range(250):
        base, noise = rng.normal(size=60), rng.normal(size=(2, 60))
        rows = {
            "base": [_replicate(0, ids, c=base)],
            "same": [_replicate(0, ids, c=base + noise[0])],
            "more": [_replicate(0, ids, c=base + noise[1] + 0.8)],
        }
        found = estimates(rows, ["c"], "base", resamples=400)
        none.append(found["same"]["c"].p)
        some.append(found["more"]["c"].p)
    counts = np.histogram(none, 5, (0, 1))[0] / 250
    assert np.abs(counts - 0.2).max() < 0.08
    assert np.mean(np.array(none) < 0.05) < 0.1
    assert np.max(some) < 0.01


# --- differences


def test_correlated_rows_are_told_apart_by_pairs() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, 1)) + 3 * rng.normal(size=(1, 80))
    rows = {"base": _crossed(x), "row": _crossed(x + 0.2 + 0.1 * rng.normal(size=x.shape))}
    found = estimates(rows, ["c"], "base", resamples=2_000)["row"]["c"]
    assert found.low is not None
    assert found.high is not None
    assert found.difference_low is not None
    assert found.difference_high is not None
    assert found.high - found.low > 20 * (found.difference_high - found.difference_low)
    assert 0.15 < found.difference_low < 0.2 < found.difference_high < 0.25
    assert found.p == pytest.approx(2 / 2001)


def test_an_equal_row_differs_by_nothing_and_the_baseline_has_no_difference() -> None:
    x = np.random.default_rng(0).normal(size=(3, 20))
    rows = {"base": _crossed(x), "same": _crossed(x)}
    found = estimates(rows, ["c"], "base", resamples=500)
    same = found["same"]["c"]
    assert (same.difference, same.difference_low, same.difference_high) == (0, 0, 0)
    assert same.p == same.p_corrected == 1.0
    base = found["base"]["c"]
    assert base.difference is base.difference_low is base.p is base.p_corrected is None
    assert base.difference_over == ""
    assert estimates(rows, ["c"], None, resamples=50)["same"]["c"].p is None


def test_p_over_few_seeds_alone_claims_no_more_than_signs_can() -> None:
    rows = {
        "base": [Replicate(s, {"bleu": 0.1 * s}) for s in range(4)],
        "row": [Replicate(s, {"bleu": 0.1 * s + 0.5 + 0.01 * s}) for s in range(4)],
    }
    found = estimates(rows, ["bleu"], "base", resamples=1_000)["row"]["bleu"]
    assert found.difference_over == "seeds"
    assert found.difference_low is not None
    assert found.difference_low > 0.5 - 1e-9
    assert found.p == pytest.approx(2 / 16)  # of 4 signs all the same, either way


# --- Holm


def test_holm_by_hand() -> None:
    """Sorted .005, .01, .03, .04: times 4, 3, 2, 1 = .02, .03, .06, .04, and none below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.6]) == [1.0, 1.0]
    assert holm([]) == []


def test_holm_rejects_what_its_steps_reject() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        p = rng.uniform(size=6) ** 3
        for level in (0.05, 0.2):
            rejected = set()
            for step, i in enumerate(np.argsort(p)):
                if p[i] > level / (6 - step):
                    break
                rejected.add(int(i))
            assert rejected == {i for i, one in enumerate(holm(list(p))) if one <= level}


def test_each_column_is_corrected_over_the_rows_compared_in_it() -> None:
    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(40)]
    base = rng.normal(size=(2, 40))
    rows = {"base": [_replicate(0, ids, c=base[0], d=base[1])]}
    for k in range(4):
        noise = rng.normal(size=(2, 40)) + 0.3
        rows[f"r{k}"] = [_replicate(0, ids, **dict(zip("cd"[: 2 - k // 3], base + noise, strict=False)))]
    found = estimates(rows, ["c", "d"], "base", resamples=999)
    for column, names in (("c", ["r0", "r1", "r2", "r3"]), ("d", ["r0", "r1", "r2"])):
        p = [found[name][column].p for name in names]
        assert [found[name][column].p_corrected for name in names] == pytest.approx(holm([x or 0.0 for x in p]))
    assert found["r3"]["d"] == Estimate()


# --- what is missing, and what is refused


def test_a_score_that_is_no_mean_of_its_items_is_resampled_over_seeds() -> None:
    rows = {
        "row": [
            Replicate(
                s, {"bleu": 0.3 + 0.1 * s, "cider": 1.0 + s}, {"bleu": np.array([0.1, 0.2]), "cider": x}, ("a", "b")
            )
            for s, x in enumerate((np.array([0.5, 1.5]), np.array([1.0, 3.0])))
        ]
    }
    found = estimates(rows, ["bleu", "cider", "meteor"], None, resamples=200)["row"]
    assert (found["bleu"].over, found["cider"].over) == ("seeds", "items and seeds")
    assert (found["bleu"].low, found["bleu"].high) == pytest.approx((0.3, 0.4))
    assert found["meteor"] == Estimate()
    one = estimates({"row": rows["row"][:1]}, ["bleu"], None, resamples=200)["row"]["bleu"]
    assert one == Estimate(mean=0.3)


def test_missing_replicates() -> None:
    x = np.random.default_rng(0).normal(size=(3, 20))
    every = _crossed(x)
    failed = Replicate(1, {"c": None}, {}, ())
    rows = {
        "base": every,
        "two": [every[0], failed, every[2]],
        "none": [],
        "apart": [_replicate(8, ["x", "y"], c=[1, 2])],
    }
    found = estimates(rows, ["c"], "base", resamples=300)
    assert found["two"]["c"].mean == pytest.approx(x[[0, 2]].mean())
    assert (found["two"]["c"].difference, found["two"]["c"].p) == (0, 1.0)
    assert found["none"]["c"] == Estimate()
    assert found["apart"]["c"].over == "items"
    assert found["apart"]["c"].difference is None
    assert found["two"]["c"].p_corrected == 1.0  # of one comparison
    assert estimates({"base": [], "row": every}, ["c"], "base", resamples=50)["row"]["c"].difference is None
    assert estimates({}, ["c"], None) == {}


def test_an_item_without_a_score_counts_as_one_that_is_not_there() -> None:
    ids, nan = ["p", "q", "r", "z"], np.nan
    b = [_replicate(s, ids, c=RNG.normal(size=4), d=RNG.normal(size=4)) for s in (0, 1)]
    c, d = RNG.normal(size=(2, 4)), RNG.normal(size=(2, 4))
    gaps = [_replicate(s, ids, c=[c[s, 0], nan, *c[s, 2:]], d=[*d[s, :3], nan]) for s in (0, 1)]
    without_q = [_replicate(s, ["z", "r", "p"], c=c[s, [3, 2, 0]], d=d[s, [3, 2, 0]]) for s in (0, 1)]
    without_z = [_replicate(s, ids[:3], c=c[s, :3], d=d[s, :3]) for s in (0, 1)]
    found = estimates({"a": gaps, "b": b}, ["c", "d"], "b", resamples=200)
    for column, others in (("c", without_q), ("d", without_z)):
        wanted = estimates({"a": others, "b": b}, [column], "b", resamples=200)
        assert found["a"][column].over == found["a"][column].difference_over == "items and seeds"
        assert numbers_of(found["a"][column]) == pytest.approx(numbers_of(wanted["a"][column]), rel=1e-12)
    # Made of both columns in each draw, it is over the items that have both.
    both = [_replicate(s, ["p", "r"], c=c[s, [0, 2]], d=d[s, [0, 2]]) for s in (0, 1)]
    total = {"sum": Derived(("c", "d"), lambda x, y: x + y)}
    one, other = (estimates({"a": a, "b": b}, ["sum"], None, resamples=200, derived=total) for a in (gaps, both))
    assert (one["a"]["sum"].low, one["a"]["sum"].high) == pytest.approx((other["a"]["sum"].low, other["a"]["sum"].high))
    nothing = _replicate(0, ids, c=[1.0, nan, nan, nan])
    assert estimates({"a": [nothing]}, ["c"], None, resamples=10)["a"]["c"] == Estimate(1.0, None, None, "")


def numbers_of(estimate: Estimate) -> dict[str, float]:
    """All of it but what it is over, and p as corrected for other columns."""
    return {name: value for name, value in asdict(estimate).items() if isinstance(value, float)}


def test_the_harmonic_mean_of_each_draw() -> None:
    import statistics

    rng = np.random.default_rng(0)
    ids = [str(i) for i in range(30)]
    row = [
        _replicate(s, ids, centred_paired_cosine=rng.uniform(size=30), centred_r_at_1=rng.integers(2, size=30))
        for s in range(2)
    ]
    below = rng.uniform(size=30) - 2
    lost = [_replicate(s, ids, centred_paired_cosine=below, centred_r_at_1=np.ones(30)) for s in range(2)]
    derived = {"harmonic_mean": HARMONIC_MEAN}
    found = estimates({"row": row, "lost": lost}, ["harmonic_mean"], "lost", resamples=300, derived=derived)
    wanted = np.mean([statistics.harmonic_mean(x for x in one.columns.values() if x is not None) for one in row])
    own = found["row"]["harmonic_mean"]
    assert own.mean == own.difference == pytest.approx(wanted)
    assert own.low is not None
    assert own.high is not None
    assert own.low < wanted < own.high
    assert found["lost"]["harmonic_mean"].mean == found["lost"]["harmonic_mean"].high == 0.0


def test_what_does_not_fit_together_is_refused() -> None:
    good = _replicate(0, ["a", "b"], c=[1.0, 2.0])
    with pytest.raises(DataError, match=r"baseline 'x' is none of the rows: row"):
        estimates({"row": [good]}, ["c"], "x")
    with pytest.raises(DataError, match="two replicates of one seed"):
        estimates({"row": [good, good]}, ["c"], None)
    for wrong in ({"level": 1.0}, {"level": 0.0}, {"resamples": 0}):
        with pytest.raises(DataError, match="expected a level"):
            estimates({"row": [good]}, ["c"], None, **wrong)
    with pytest.raises(DataError, match="an item twice"):
        _replicate(0, ["a", "a"], c=[1.0, 2.0])
    with pytest.raises(DataError, match="one value for each of the 2 ids"):
        _replicate(0, ["a", "b"], c=[1.0, 2.0, 3.0])
    with pytest.raises(DataError, match="infinity among the items of 'c'"):
        _replicate(0, ["a", "b"], c=[1.0, np.inf])
