"""Spearman's rank correlation: whether two measures put rows in one order."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def spearman(x: Sequence[float], y: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties with their mean rank; None where it is not defined: one side is constant."""
    if not len(x):
        return None
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    size = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / size if size else None


def _ranks(values: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    array = np.asarray(values, dtype=np.float64)
    below = (array[:, None] > array[None]).sum(1)
    equal = (array[:, None] == array[None]).sum(1)
    ranks: np.ndarray[tuple[int], np.dtype[np.float64]] = below + (equal + 1) / 2
    return ranks
