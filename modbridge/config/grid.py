"""`grid`: variants by combination. Every point of a grid becomes a variant, named by its values.

A block holds one axis a line, `FIELD: {NAME: VALUE, ...}` or `FIELD: [VALUE, ...]`; a list of blocks holds several
grids, whose points stand one after the other. The point ridge, noise of

    grid:
      bridge: {ridge: {type: ridge}, none: identity}
      augment: {plain: identity, noise: capdec}

is the variant `ridge/noise`, which changes the two fields. A value named "" adds nothing to the name.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from modbridge.config.reading import KeyPath, Mark, Marks, dotted, flow_text, nearest_mark
from modbridge.errors import Problem

GRID, VARIANTS = "grid", "variants"
# Read by the loader itself, before a pipeline is checked: they hold overrides, not settings.
LOADER_FIELDS = (VARIANTS, GRID, "profiles")
HINT = "write grid: {FIELD: {NAME: VALUE, ...}, ...}"


def with_grid(tree: dict[str, Any], marks: Marks, problems: list[Problem]) -> tuple[dict[str, Any], Marks]:
    """`tree` with the points of its `grid` among its `variants`, after those that it names itself."""
    grid = tree.get(GRID)
    variants = tree.get(VARIANTS) or {}
    if grid is None or not isinstance(variants, dict):
        return tree, marks
    if grid == []:
        problems.append(_problem((GRID,), "holds no grid", marks, HINT))
    blocks = [((GRID, i), block) for i, block in enumerate(grid)] if isinstance(grid, list) else [((GRID,), grid)]
    found, marks = dict(variants), dict(marks)
    for place, block in blocks:
        axes = _axes(place, block, marks, problems)
        for point in itertools.product(*axes) if axes else ():
            name = "/".join(value_name for _, value_name, _, _ in point if value_name)
            if name in found:
                message = f"gives the variant {name!r} twice"
                problems.append(_problem(place, message, marks, "give one of the two another name"))
                continue
            found[name] = {}
            for steps, _, value, at in point:
                _put(found[name], steps, value)
                own = {(VARIANTS, name, *steps, *path[len(at) :]): m for path, m in _under(marks, at).items()}
                marks |= own
    return {**tree, VARIANTS: found}, marks


# (field's path, the value's name, the value, where it was written)
Value = tuple[tuple[str, ...], str, Any, KeyPath]


def _axes(place: KeyPath, block: Any, marks: Marks, problems: list[Problem]) -> list[list[Value]]:
    """The axes of one block; none where something is wrong with one of them."""
    if not isinstance(block, Mapping) or not block:
        problems.append(_problem(place, f"expected a block of fields and their values, found {block!r}", marks, HINT))
        return []
    axes: list[list[Value]] = []
    before = len(problems)
    for field, values in block.items():
        at, steps = (*place, field), tuple(str(field).split("."))
        if not values or not isinstance(values, Mapping | list):
            problems.append(_problem(at, f"expected values with names, found {values!r}", marks, HINT))
        for other in block:
            theirs = tuple(str(other).split("."))
            if other != field and steps[: len(theirs)] == theirs:
                message = f"varies a field that {other!r} varies too"
                problems.append(_problem(at, message, marks, "vary it in one of the two"))
        if isinstance(values, Mapping):
            axes.append([(steps, str(name), value, (*at, name)) for name, value in values.items()])
        elif isinstance(values, list):
            named = [value if isinstance(value, str) else flow_text(value) for value in values]
            axes.append([(steps, name, values[i], (*at, i)) for i, name in enumerate(named)])
    return axes if len(problems) == before else []


def _put(block: dict[str, Any], steps: tuple[str, ...], value: Any) -> None:
    for step in steps[:-1]:
        block = block.setdefault(step, {})
    block[steps[-1]] = value


def _under(marks: Marks, at: KeyPath) -> dict[KeyPath, Mark]:
    """The marks of a value and of everything inside it."""
    found = {path: mark for path, mark in marks.items() if path[: len(at)] == at}
    nearest = nearest_mark(marks, at)
    return found or ({at: nearest} if nearest else {})


def _problem(place: KeyPath, message: str, marks: Marks, hint: str) -> Problem:
    return Problem(dotted(place), message, where=str(nearest_mark(marks, place) or ""), hint=hint)
