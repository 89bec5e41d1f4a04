"""The tables of the gap report: which columns stand together, what they are called, and how rows become lines.

Several small tables, so that each fits a terminal; the rows are the same in all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modbridge.config.reported import ReportedConfig
from modbridge.rendering import Table
from modbridge.tables import HEADINGS as MAIN_HEADINGS
from modbridge.tables import MEASURES, Row, cell_text, is_number, notes_of, reported_notes


@dataclass(frozen=True)
class Group:
    """Columns that are shown as one table. `note`: how to read them, one line."""

    title: str
    columns: tuple[str, ...]
    note: str = ""


MAIN = Group("The gap", MEASURES)
COST = Group(
    "Cost of crossing",
    ("parameters", "macs", "item_seconds", "items_per_second", "peak_bytes", "batch"),
    "MACs: of one item, in matrix products and convolutions; peak memory: tensors held while a batch crosses",
)
MORE = (
    Group(
        "Cosines",
        ("paired_cosine", "unpaired_cosine", "centred_paired_cosine", "centred_unpaired_cosine", "harmonic_mean"),
        "harmonic mean: of the centred cosine and the centred R@1",
    ),
    Group(
        "Retrieval, uncentred",
        tuple(f"{way}r_at_{k}" for way in ("", "reverse_") for k in (1, 5, 10)),
        "R@k: from source to text; rev.: from text to source",
    ),
    Group(
        "Retrieval, centred",
        tuple(f"centred_{way}r_at_{k}" for way in ("", "reverse_") for k in (1, 5, 10)),
    ),
    Group(
        "Hubs among the answers",
        ("hubness", "top_answer_share", "centred_hubness", "centred_top_answer_share"),
        "hubness: skewness of how often a text is among the 10 nearest; top answer: share of queries that it gets",
    ),
    Group(
        "Two clouds or one",
        ("gap_norm", "energy_distance", "separability", "centred_separability"),
        "energy distance after centring, 0 for one law; separability: a linear classifier's accuracy, .5 for one law",
    ),
    Group(
        "Dimension by dimension",
        ("gap_share_of_5", "spread_ratio", "std_ratio_p5", "std_ratio_p95"),
        "share of the squared gap in its 5 largest dimensions; standard deviations, bridged over text",
    ),
    Group(
        "Nearness to the training texts",
        ("nearest_train_text", "texts_nearest_train_text"),
        "centred cosine to the nearest training text; nearer than true texts are: memorised rather than bridged",
    ),
)

SIMILARITY = ("embedding", "projector")
# Every number that the gap report itself fills, so that a config may say what is reported of it elsewhere.
COLUMNS = frozenset({*SIMILARITY, *(column for group in (MAIN, COST, *MORE) for column in group.columns)})
HEADINGS = MAIN_HEADINGS | {
    "fields": "",
    "centred_unpaired_cosine": "centred unpaired",
    "harmonic_mean": "harmonic",
    **{f"{way}r_at_{k}": f"{short}R@{k}" for k in (1, 5, 10) for way, short in (("", ""), ("reverse_", "rev. "))},
    **{f"centred_{way}r_at_{k}": f"{short}R@{k}" for k in (5, 10) for way, short in (("", ""), ("reverse_", "rev. "))},
    "centred_reverse_r_at_1": "rev. R@1",
    "top_answer_share": "top answer",
    "centred_hubness": "centred hubness",
    "centred_top_answer_share": "centred top",
    "centred_separability": "centred sep.",
    "gap_share_of_5": "in 5 dims",
    "std_ratio_p5": "std ratio p5",
    "std_ratio_p95": "p95",
    "nearest_train_text": "bridged",
    "texts_nearest_train_text": "true texts",
    "macs": "MACs",
    "item_seconds": "s for one",
    "items_per_second": "items/s",
    "peak_bytes": "peak memory",
}


def view(rows: Sequence[Row], group: Group) -> tuple[list[str], list[list[str]]]:
    """Headings and cells of the group's columns, with what tells the rows apart before them."""

    def differs(column: str) -> bool:
        return len({str(row.get(column)) for row in rows if row.get("figures") != "reported"}) > 1

    varied = [column for row in rows for column in row if "." in column]
    names = ["bridge"] if varied else [*(["cell"] if differs("cell") else []), "bridge"]
    names += [column for column in dict.fromkeys(["fields", *varied]) if differs(column)]
    names += dict.fromkeys(
        column for row in rows for column in row if column.startswith("chosen_") and "_std" not in column
    )
    columns = [*names, *(column for column in group.columns if any(column in row for row in rows))]
    cells = [[_text(row, column) for column in columns] for row in rows]
    return [HEADINGS.get(column, column.replace("_", " ")) for column in columns], cells


