"""Figures of a comparison: its frontier, one measure against another, and the ranking with intervals.

Rows as in `comparison_tables`. A row that lacks a measure is left out where that measure is drawn; the ceiling, which
is given the true texts, is drawn in the ranking alone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from modbridge.comparison_tables import ORACLE, heading, ordered
from modbridge.figures import make_figure, save
from modbridge.rank_correlation import spearman
from modbridge.tables import Row, is_number

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

PALETTE = ("#00798c", "#d1495b", "#66a182", "#edae49", "#6a4c93", "#8d6a4f", "#3d405b", "#999999")
GREY = "#888888"
SIZE = (8.4, 6.4)
NEAR = 4.0  # pixels; points nearer than this have one label
NAMES_OF_A_LABEL = 5
LABELS = 40  # with more points, only some are labelled
RINGS = (9, 20, 34, 50, 70, 95)  # pixels from a point at which a label is tried
DIRECTIONS = tuple((math.cos(angle), math.sin(angle)) for angle in np.linspace(0, 2 * math.pi, 12, endpoint=False))


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """The places of the points that no other beats, being as high in both and higher in one. Equal points both stay."""
    return [
        i
        for i, (x, y) in enumerate(points)
        if not any(other[0] >= x and other[1] >= y and other != (x, y) for other in points)
    ]


def frontier(
    rows: Sequence[Row], path: Path, x: str = "centred_r_at_1", y: str = "centred_paired_cosine", title: str = ""
) -> None:
    """A PNG with a point for each row, coloured by what it needs, with intervals; the Pareto front as a dotted line."""
    drawn = _with(rows, x, y)
    kinds = [f"needs {row['group']}" for row in drawn]
    points = [(float(row[x]), float(row[y])) for row in drawn]
    front = sorted(points[i] for i in pareto(points))
    _scatter(drawn, path, (x, y), kinds, title, front)


def agreement(rows: Sequence[Row], path: Path, x: str, y: str) -> float | None:
    """A PNG with a point for each row, coloured by `augment`; gives Spearman's rank correlation of the two measures."""
    drawn = _with(rows, x, y)
    found = spearman([row[x] for row in drawn], [row[y] for row in drawn]) if len(drawn) > 1 else None
    told = "not defined" if found is None else f"{found:.2f}"
    kinds = [_plain(f"augment: {row.get('augment') or 'none'}") for row in drawn]
    title = f"Spearman's rank correlation: {told} ({len(drawn)} rows)"
    _scatter(drawn, path, (x, y), kinds, title)
    return found


def ranking(rows: Sequence[Row], path: Path, column: str) -> None:
    """A PNG with a line for each row, within its group by rank: the mean and its interval; the baseline upright.

    Rows without the measure are listed, with no point.
    """
    lines: list[tuple[str, Row | None]] = []
    group = None
    for row in ordered(rows):
        if row["group"] != group:
            group = row["group"]
            lines.append((f"needs {group}", None))
        lines.append((_plain(row["row"]), row))
    figure, (axes,) = make_figure(1, panel=(SIZE[0], max(2.0, 1.0 + 0.27 * len(lines))))
    colours = _colours([label for label, line in lines if line is None])
    colour = GREY
    for place, (label, line) in enumerate(lines):
        if line is None:
            colour = colours[label]
        elif _finite(line, column):
            axes.errorbar(line[column], place, xerr=_interval(line, column), fmt="o", ms=5, capsize=2, color=colour)
    base = next((row for row in rows if row.get("baseline") and _finite(row, column)), None)
    if base is not None:
        axes.axvline(base[column], color=GREY, lw=1, ls="--", zorder=0)
        axes.set_title(f"dashed: the baseline {_plain(base['row'])}", fontsize=10, color=GREY)
    names = [label if line is None or _finite(line, column) else f"{label} (none)" for label, line in lines]
    axes.set_yticks(range(len(lines)), names, fontsize=8)
    for tick, (_, line) in zip(axes.get_yticklabels(), lines, strict=True):
        tick.set_fontweight("normal" if line else "bold")
    axes.set_ylim(max(len(lines), 1) - 0.4, -0.6)
    axes.set_xlabel(heading(column))
    axes.grid(axis="x", alpha=0.25)
    save(figure, path)


def _with(rows: Sequence[Row], *columns: str) -> list[Row]:
    return [r for r in ordered(rows) if r["group"] != ORACLE and all(_finite(r, column) for column in columns)]


def _finite(row: Row, column: str) -> bool:
    value = row.get(column)
    return is_number(value) and math.isfinite(value)


def _interval(row: Row, column: str) -> list[list[float]] | None:
    """How far the interval's bounds are from the mean, as matplotlib takes them."""
    if not (_finite(row, f"{column}_low") and _finite(row, f"{column}_high")):
        return None
    mean = row[column]
    return [[max(0.0, mean - row[f"{column}_low"])], [max(0.0, row[f"{column}_high"] - mean)]]


