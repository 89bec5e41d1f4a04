"""Figures of a comparison: the front and the rank correlation against other computations, and what is drawn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modbridge.comparison_figures import agreement, frontier, pareto, ranking
from modbridge.rank_correlation import spearman

X, Y = "centred_r_at_1", "centred_paired_cosine"
GROUPS = ("nothing", "text", "text + source", "text + source + pairs")


def rows(count: int) -> list[dict[str, Any]]:
    random = np.random.default_rng(3)
    found: list[dict[str, Any]] = []
    for i in range(count):
        row: dict[str, Any] = {"row": f"bridge_{i}/noise", "group": GROUPS[i % 4], "rank": i // 4 + 1, "needs": []}
        row |= {"augment": ("none", "noise")[i % 2], "baseline": i == 0, "failed": None}
        for column in (X, Y, "cider"):
            value = float(random.uniform(0.2, 0.8))
            row |= {column: value, f"{column}_low": value - 0.02, f"{column}_high": value + 0.03}
        found.append(row)
    return found


FAILED = {"row": "broken", "group": "text", "rank": None, "needs": ["text"], "augment": "none", "failed": "why"}
DRAWINGS: dict[str, Callable[[list[dict[str, Any]], Path], object]] = {
    "frontier": frontier,
    "agreement": lambda found, path: agreement(found, path, X, "cider"),
    "ranking": lambda found, path: ranking(found, path, X),
}


def test_the_front_is_that_of_brute_force() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(a), float(b)) for a, b in random.integers(0, 6, (12, 2))]
        beaten = {
            i
            for i, j in itertools.permutations(range(12), 2)
            if all(b >= a for a, b in zip(points[i], points[j], strict=True)) and sum(points[j]) > sum(points[i])
        }
        assert pareto(points) == sorted(set(range(12)) - beaten)


def test_the_front_of_known_points() -> None:
    assert pareto([(0, 3), (1, 1), (2, 2), (3, 0), (2, 2), (2, 1)]) == [0, 2, 3, 4]
    assert pareto([(1.0, 1.0)]) == [0]
    assert pareto([]) == []


def test_the_rank_correlation_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(1)
    for _ in range(20):
        x, y = random.integers(0, 5, (2, 9)).tolist()  # with ties
        found = spearman(x, y)
        assert found == pytest.approx(float(stats.spearmanr(x, y).statistic), abs=1e-12)
    assert spearman([1, 2, 3], [10.0, 100.0, 1e9]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 3], [5, 5, 5]) is None
    assert spearman([], []) is None


def test_agreement_gives_the_correlation_of_rows_that_have_both(tmp_path: Path) -> None:
    found = [
        {"row": str(i), "group": "text", "rank": i, "augment": "none", "x": x, "y": y}
        for i, (x, y) in enumerate([(1.0, 2.0), (2.0, 9.0), (3.0, 11.0), (None, 0.0), (9.0, math.nan)])
    ]
    assert agreement(found, tmp_path / "a.png", "x", "y") == pytest.approx(1)
    assert agreement(found[:1], tmp_path / "a.png", "x", "y") is None


@pytest.mark.parametrize("name", DRAWINGS)
def test_thirty_rows_are_drawn_and_the_same_again(name: str, tmp_path: Path) -> None:
    found = [*rows(29), dict(FAILED)]
    first, second = tmp_path / "first.png", tmp_path / "second.png"
    DRAWINGS[name](found, first)
    DRAWINGS[name](list(reversed(found)) if name == "ranking" else found, second)
    assert first.read_bytes() == second.read_bytes()
    with Image.open(first) as picture:
        assert 600 < picture.width < 1500
        assert 400 < picture.height < 1500
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20, "empty"
    assert len(first.read_bytes()) < 300_000


@pytest.mark.parametrize("name", DRAWINGS)
@pytest.mark.parametrize("found", [[], [FAILED], rows(1), [*rows(1), FAILED]])
def test_empty_and_failed_comparisons_are_drawn(name: str, found: list[dict[str, Any]], tmp_path: Path) -> None:
    DRAWINGS[name](found, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        assert picture.width > 300


def test_rows_in_one_place_and_odd_intervals_are_drawn(tmp_path: Path) -> None:
    """Bridges that only move the mean have the same centred measures; a mean may lie outside its interval."""
    same = [{**row, X: 0.5, Y: 0.5, f"{X}_low": 0.6, f"{X}_high": 0.7, "row": "$\\frac{$"} for row in rows(12)]
    for name, draw in DRAWINGS.items():
        draw(same, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").is_file()
