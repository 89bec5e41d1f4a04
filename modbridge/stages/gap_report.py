"""The folder of a gap report: table.json, table.md, dimensions.json, figures/ and report.html on one page."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import Session
from modbridge.config.component import flat
from modbridge.config.pipeline import dump
from modbridge.figures import (
    Clouds,
    Curve,
    draw_clouds,
    draw_curves,
    draw_histograms,
    draw_points,
    pca_plane,
    umap_points,
)
from modbridge.gap_tables import HEADINGS, tables
from modbridge.geometry import unit
from modbridge.measures import comparable
from modbridge.rendering import as_html, markdown
from modbridge.stages.cross import crossed, held_out, text_statistics
from modbridge.stages.gap import BEFORE, Entry, GapResult, before_entry, is_before
from modbridge.stages.pages import STYLE, inline_png, write_json, write_text
from modbridge.stages.report import GAP, claim_folder, installed_versions
from modbridge.store.keys import stable_hash, tensor_hash
from modbridge.tables import Row, is_number

SCHEMA = 1
CLOUD = 500  # points of a cloud that are drawn
PANELS = 8
FILES = ("config.yaml", "resolved.json", "versions.json", "table.json", "table.md", "dimensions.json", "report.html")
CURVES = ("centred_paired_cosine", "centred_r_at_1", "harmonic_mean", "gap_norm")
NO_UMAP = (
    "UMAP clouds: left out, umap-learn cannot be imported ({error}). Install it with `uv pip install umap-learn` (the "
    "extra `modbridge[umap]`), and run the same command again."
)


def claim_gap_folder(out: Path) -> None:
    """Make the folder or refuse it, before any work: as `claim_folder`."""
    claim_folder(out, GAP)


def write_gap(session: Session, experiment: Experiment, result: GapResult, out: Path) -> Path:
    """Write the report, or leave the folder as it is if it holds this very result. Gives the path of report.html."""
    claim_gap_folder(out)
    cells, entries = experiment.cells, result.entries
    keys = [measures.key for entry in entries for _, measures in entry.measures]
    versions = installed_versions(session)
    content = [keys, result.to_json(), versions, find_spec("umap") is not None, [dump(cell.config) for cell in cells]]
    wanted = stable_hash(content)
    if _holds(out, wanted):
        return out / "report.html"
    session.talk.say("report: drawing figures")
    (out / GAP).unlink(missing_ok=True)  # written last: a folder without it is not finished
    for old in (out / "figures").glob("*.png"):
        old.unlink()

    shown = tables(result.rows, result.all_pairs, result.similarity, result.notes, experiment.first.config.reported)
    write_text(out / "config.yaml", cells[0].document.text)
    write_json(out / "resolved.json", {cell.label: dump(cell.config) for cell in cells})
    write_json(out / "versions.json", versions)
    write_json(out / "table.json", {**result.to_json(), "reported": dump(experiment.first.config.reported)})
    write_text(out / "table.md", "\n".join(markdown(table) for table in shown))
    write_json(out / "dimensions.json", [_dimensions(entry) for entry in entries])
    figures, notes = _draw(session, entries, out / "figures")
    page = _PAGE.format(
        style=STYLE,
        name=html.escape(cells[0].config.name),
        tables="".join(as_html(table) for table in shown),
        figures="".join(_figure_html(out / "figures" / name, title, text) for name, title, text in figures),
        notes="".join(f"<p class='note'>{html.escape(note)}</p>" for note in notes),
        config=html.escape(cells[0].document.text),
    )
    write_text(out / "report.html", page)
    record = {
        "schema": SCHEMA,
        "name": cells[0].config.name,
        "result": wanted,
        "figures": [name for name, *_ in figures],
    }
    write_json(out / GAP, record)
    return out / "report.html"


def _holds(out: Path, wanted: str) -> bool:
    try:
        record = json.loads((out / GAP).read_text(encoding="utf-8"))
        names = [*FILES, *(f"figures/{name}" for name in record["figures"])]
        return bool(record["result"] == wanted) and all((out / name).is_file() for name in names)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _dimensions(entry: Entry) -> dict[str, Any]:
    """Mean shift and ratio of standard deviations by dimension, means over the splits; null where there is none."""

    def mean(name: str) -> list[float | None]:
        values = torch.stack([measures.arrays[name] for _, measures in entry.measures]).mean(0).tolist()
        return [value if math.isfinite(value) else None for value in values]

    names = {column: entry.row.get(column) for column in ("cell", "bridge", "fields")}
    return {**names, "mean_shift": mean("mean_shift"), "std_ratio": mean("std_ratio")}


Figure = tuple[str, str, str]  # file, title, what it shows


def _draw(session: Session, entries: Sequence[Entry], folder: Path) -> tuple[list[Figure], list[str]]:
    """Every figure, and what could not be drawn."""
    chosen = _chosen(entries)
    panels = _panels(session, chosen)
    points = f"Held-out vectors of the first split, at most {CLOUD} a cloud."
    figures: list[Figure] = []
    draw_clouds(panels, folder / "plane.png")
    across = "Across: from the mean source vector to the mean text vector. Up: the main direction beside it."
    figures.append(("plane.png", "The plane of the gap", f"{points} {across}"))
    labels = ("first component", "second component")
    draw_clouds(panels, folder / "pca.png", plane=pca_plane, labels=labels)
    figures.append(("pca.png", "PCA", f"{points} The main directions of source and text vectors taken together."))
    notes = []
    try:
        draw_points(umap_points(panels), folder / "umap.png")
        figures.append(
            ("umap.png", "UMAP", f"{points} One map of all clouds (cosine, seed 0); distances do not compare.")
        )
    except ImportError as error:
        notes.append(NO_UMAP.format(error=error))
    # Before any bridge comes first here too, where the table has no such row.
    first = None if any(map(is_before, chosen)) else before_entry(session, chosen[0].cell)
    measured = sorted([first, *chosen] if first else chosen, key=lambda entry: not is_before(entry))
    for prefix, title in (("", "Cosines"), ("centred_", "Cosines, each side centred")):
        name = f"{prefix}cosines.png"
        draw_histograms(_histograms(measured, prefix), folder / name)
        figures.append((name, title, "All held-out vectors of all splits: bridged with text, and text with text."))
    for field, panels_of in curves(entries).items():
        name = f"curve-{re.sub(r'[^A-Za-z0-9_]+', '-', field)}.png"
        draw_curves(panels_of, folder / name, field)
        figures.append((name, f"Over {field}", "Means over the splits, with their standard deviations."))
    return figures, notes


def _chosen(entries: Sequence[Entry]) -> list[Entry]:
    """One entry for each bridge, of a sweep the one with the best harmonic mean, at most `PANELS`."""
    families: dict[str, list[Entry]] = {}
    for entry in entries:
        swept = {*entry.cell.config.gap.sweep, *(name.removeprefix("bridge.") for name in entry.cell.varied)} - {"type"}
        kind = {name: value for name, value in flat(dump(entry.bridge)).items() if name not in swept}
        families.setdefault(stable_hash([kind, _beside_the_bridge(entry.cell)]), []).append(entry)
    best = [max(family, key=lambda entry: entry.row.get("harmonic_mean") or 0.0) for family in families.values()]
    return best[:PANELS]


def _beside_the_bridge(cell: Cell) -> list[Any]:
    """What sets a cell apart from others, but for its bridge: its variant and the varied fields."""
    variant = cell.label.rpartition("/")[0] if cell.varied else cell.label
    return [variant, sorted((name, value) for name, value in cell.varied.items() if name.split(".")[0] != "bridge")]


def _title(row: Row) -> str:
    if row["bridge"] == BEFORE:
        return "before"
    varied = [f"{name.rsplit('.', 1)[-1]}={value}" for name, value in row.items() if "." in name]
    return "\n".join(filter(None, (str(row["bridge"]), row.get("fields") or ", ".join(varied))))


def _panels(session: Session, entries: Sequence[Entry]) -> list[tuple[str, Clouds]]:
    """The clouds before any bridge, and after each, as they may be compared with raw text vectors."""
    found: dict[str, Clouds] = {}

    def before(entry: Entry) -> Clouds:
        source, text = held_out(session, entry.cell, entry.measures[0][0])
        key = tensor_hash(source.values) + tensor_hash(text.values)
        # The same tensors for every bridge, so that a map of all clouds has them once.
        return found.setdefault(key, {source.port.modality: _thin(source.values), "text": _thin(text.values)})

    panels = [("before", before(entries[0]))]
    for entry in entries:
        if is_before(entry):
            continue
        split = entry.measures[0][0]
        vectors, stats = crossed(session, entry.cell, entry.bridge, split), text_statistics(session, entry.cell, split)
        port = vectors.bridged.port
        x = comparable(vectors.bridged.values.cpu(), frame=port.frame, text_mean=stats.mean, text_radius=stats.radius)
        panels.append((_title(entry.row), {**before(entry), "bridged": _thin(x)}))
    return panels


def _thin(x: torch.Tensor) -> torch.Tensor:
    return unit(x.cpu().double()[:: -(-len(x) // CLOUD)]).contiguous()


def _histograms(entries: Sequence[Entry], prefix: str) -> list[tuple[str, Mapping[str, torch.Tensor]]]:
    names = {"paired": "paired", "unpaired": "unpaired", "text": "text, unpaired"}
    return [
        (
            _title(entry.row),
            {
                shown: torch.stack([m.arrays[f"{prefix}{name}"] for _, m in entry.measures]).sum(0)
                for name, shown in names.items()
            },
        )
        for entry in entries
    ]


def curves(entries: Sequence[Entry]) -> dict[str, list[tuple[str, list[Curve]]]]:
    """For every numeric field of a bridge in which rows differ that agree in all else: panels of curves over it."""
    found: dict[str, list[tuple[str, list[Curve]]]] = {}
    blocks = [(entry, flat(dump(entry.bridge))) for entry in entries]
    for field in dict.fromkeys(name for _, own in blocks for name, value in own.items() if is_number(value)):
        families: dict[str, list[tuple[float, Entry]]] = {}
        for entry, own in blocks:
            if is_number(value := own.get(field)):
                rest = {name: other for name, other in own.items() if name != field}
                family = stable_hash([rest, _beside_the_bridge(entry.cell)])
                families.setdefault(family, []).append((float(value), entry))
        panels = [_curves_of(field, points) for points in families.values() if _differ(points)]
        if panels:
            found[field] = panels[:4]
    return found


def _differ(points: Sequence[tuple[float, Entry]]) -> bool:
    values = {value for value, _ in points}
    return len(values) == len(points) > 1


def _curves_of(field: str, points: Sequence[tuple[float, Entry]]) -> tuple[str, list[Curve]]:
    points = sorted(points, key=lambda point: point[0])
    x, rows = [value for value, _ in points], [entry.row for _, entry in points]
    others = [part for part in str(rows[0].get("fields") or "").split(", ") if not part.startswith(f"{field}=")]
    title = "\n".join(filter(None, (points[0][1].bridge.type, ", ".join(others))))
    drawn = []
    for column in CURVES:
        values = [row.get(column) for row in rows]
        if all(is_number(value) for value in values):
            y = [float(value) for value in values if is_number(value)]
            spread = [float(row.get(f"{column}_std") or 0.0) for row in rows]
            drawn.append(Curve(HEADINGS.get(column, column), x, y, spread if any(spread) else None))
    return title, drawn


def _figure_html(path: Path, title: str, text: str) -> str:
    source = inline_png(path.read_bytes())
    return (
        f"<h3>{html.escape(title)}</h3><p>{html.escape(text)}</p>"
        f"<img class='figure' src='{source}' alt='{html.escape(title)}'>"
    )


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}: the gap - modbridge</title>
<style>
{style}</style>
<h1>{name}: the gap</h1>
{tables}
<h2>Figures</h2>
{figures}
{notes}
<h2>Config</h2>
<pre>{config}</pre>
</html>
"""
