"""Two ways of the same work, side by side in one run: what a row holds, and how both are timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one comparison found.

    `rate`, `rate_of`: how much of `unit` a second, and by what; `other`, `other_of`: the same of what it is compared
    with. `ratio` is the first by the second. `goal`: what the ratio is to reach; None where it is told for its own
    sake. `limit`: what the hardware or the method allows, where that explains the ratio. `rounds`: how often both took
    turns. `more`: other numbers of the comparison.
    """

    name: str
    unit: str
    rate: float
    rate_of: str
    other: float
    other_of: str
    goal: float | None
    rounds: int
    limit: str = ""
    more: Mapping[str, Any] | None = None

    @property
    def ratio(self) -> float:
        return self.rate / self.other

    def to_json(self) -> dict[str, Any]:
        found = asdict(self)
        ok = None if self.goal is None else self.ratio >= self.goal
        return {"name": self.name, "ratio": self.ratio, "goal": self.goal, "ok": ok, **found}


Way = Callable[[], object]


def fastest(ways: Mapping[str, Way], rounds: int, *, warm: bool = True) -> dict[str, float]:
    """Seconds of every way: the least of `rounds` rounds, in each of which all ways take their turn.

    On a machine that others use too, the least is what was disturbed least; taking turns, a slow minute is everyone's.
    With `warm`, every way is called once beforehand; ways of many seconds do without, since of several rounds a cold
    one is not the fastest.
    """
    if warm:
        for way in ways.values():
            way()
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            begun = time.perf_counter()
            way()
            best[name] = min(best[name], time.perf_counter() - begun)
    return best