def _plain(text: object) -> str:
    """Text that matplotlib takes for no formula."""
    return str(text).replace("$", r"\$")


def _colours(names: Sequence[str]) -> dict[str, str]:
    return {name: PALETTE[i % len(PALETTE)] for i, name in enumerate(dict.fromkeys(names))}


def _scatter(
    rows: Sequence[Row],
    path: Path,
    columns: tuple[str, str],
    kinds: Sequence[str],
    title: str,
    front: Sequence[tuple[float, float]] = (),
) -> None:
    """A labelled point for each row in the colour of its kind; `front` falls from left to right."""
    x, y = columns
    figure, (axes,) = make_figure(1, panel=SIZE)
    colours = _colours(kinds)
    for kind, colour in colours.items():
        axes.plot([], [], "o", color=colour, label=kind)
    for row, kind in zip(rows, kinds, strict=True):
        axes.errorbar(
            row[x], row[y], xerr=_interval(row, x), yerr=_interval(row, y), fmt="*" if row.get("baseline") else "o",
            ms=11 if row.get("baseline") else 5, lw=0.8, alpha=0.85, color=colours[kind],
        )  # fmt: skip
    if front:
        label = "no row is better in both"
        axes.plot(*zip(*front, strict=True), drawstyle="steps-pre", ls=":", lw=1.2, color=GREY, label=label, zorder=0)
    if any(row.get("baseline") for row in rows):
        axes.plot([], [], "*", ms=10, color=GREY, label="baseline")
    if not rows:
        axes.text(0.5, 0.5, "no row has both measures", ha="center", va="center", transform=axes.transAxes)
    axes.set(xlabel=heading(x), ylabel=heading(y))
    axes.set_title(title, fontsize=11)
    axes.grid(alpha=0.25)
    axes.margins(0.08)
    if handles := axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside lower center", ncols=min(3, len(handles)), frameon=False, fontsize=9)
    figure.draw_without_rendering()  # the layout is made; what labels add to it, they may not move
    _label(axes, [(_plain(row["row"]), float(row[x]), float(row[y])) for row in _named(rows, x, y)])
    save(figure, path)


def _named(rows: Sequence[Row], x: str, y: str) -> Sequence[Row]:
    """The rows that get a label: all; of very many, the highest of those at one place across, and the baseline."""
    if len(rows) <= LABELS:
        return rows
    best: dict[float, Row] = {}
    for row in rows:
        place = round(float(row[x]), 4)
        if place not in best or row[y] > best[place][y]:
            best[place] = row
    return [row for row in rows if row.get("baseline") or any(row is shown for shown in best.values())]


def _label(axes: Axes, points: Sequence[tuple[str, float, float]]) -> None:
    """A label near each point, where it covers no point and no other label if there is such a place."""
    from matplotlib.transforms import Bbox

    spots = [tuple(axes.transData.transform((x, y))) for _, x, y in points]
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in spots]
    left = list(range(len(points)))
    while left:
        near = [i for i in left if math.dist(spots[i], spots[left[0]]) < NEAR]
        names = [points[i][0] for i in near]
        more = len(names) - NAMES_OF_A_LABEL
        text = "\n".join([*names[:NAMES_OF_A_LABEL], *([f"and {more} more"] if more > 0 else [])])
        taken.append(_place(axes, text, points[near[0]][1:], taken))
        left = [i for i in left if i not in near]


def _place(axes: Axes, text: str, point: tuple[float, float], taken: Sequence[Bbox]) -> Bbox:
    """Write `text` beside the point, at the nearest of the places tried that covers least; gives what it covers."""
    from matplotlib.transforms import Bbox

    label = axes.annotate(
        text, point, (0, 0), textcoords="offset pixels", fontsize=7, annotation_clip=False,
        arrowprops={"arrowstyle": "-", "lw": 0.5, "color": GREY, "shrinkA": 0, "shrinkB": 2},
    )  # fmt: skip
    label.set_in_layout(False)
    size = label.get_window_extent()
    x, y = axes.transData.transform(point)

    def box(offset: tuple[float, float]) -> Bbox:
        return Bbox.from_bounds(x + offset[0], y + offset[1], size.width, size.height)

    def cost(offset: tuple[float, float]) -> float:
        covered = sum(_shared(box(offset), other) for other in taken)
        outside = size.width * size.height - _shared(box(offset), axes.bbox)
        return float(round(covered + 4 * outside, 3))

    # The label's side that faces the point is a ring's radius away from it.
    offsets = [
        (ring * across + (across - 1) / 2 * size.width, ring * up + (up - 1) / 2 * size.height)
        for ring in RINGS
        for across, up in DIRECTIONS
    ]
    best = min(offsets, key=cost)
    label.set_position(best)
    return box(best)


def _shared(a: Bbox, b: Bbox) -> float:
    """The area that two boxes share, in square pixels."""
    width = min(a.x1, b.x1) - max(a.x0, b.x0)
    height = min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(0.0, width) * max(0.0, height))
