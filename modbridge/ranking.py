"""Ranks within equal needs: what a row takes decides whom it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modbridge.comparison_tables import NOTHING, ORACLE, SELECTION
from modbridge.resampling import TIE
from modbridge.tables import Row, is_number

ORDER = ("text", "source", "pairs", SELECTION)


def group_of(given: Sequence[str], oracle: bool) -> Row:
    """What a row takes, least first, and the group in which it is ranked."""
    order = [*(name for name in ORDER if name in given), *(name for name in given if name not in ORDER)]
    if oracle:
        return {"needs": order, "group": ORACLE}
    return {"needs": order, "group": " + ".join(order) or NOTHING}


def ranked(rows: Sequence[Row], rank_by: str, higher: bool) -> list[Row]:
    """Rows by group, the fewest needs first, and by rank within it. Equal rows share a rank; a row that failed, if only
    at one seed, has none: it can't be compared with rows of all seeds. Those come last."""

    def best(row: Row) -> float | None:
        value = row.get(rank_by)
        if not is_number(value) or row.get("failed") is not None:
            return None
        return -value if higher else value

    def place(row: Row) -> tuple[Any, ...]:
        needs_ = [ORDER.index(name) if name in ORDER else len(ORDER) for name in row["needs"]]
        found = best(row)
        return (row["group"] == ORACLE, len(needs_), needs_, found is None, 0.0 if found is None else found)

    ordered = sorted(rows, key=place)
    before: dict[str, list[float]] = {}
    for row in ordered:
        found, above = best(row), before.setdefault(row["group"], [])
        row["rank"] = None if found is None else 1 + sum(value < found - TIE for value in above)
        above += [] if found is None else [found]
    return ordered
