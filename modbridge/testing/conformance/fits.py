"""A fit that is watched: its checkpoints counted, its losses kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbridge.testing.fitting import MemoryFitting

FEWEST = 3  # losses that say whether they fall


class Watched(MemoryFitting):
    """As its parent; `losses`: those of each part of the fit, step by step, as far as it tells them."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.losses: dict[str, list[float]] = {}
        self._sums: dict[str, float] = {}

    def checkpoint(self, name: str, state: Callable[[], dict[str, Any]], *, force: bool = False) -> None:
        now = state()
        # `modbridge.training.train` keeps the sum of the losses since its last log line.
        total = now.get("running")
        if isinstance(total, float):
            if total != 0.0:
                self.losses.setdefault(name, []).append(total - self._sums.get(name, 0.0))
            self._sums[name] = total
        super().checkpoint(name, state, force=force)

    def ends(self) -> tuple[float, float] | None:
        """The mean of the first and of the last quarter of the losses of the longest part of the fit; None if it told
        too few."""
        logged = [float(values["loss"]) for values in self.logged if isinstance(values.get("loss"), int | float)]
        found = max([*self.losses.values(), logged], key=len)
        if len(found) < FEWEST:
            return None
        width = max(1, len(found) // 4)
        return sum(found[:width]) / width, sum(found[-width:]) / width
