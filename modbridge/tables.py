"""Tables: one form for every result. Rows are dicts with snake_case columns; None is shown as "-", never as 0."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, TypeGuard

from modbridge import rendering

if TYPE_CHECKING:
    from modbridge.config.reported import ReportedConfig

Row = dict[str, Any]

# Columns that say which row it is, then measures, in the order of display.
NAMES = ("row", "figures", "bridge", "fields", "augment", "training", "select", "seed")
MEASURES = (
    "gap_norm",
    "paired_cosine",
    "unpaired_cosine",
    "centred_paired_cosine",
    "r_at_1",
    "centred_r_at_1",
)
# What a row is about, beside its measures; and what is kept in JSON but not shown in the table.
ABOUT = {"cell", "needs", "n", "tokenizer", "notes"}
HIDDEN = ABOUT | {"r_at_5", "r_at_10", "bleu_2", "bleu_3", "vocab_ratio_full", "vocab_ratio_avg"}
HEADINGS = {
    "cell": "row",
    "gap_norm": "gap norm",
    "paired_cosine": "paired cos",
    "unpaired_cosine": "unpaired cos",
    "centred_paired_cosine": "centred cos",
    "r_at_1": "R@1",
    "centred_r_at_1": "centred R@1",
    "cider": "CIDEr",
    "bleu_1": "BLEU-1",
    "bleu_4": "BLEU-4",
    "rouge_l": "ROUGE-L",
    "meteor": "METEOR",
    "spice": "SPICE",
    "objects_exact": "objects exact",
    "cider_d": "CIDEr-D",
    "spider": "SPIDEr",
    "spider_fl": "SPIDEr-FL",
    "fense": "FENSE",
    "sbert_sim": "SBERT-sim",
    "fer": "FER",
    "chair_i": "CHAIR-i",
    "chair_s": "CHAIR-s",
    "entity_f1": "entity F1",
    "gap_closed": "gap closed",
}
# Every column of numbers that modbridge itself fills; metrics of other plugins have more.
MEASURED = frozenset({*MEASURES, *HEADINGS, *(HIDDEN - ABOUT)})


def is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def add_gap_closed(rows: Sequence[Row], within: Sequence[str] = ("seed",), metric: str = "cider") -> None:
    """Add `gap_closed` = (row - identity) / (oracle - identity), both under the plain decoder, among the rows that
    agree in the columns `within`.

    Left out where there is no identity or no oracle row.
    """
    for row in rows:
        alike = [other for other in rows if all(other.get(name) == row.get(name) for name in within)]
        group = [other for other in alike if other["augment"] == "none"]
        floor = next((other.get(metric) for other in group if other["bridge"] == "identity"), None)
        ceiling = next((other.get(metric) for other in group if other["bridge"] == "oracle"), None)
        value = row.get(metric)
        if is_number(floor) and is_number(ceiling) and is_number(value) and ceiling != floor:
            row["gap_closed"] = (value - floor) / (ceiling - floor)


def summarise(rows: Sequence[Row], over: str) -> list[Row]:
    """Rows that differ only in `over` (a seed, a split) as one: means, with `<column>_std` where there is a spread.

    The deviation is that of the sample (n - 1).
    """

    def label(row: Row) -> tuple[Any, ...]:
        return (_cell_without(row, over), row["bridge"], row.get("augment"), row.get("fields"))

    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(label(row), []).append(row)
    summary = []
    for members in groups.values():
        if len(members) == 1:
            summary.append(dict(members[0]))
            continue
        merged: Row = {}
        for column in members[0]:
            values = [member.get(column) for member in members]
            if column == over:
                merged[f"{over}s"] = values
            elif column not in ABOUT and all(is_number(value) for value in values):
                numbers = [float(value) for value in values if is_number(value)]
                merged[column] = fmean(numbers)
                merged[f"{column}_std"] = stdev(numbers)
            elif column == "cell":
                merged[column] = label(members[0])[0]
            elif column == "notes":
                merged[column] = {name: note for row in reversed(members) for name, note in (row[column] or {}).items()}
            else:
                merged[column] = values[0] if all(value == values[0] for value in values) else None
        summary.append(merged)
    return summary


def without(label: str, over: str, value: object) -> str:
    """A cell's label without the value of the varied field `over`: "noise/type=c3,seed=1" is "noise/type=c3"."""
    found = re.search(rf"(^|[/,]){re.escape(f'{over}={value}')}(?=,|$)", label)
    if found is None:
        return label
    before, after = label[: found.start()], label[found.end() :]
    if found[1] != ",":  # the first of the values: the comma behind it goes too
        after = after.removeprefix(",")
        before += found[1] if after else ""
    return before + after


