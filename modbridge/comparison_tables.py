"""The tables of a comparison: rows ranked among those that need the same data, means with intervals, what it cost.

Several small tables, so that each fits a terminal. CSV has every column of every row.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modbridge import rendering
from modbridge.gap_tables import COLUMNS as GAP_COLUMNS
from modbridge.gap_tables import COST, HEADINGS, cost_text
from modbridge.rank_correlation import spearman
from modbridge.rendering import GROUP, Table
from modbridge.tables import HIDDEN, Row, cell_text, is_number, notes_of

NOTHING, ORACLE = "nothing", "true texts"  # groups that are not named by kinds of data
MAIN = ("centred_paired_cosine", "centred_r_at_1", "paired_cosine", "r_at_1")
CLOUDS = ("harmonic_mean", "gap_norm", "hubness", "centred_hubness", "top_answer_share")
COSTS = ("parameters", "macs", "items_per_second", "peak_bytes", "batch")
ABOUT_ROW = ("rank", "group", "row", "bridge", "augment", "decoder", "needs", "baseline", "failed", "n", "seeds")
OF_A_MEASURE = ("low", "high", "std", "difference", "p")
PREDICTORS = (
    "centred_paired_cosine", "centred_r_at_1", "harmonic_mean", "paired_cosine", "r_at_1", "gap_norm",
    "energy_distance", "nearest_train_text",
)  # fmt: skip
ENOUGH = 8  # rows for a rank correlation
WIDTH = 5  # measures of one table, so that means and intervals fit 150 columns
UP, DOWN = "↑", "↓"

SELECTION = "pairs (selection)"
LETTERS = {
    "text": ("T", "texts"),
    "source": ("S", "unpaired source vectors"),
    "pairs": ("P", "pairs"),
    SELECTION: ("p", "pairs, to choose the decoder's weights"),
    "weights (not fitted on the split)": ("W", "given weights, not fitted on the split"),
}


@dataclass(frozen=True)
class About:
    """What holds for a whole comparison.

    `rank_by`: the column that rows are ranked by. `level`: of the intervals, such as .95; a difference from the row
    `baseline` is marked where its corrected p is below 1 - level. `resamples`: of the bootstrap, 0 where there is none.
    `by_seed`: columns that are no mean of items, so that their intervals are over seeds alone.
    """

    name: str
    rank_by: str
    level: float
    resamples: int
    baseline: str | None
    correction: str
    command: str
    fingerprints: Mapping[str, str]
    seeds: Sequence[int]
    machine: str
    by_seed: Sequence[str] = ()


def ordered(rows: Iterable[Row]) -> list[Row]:
    """Rows that need least first, within equal needs by rank; those without a rank last."""

    def place(row: Row) -> tuple[float, str, float]:
        rank = row.get("rank")
        return group_size(row["group"]), row["group"], rank if is_number(rank) else math.inf

    return sorted(rows, key=place)


def group_size(group: str) -> float:
    """How many kinds of data a group needs; the ceiling, which is given the true texts, comes last."""
    return {NOTHING: 0, ORACLE: math.inf}.get(group, len(group.split(" + ")))


def heading(column: str) -> str:
    return HEADINGS.get(column, column.replace("_", " "))


def measure_text(row: Row, column: str, level: float) -> str:
    """0.512 [.497, .528]↑: the mean, its interval, and where it lies if it differs from the baseline."""
    text = cell_text(row, column)
    value, low, high = (row.get(f"{column}{end}") for end in ("", "_low", "_high"))
    if text != "-" and is_number(value) and is_number(low) and is_number(high):
        text = f"{value:.3f} [{_bound(low)}, {_bound(high)}]"
    difference, p = row.get(f"{column}_difference"), row.get(f"{column}_p")
    # level is a decimal fraction: 1 - .95 alone is .05 and a little more
    if is_number(difference) and is_number(p) and difference and p < round(1 - level, 12):
        text += UP if difference > 0 else DOWN
    return text


def _bound(value: float) -> str:
    """.497, -.012, 1.204"""
    text = f"{round(value, 3) + 0.0:.3f}"  # + 0.0: no minus before a zero
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def tables(rows: Sequence[Row], about: About) -> list[Table]:
    """What is shown: the ranking, caption metrics, measures of the clouds, costs; tables without content are left out.

    A cell that failed is listed in the first table alone, its reason under it.
    """
    rows = ordered(rows)
    measures = [about.rank_by, *(c for c in MAIN if c != about.rank_by and _present(rows, c))]
    found = [_measured(f"{about.name}, ranked by {heading(about.rank_by)}", rows, measures, about, _notes(rows, about))]
    captions = [c for c in caption_columns(rows) if c not in measures]
    for number, columns in enumerate(_parts(captions)):
        found.append(_measured("Captions" + (", continued" if number else ""), rows, columns, about))
    clouds = [c for c in CLOUDS if c not in measures and _present(rows, c)]
    if clouds:
        found.append(_measured("Clouds and hubs", rows, clouds, about))
    if predicting := _predicting(rows, about):
        found.append(predicting)
    costs = [c for c in COSTS if _present(rows, c)]
    if costs:
        shown = [row for row in rows if any(row.get(c) is not None for c in costs)]
        cells = [[_label(row), *(cost_text(row, c) for c in costs)] for row in shown]
        notes = [COST.note] * ("macs" in costs) + [f"measured on: {about.machine}"] * bool(about.machine)
        found.append(Table("Cost", ["row", *map(heading, costs)], cells, notes))
    return found


def by_captions(rank_by: str) -> bool:
    """Whether captions rank the rows, so that one may ask which measure of vectors predicts them."""
    return rank_by not in GAP_COLUMNS


def _predicting(rows: Sequence[Row], about: About) -> Table | None:
    """Whether measures of the vectors put rows in the order of their captions: over all rows, and over those whose
    decoders were trained alike. The ceiling is no bridge and is left out."""
    if not by_captions(about.rank_by):
        return None
    ranked = [row for row in rows if row["group"] != ORACLE and row.get(about.rank_by) is not None]
    groups = {"all rows": ranked} | {
        f"augment: {word}": [row for row in ranked if row.get("augment") == word]
        for word in dict.fromkeys(str(row.get("augment")) for row in ranked)
    }
    groups = {name: members for name, members in groups.items() if len(members) >= ENOUGH}
    cells = []
    for column in PREDICTORS:
        if groups and all(row.get(column) is not None for row in ranked):
            found = [spearman([r[column] for r in g], [r[about.rank_by] for r in g]) for g in groups.values()]
            name = "nearness to a training text" if column == "nearest_train_text" else heading(column)
            cells.append([name, *("-" if value is None else f"{value:.2f}" for value in found)])
    if not cells:
        return None
    title = f"Do measures of vectors predict {heading(about.rank_by)}?"
    headings = ["measure", *(f"{name} ({len(members)})" for name, members in groups.items())]
    return Table(title, headings, cells, ["Spearman's rank correlation over rows; 1: the same order, -1: the reverse"])


def caption_columns(rows: Iterable[Row]) -> list[str]:
    """The measures of captions: every column of real numbers that is neither of the clouds nor a cost."""
    known = {*ABOUT_ROW, *GAP_COLUMNS, *COST.columns, *COSTS, *HIDDEN}
    rows = list(rows)
    return [
        column
        for column in _columns(rows)
        if column not in known and "." not in column and not column.startswith("chosen_") and _is_measure(rows, column)
    ]


def _is_measure(rows: Iterable[Row], column: str) -> bool:
    values = [row[column] for row in rows if row.get(column) is not None]
    return all(is_number(value) for value in values) and any(isinstance(value, float) for value in values)


def _columns(rows: Sequence[Row]) -> list[str]:
    """Every column of the rows but those that belong to a measure, such as its interval."""
    found = dict.fromkeys(column for row in rows for column in row)
    return [column for column in found if _measure_of(column) not in found]


def _measure_of(column: str) -> str | None:
    measure, _, part = column.rpartition("_")
    return measure if measure and part in OF_A_MEASURE else None


def _present(rows: Iterable[Row], column: str) -> bool:
    return any(row.get(column) is not None for row in rows)


def _parts(columns: Sequence[str]) -> list[Sequence[str]]:
    """The columns in as few parts as fit, of about the same size."""
    count = -(-len(columns) // WIDTH)
    size = -(-len(columns) // count) if count else 1
    return [columns[start : start + size] for start in range(0, len(columns), size)]


def _measured(
    title: str, rows: Sequence[Row], columns: Sequence[str], about: About, notes: Sequence[str] | None = None
) -> Table:
    """A table of measures with a heading for each group. Without `notes` only of rows that have any of the columns."""
    if notes is None:
        rows = [row for row in rows if any(row.get(column) is not None for column in columns)]
    headings = ["rank", "row", "needs", *map(heading, columns)]
    cells: list[list[str]] = []
    kinds: list[str] = []
    group = None
    for row in rows:
        if row["group"] != group:
            group = row["group"]
            cells.append(["needs", group, *[""] * (len(headings) - 2)])
            kinds.append(GROUP)
        measures = [measure_text(row, column, about.level) for column in columns]
        rank = row.get("rank")
        cells.append(["-" if rank is None else str(rank), _label(row), _letters(row), *measures])
        kinds.append("failed" if _failed(row) else "")
    return Table(title, headings, cells, notes or (), kinds)


def _failed(row: Row) -> bool:
    return row.get("failed") is not None and row.get("rank") is None


def _label(row: Row) -> str:
    """The row's name, with what else must not be overlooked: that it is the baseline, that seeds are missing."""
    told = ["baseline"] if row.get("baseline") else []
    told += ["seeds missing"] if row.get("failed") is not None and row.get("seeds") else []
    return f"{row['row']} ({', '.join(told)})" if told else str(row["row"])