def _text(row: Row, column: str) -> str:
    return "" if column == "fields" and not row.get(column) else cost_text(row, column)


def cost_text(row: Row, column: str) -> str:
    """One cell: a cost in its unit, anything else as `cell_text` has it."""
    value = row.get(column)
    if column in ("parameters", "macs") and is_number(value):
        return _short(float(value))
    if column == "peak_bytes" and is_number(value):
        return bytes_text(float(value))
    if column == "items_per_second" and is_number(value):
        return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"
    if column == "item_seconds" and is_number(value):
        return f"{value:.2g}"
    return cell_text(row, column)


def bytes_text(value: float) -> str:
    """62.91 MB, in powers of 1000."""
    short = _short(value)
    return f"{short}B" if value >= 1e3 else f"{short} B"


def _short(value: float) -> str:
    """325.8 M"""
    for size, letter in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if value >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.0f}"


def similarity_view(
    rows: Sequence[Row], reported: ReportedConfig | None = None
) -> tuple[list[str], list[list[str]], list[str]]:
    """Headings, cells and notes of the similarity table; figures that the config reports of a row stand beside it."""
    columns = [column for column in SIMILARITY if any(column in row for row in rows)]
    told = {name: figures for name, figures in (reported.rows if reported else {}).items() if name in "abcdef"}
    shown = [column for column in columns if any(column in figures for figures in told.values())]
    cells = []
    for row in rows:
        head = [f"({row['row']})", row["pair"], "paired" if row["paired"] else "unpaired", _bridge(row)]
        figures = told.get(row["row"], {}) if row.get("bridge") != "identity" else {}
        beside = [f"{figures[column]:.3f}" if column in figures else "-" for column in shown]
        cells.append([*head, *(cell_text(row, column) for column in columns), *beside])
    notes = reported_notes(reported) if reported is not None and shown else []
    return ["", "pair", "", "bridge", *columns, *(f"{column}, reported" for column in shown)], cells, notes


def _bridge(row: Row) -> str:
    return " ".join(filter(None, (row.get("bridge"), row.get("fields")))) or ""


def _beside(rows: Sequence[Row], reported: ReportedConfig | None, group: Group) -> tuple[list[Row], list[str]]:
    """The rows, under each what is reported of its cell or bridge in the group's columns; others' figures last."""
    told = {} if reported is None else {n: f for n, f in reported.rows.items() if set(f) & set(group.columns)}
    if reported is None or not told:
        return list(rows), []
    lines: list[Row] = []
    for row in rows:
        lines.append(row)
        for name in (row.get("cell"), row["bridge"]):
            if name in told:
                lines.append({"bridge": f"{name}, reported", "figures": "reported", **told.pop(name)})
    lines += [{"bridge": f"{name}, reported", "figures": "reported", **figures} for name, figures in told.items()]
    return lines, reported_notes(reported)


def tables(
    rows: Sequence[Row],
    all_pairs: Mapping[str, float],
    similarity: Sequence[Row] = (),
    notes: Sequence[str] = (),
    reported: ReportedConfig | None = None,
    *,
    every: bool = True,
) -> list[Table]:
    """Everything that is shown: the main table first; with `every` each group of measures has one of its own."""
    groups = [MAIN, *(MORE if every else ()), *([COST] if any("macs" in row for row in rows) else [])]
    found = []
    for group in groups:
        lines, told = _beside(rows, reported, group)
        own = notes_of(rows) if group is MAIN else [group.note] if group.note else []
        found.append(Table(group.title, *view(lines, group), [*own, *told]))
    if similarity:
        headings, cells, told = similarity_view(similarity, reported)
        title = "Mean cosines in the centred text space (Diffusion Bridge, table 1)"
        found.append(Table(title, headings, cells, [*notes, *told]))
    pairs = [[name.replace("_", " "), cell_text(all_pairs, name)] for name in all_pairs]
    return [*found, Table("", ["all pairs, no bridge", ""], pairs)]
