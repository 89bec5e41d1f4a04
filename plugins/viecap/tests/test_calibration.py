"""Temperature and threshold chosen on texts."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from modbridge_viecap.calibration import calibrate, calibrate_mix
from modbridge_viecap.scoring import Side

from modbridge.errors import DataError

OPEN = {"top_k": 3, "temperature": None, "threshold": None, "standardise": False}


def world(texts=24, names=9, dim=6, seed=0):
    """Texts near the names that they say, with noise."""
    rng = np.random.default_rng(seed)
    listed = rng.normal(size=(names, dim))
    truth = [sorted(rng.choice(names, size=rng.integers(0, 3), replace=False).tolist()) for _ in range(texts)]
    queries = rng.normal(size=(texts, dim)) + [2 * listed[said].sum(0) for said in truth]
    unit = torch.nn.functional.normalize
    return Side(*(unit(torch.tensor(x, dtype=torch.float32), dim=1) for x in (queries, listed))), truth


def table(side, temperature, standardise):
    queries, names = (x.double().numpy() for x in (side.queries, side.names))
    logits = (queries / np.linalg.norm(queries, axis=1, keepdims=True)) @ (
        names / np.linalg.norm(names, axis=1, keepdims=True)
    ).T
    if standardise:
        logits = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    e = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return e / e.sum(1, keepdims=True)


def judged(scores, truth, top_k, threshold):
    """(precision, recall, F0.5), counted name by name."""
    good = number = 0
    for row, said in zip(scores, truth, strict=True):
        for name in sorted(range(len(row)), key=lambda i: -row[i])[:top_k]:
            if row[name] >= threshold - 6e-10:
                number += 1
                good += name in said
    true = sum(map(len, truth))
    return good / number if number else 0.0, good / true, 1.25 * good / (number + 0.25 * true)


def searched(tables, truth, top_k):
    """The best (F0.5, threshold) by trying every score of every table."""
    return max(
        (judged(scores, truth, top_k, threshold)[2], threshold) for scores in tables for threshold in np.unique(scores)
    )


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_on_the_grid_is_better(seed, standardise):
    side, truth = world(seed=seed)
    found = calibrate(side, truth, **{**OPEN, "standardise": standardise})
    low, high = (0.05, 12.5) if standardise else (0.002, 0.5)
    grid = np.geomspace(low, high, 25)
    assert np.isclose(grid, found.temperature).any()
    f1, threshold = searched([table(side, t, standardise) for t in grid], truth, 3)
    assert found.f_beta == pytest.approx(f1, abs=1e-12)
    assert found.threshold == pytest.approx(threshold, abs=1e-6)
    expected = judged(table(side, found.temperature, standardise), truth, 3, found.threshold)
    assert (found.precision, found.recall, found.f_beta) == pytest.approx(expected)
    assert found.count == len(truth)
    assert 0.3 < found.f_beta < 1.0


def test_what_is_given_stays():
    side, truth = world()
    both = calibrate(side, truth, top_k=2, temperature=0.1, threshold=0.3, standardise=False)
    assert (both.temperature, both.threshold) == (0.1, 0.3)
    assert (both.precision, both.recall, both.f_beta) == pytest.approx(judged(table(side, 0.1, False), truth, 2, 0.3))
    warm = calibrate(side, truth, top_k=2, temperature=0.1, threshold=None, standardise=False)
    assert warm.temperature == 0.1
    assert (warm.f_beta, warm.threshold) == pytest.approx(searched([table(side, 0.1, False)], truth, 2))
    cut = calibrate(side, truth, top_k=2, temperature=None, threshold=0.3, standardise=False)
    assert cut.threshold == 0.3
    assert cut.f_beta == pytest.approx(
        max(judged(table(side, t, False), truth, 2, 0.3)[2] for t in np.geomspace(0.002, 0.5, 25))
    )


def test_texts_that_say_one_name_clearly_are_all_found():
    side = Side(torch.eye(5)[[0, 3, 3, 1]], torch.eye(5))
    found = calibrate(side, [[0], [3], [3], [1]], **OPEN)
    assert (found.precision, found.recall, found.f_beta) == (1.0, 1.0, 1.0)
    assert found.temperature == pytest.approx(0.002)
    assert found.threshold == 1.0


def test_a_mix_has_a_threshold_of_its_own():
    one, truth = world(seed=3)
    other = Side(world(seed=4)[0].queries + one.queries, one.names)
    other = Side(torch.nn.functional.normalize(other.queries, dim=1), other.names)
    found = calibrate_mix([one, other], truth, **OPEN)
    temperatures = [calibrate(side, truth, **OPEN).temperature for side in (one, other)]
    assert [c.temperature for c in found] == temperatures
    mean = sum(table(side, t, False) for side, t in zip((one, other), temperatures, strict=True)) / 2
    assert found[0].threshold == found[1].threshold
    assert (found[0].f_beta, found[0].threshold) == pytest.approx(searched([mean], truth, 3), abs=1e-6)


def test_a_mix_of_one_is_that_one():
    side, truth = world()
    assert calibrate_mix([side], truth, **OPEN) == [calibrate(side, truth, **OPEN)]


def test_texts_that_say_nothing_are_refused():
    side, truth = world()
    with pytest.raises(DataError, match="none of 24 training texts says a name"):
        calibrate(side, [[] for _ in truth], **OPEN)


def test_the_whole_search_takes_seconds():
    side, truth = world(texts=2000, names=2000, dim=64)
    start = time.perf_counter()
    calibrate(side, truth, **OPEN)
    assert time.perf_counter() - start < 30