def _letters(row: Row) -> str:
    return " ".join(LETTERS[need][0] if need in LETTERS else need for need in _needs(row)) or "-"


def _needs(row: Row) -> list[str]:
    """What a row needs, in the order of `LETTERS`."""
    order = list(LETTERS)
    return sorted(row.get("needs") or [], key=lambda need: order.index(need) if need in LETTERS else len(order))


def _notes(rows: Sequence[Row], about: About) -> list[str]:
    """How to read the ranking, and what made it."""
    lines = [] if rows else ["nothing was compared: there are no rows"]
    lines.append(f"rank: by {heading(about.rank_by)}, among rows that need the same data")
    needed = {need for row in rows for need in _needs(row)}
    lines += ["; ".join(f"{letter}: {what}" for need, (letter, what) in LETTERS.items() if need in needed)]
    chosen = [str(row["row"]) for row in rows if SELECTION in _needs(row)]
    lines.append(f"the decoder's weights were chosen with pairs in: {', '.join(chosen) if chosen else 'no row'}")
    columns = {column for row in rows for column in row}
    if about.resamples and any(column.endswith("_low") for column in columns):
        over = "items and seeds" if len(about.seeds) > 1 else "items"
        lines.append(f"[ ]: {about.level * 100:g} % interval, bootstrap over {over}, {about.resamples:,} resamples")
        if len(about.seeds) > 1 and about.by_seed:
            names = ", ".join(map(heading, about.by_seed))
            lines.append(f"over seeds alone, since no mean of items: {names} (of {len(about.seeds)} seeds p is never "
                         f"below {2.0 ** (1 - len(about.seeds)):g})")  # fmt: skip
    if about.baseline is None:
        lines.append("no baseline, so no difference is tested")
    elif any(column.endswith("_p") for column in columns):
        p = f"p < {round(1 - about.level, 12):g} after {about.correction}'s correction over the rows of a column"
        lines.append(f"{UP} {DOWN}: above or below the baseline {about.baseline}, {p}")
    else:
        lines.append(f"baseline: {about.baseline}; no difference from it was tested")
    if about.seeds:
        lines.append(f"seeds: {', '.join(map(str, about.seeds))}")
    lines += notes_of(rows)
    lines += [f"failed: {row['row']}: {row['failed']}" for row in rows if row.get("failed") is not None]
    if about.fingerprints:
        lines.append("data: " + ", ".join(f"{name} {value}" for name, value in about.fingerprints.items()))
    return [line for line in [*lines, f"made by: {about.command}"] if line]