def _cell_without(row: Row, over: str) -> str:
    return without(str(row.get("cell", "")), over, row.get(over))


def beside(rows: Sequence[Row], reported: ReportedConfig | None, name: str) -> tuple[list[Row], list[str]]:
    """A table to show, and the notes under it: each measured row, under it what is reported of it, then the reported
    rows of others. Without reported figures the table as it is.

    Only for display: `rows` are not changed. `name`: what a row is called that has no label of its own.
    """
    if reported is None:
        return list(rows), []
    left = dict(reported.rows)
    shown: list[Row] = []
    for row in rows:
        label = _cell_without(row, "seed") or name
        shown.append({"row": label, "figures": "measured", **row})
        if label in left:
            shown.append({"row": label, "figures": "reported", **left.pop(label)})
    shown += [{"row": label, "figures": "reported", **figures} for label, figures in left.items()]
    return shown, reported_notes(reported)


def reported_notes(reported: ReportedConfig) -> list[str]:
    """What stands under a table with reported figures."""
    notes = [f"reported: {reported.source}; as printed there, not measured here"]
    if not reported.comparable:
        notes.append("measured: in a toy world, not under the paper's conditions; not comparable with what is reported")
    return notes


def columns_of(rows: Iterable[Row]) -> list[str]:
    """The columns to show, in order. A name that is the same in every row is left out."""
    rows = list(rows)
    found = list(dict.fromkeys(column for row in rows for column in row))
    shown = [c for c in found if c not in HIDDEN and not c.endswith("_std") and not isinstance(rows[0].get(c), list)]
    names = [c for c in NAMES if c in shown and (c == "bridge" or len({str(r[c]) for r in rows if c in r}) > 1)]
    varied = [c for c in shown if "." in c]
    measures = [c for c in MEASURES if c in shown]
    rest = [c for c in shown if c not in {*NAMES, *MEASURES, *varied, "gap_closed"}]
    last = [c for c in ("gap_closed",) if c in shown]
    told = {tuple(str(row.get(c)) for c in names + varied) for row in rows}
    if len(told) < len(rows) and "row" not in shown and all(row.get("cell") for row in rows):
        names = ["cell", *names]  # nothing else tells the rows apart
    return names + varied + measures + rest + last


def cell_text(row: Mapping[str, Any], column: str) -> str:
    """One cell, with its deviation if there is one."""
    value = row.get(column)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if not is_number(value) or isinstance(value, int):
        return str(value)
    spread = row.get(f"{column}_std")
    if column.startswith("chosen_") and is_number(spread):  # a mean over seeds, mostly of whole numbers
        return f"{value:g}" + (f" ±{spread:.0f}" if spread else "")
    return f"{value:.3f}" + (f" ±{spread:.3f}" if is_number(spread) else "")


def grid(rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and cells as text."""
    columns = columns_of(rows) if rows else []
    headings = [HEADINGS.get(column, column.replace("_", " ")) for column in columns]
    return headings, [[cell_text(row, column) for column in columns] for row in rows]


def notes_of(rows: Sequence[Row]) -> list[str]:
    """What stands under a table: how many items, which tokenizer, why a column is empty."""
    lines = []
    counts = sorted({row["n"] for row in rows if row.get("n") is not None})
    if counts:
        lines.append(f"items: {', '.join(map(str, counts))}")
    tokenizers = sorted({row["tokenizer"] for row in rows if row.get("tokenizer")})
    if tokenizers:
        lines.append(f"tokenizer: {', '.join(tokenizers)}")
    why = {f"{name}: {note}" for row in rows for name, note in (row.get("notes") or {}).items()}
    return lines + sorted(why)


def markdown(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table in Markdown; `notes` come after those that the rows bring."""
    return rendering.markdown(_table(rows, notes))


def as_html(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table in HTML; lines of reported figures have the class `reported`."""
    return rendering.as_html(_table(rows, notes))


def _table(rows: Sequence[Row], notes: Sequence[str]) -> rendering.Table:
    kinds = ["reported" if row.get("figures") == "reported" else "" for row in rows]
    return rendering.Table("", *grid(rows), [*notes_of(rows), *notes], kinds)
