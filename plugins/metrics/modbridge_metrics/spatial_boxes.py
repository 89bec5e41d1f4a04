"""Objects with their boxes: read from an answer, paired with those of another image, compared."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from modbridge_metrics.spatial_config import MOST, SIDE


@dataclass(frozen=True)
class Thing:
    """An object: its name, and the centre and size of its box, (x, y) in shares of the image's sides."""

    name: str
    centre: tuple[float, float]
    size: tuple[float, float]


Pair = tuple[Thing, Thing]


def things(answer: str) -> list[Thing] | None:
    """The objects in an answer, the first `MOST`; None unless all of it is a JSON list of them, or such a list in a
    block of code. An empty list is an image without objects."""
    fenced = re.fullmatch(r"\s*```(?:json)?\s*\n(.*)\n\s*```\s*", answer, re.DOTALL)
    try:
        found = json.loads(fenced[1] if fenced else answer)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list):
        return None
    read = [_thing(one) for one in found]
    known = [one for one in read if one is not None]
    return known[:MOST] if len(known) == len(read) else None


def _thing(found: Any) -> Thing | None:
    if not isinstance(found, dict):
        return None
    name, box = found.get("name"), found.get("box")
    if not isinstance(name, str) or not name.strip() or not isinstance(box, list) or len(box) != 4:
        return None
    if not all(isinstance(at, int | float) and not isinstance(at, bool) and 0 <= at <= SIDE for at in box):
        return None
    left, top, right, bottom = (at / SIDE for at in box)
    if left >= right or top >= bottom:
        return None
    words = name.lower().split()
    plain = words[1:] if len(words) > 1 and words[0] in ("a", "an", "the") else words
    return Thing(" ".join(plain), ((left + right) / 2, (top + bottom) / 2), (right - left, bottom - top))


def pairs(some: Sequence[Thing], others: Sequence[Thing]) -> list[Pair]:
    """Objects of one name, one of each side. Where a name has several, as many are paired as can be, and so that the
    boxes' distances come to the least."""
    named: dict[str, tuple[list[Thing], list[Thing]]] = defaultdict(lambda: ([], []))
    for side, those in enumerate((some, others)):
        for one in those:
            named[one.name][side].append(one)
    return [pair for here, there in named.values() for pair in _nearest(here, there)]


def _nearest(here: Sequence[Thing], there: Sequence[Thing]) -> list[Pair]:
    if len(here) > len(there):
        return [(b, a) for a, b in _nearest(there, here)]
    # Of every set of `there` that may be taken so far, the best way to take it: at most 252 sets of ten.
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    for one in here:
        longer: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {}
        for taken, (far, way) in best.items():
            for number in set(range(len(there))) - taken:
                found = (far + distance(one, there[number]), (*way, number))
                key = taken | {number}
                longer[key] = min(longer.get(key, found), found)
        best = longer
    _, way = min(best.values())
    return [(one, there[number]) for one, number in zip(here, way, strict=True)]


def distance(one: Thing, other: Thing) -> float:
    """The L1 distance of two boxes: of their centres, and of their sizes."""
    return centre_error(one, other) + size_error(one, other)


def centre_error(one: Thing, other: Thing) -> float:
    """How far two centres are apart, the mean of both directions, in shares of the image's sides."""
    return fmean(abs(a - b) for a, b in zip(one.centre, other.centre, strict=True))


def size_error(one: Thing, other: Thing) -> float:
    """How much widths and heights differ, the mean of both, in shares of the image's sides."""
    return fmean(abs(a - b) for a, b in zip(one.size, other.size, strict=True))