def csv_text(rows: Sequence[Row], about: About) -> str:
    """Every column, a line for each row, as RFC 4180 has it: CRLF at line ends, floats with all their digits.

    Lists are joined by ";", mappings are JSON, what is missing is empty. The measure that ranks comes first among them.
    """
    rows = ordered(rows)
    given = dict.fromkeys(column for row in rows for column in row)
    first = [about.rank_by, *MAIN, *caption_columns(rows), *CLOUDS]
    others = [column for column in _columns(rows) if column not in {*COSTS, "notes"}]
    wanted = dict.fromkeys([*first, *others, *COSTS])
    parts = [f"{name}_{part}" if part else name for name in wanted for part in ("", *OF_A_MEASURE)]
    columns = [*ABOUT_ROW, *(c for c in dict.fromkeys([*parts, *given]) if c in given and c not in ABOUT_ROW)]
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(columns)
    writer.writerows([_csv_value(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def _csv_value(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return repr(float(value))
    if isinstance(value, list | tuple):
        return ";".join(map(_csv_value, value))
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict) else str(value)


def markdown(rows: Sequence[Row], about: About) -> str:
    """The tables in Markdown, each under a heading of the second level."""
    return "\n".join(_each(rendering.markdown, rows, about))


def latex(rows: Sequence[Row], about: About) -> str:
    """The tables as LaTeX floats, to be `\\input`; they need booktabs and nothing else."""
    head = "% \\usepackage{booktabs}; as table* in papers of two columns"
    return "\n".join([head, *_each(rendering.latex, rows, about)])


def html_body(rows: Sequence[Row], about: About) -> str:
    """The tables in HTML, for the body of a page."""
    return "\n".join(_each(rendering.as_html, rows, about))


def _each(render: Callable[[Table], str], rows: Sequence[Row], about: About) -> Iterator[str]:
    return map(render, tables(rows, about))
