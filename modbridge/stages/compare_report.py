"""The folder of a comparison: table.csv, .md, .tex and .json, figures/ and report.html on one page."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Experiment
from modbridge.assembly.session import Session
from modbridge.comparison_figures import agreement, frontier, ranking
from modbridge.comparison_tables import PREDICTORS, About, by_captions, csv_text, html_body, latex, markdown
from modbridge.config.pipeline import dump
from modbridge.stages.compare import Comparison
from modbridge.stages.pages import STYLE, inline_png, write_json, write_text
from modbridge.stages.report import COMPARISON, claim_folder, installed_versions
from modbridge.tables import is_number

SCHEMA = 1
CORRECTION = "Holm"
DRAWN = 4  # of the measures that may predict captions, those that are drawn against them


def claim_compare_folder(out: Path) -> None:
    """Make the folder or refuse it, before any work: as `claim_folder`."""
    claim_folder(out, COMPARISON)


def about(session: Session, experiment: Experiment, result: Comparison, command: str) -> About:
    """What holds for the whole table."""
    config = experiment.first.config
    device = session.torch_device(config.device)
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU threads"
    return About(
        name=config.name,
        rank_by=result.rank_by,
        level=config.compare.level,
        resamples=config.compare.resamples,
        baseline=result.baseline,
        correction=CORRECTION,
        command=command,
        fingerprints={split: print_[:12] for split, print_ in result.fingerprints.items()},
        seeds=result.seeds,
        by_seed=list(dict.fromkeys(n for row in result.over.values() for n, over in row.items() if over == "seeds")),
        machine=f"{device.type}, {where}, torch {torch.__version__}",
    )


def write_comparison(session: Session, experiment: Experiment, result: Comparison, told: About, out: Path) -> Path:
    """Write the folder, of which the record compare.json comes last. Gives the path of report.html."""
    claim_compare_folder(out)
    (out / COMPARISON).unlink(missing_ok=True)
    for old in (out / "figures").glob("*.png"):
        old.unlink()
    rows = result.rows
    write_text(out / "config.yaml", experiment.first.document.text)
    write_json(out / "resolved.json", {cell.label: dump(cell.config) for cell in experiment.cells})
    write_json(out / "versions.json", installed_versions(session))
    write_json(out / "table.json", result.to_json())
    write_text(out / "table.csv", csv_text(rows, told))
    write_text(out / "table.md", markdown(rows, told))
    write_text(out / "table.tex", latex(rows, told))
    figures = _draw(result, out / "figures")
    page = _PAGE.format(
        style=STYLE,
        name=html.escape(told.name),
        tables=html_body(rows, told),
        figures="".join(_figure(out / "figures" / name, title, text) for name, title, text in figures),
        config=html.escape(experiment.first.document.text),
    )
    write_text(out / "report.html", page)
    record = {"schema": SCHEMA, "name": told.name, "command": told.command, "seeds": result.seeds}
    write_json(out / COMPARISON, record | {"fingerprints": result.fingerprints, "baseline": result.baseline})
    return out / "report.html"


def _draw(result: Comparison, folder: Path) -> list[tuple[str, str, str]]:
    """The figures: (file, title, how to read it)."""
    rows = [row for row in result.rows if row.get("rank") is not None]
    found = []
    if any(is_number(row.get("centred_paired_cosine")) for row in rows):
        frontier(_one_a_bridge(result), folder / "frontier.png")
        text = "Nearness to the own text against telling it from others'. One point a bridge; bars are the intervals."
        found.append(("frontier.png", "The frontier", text))
    if rows:
        ranking(rows, folder / "ranking.png", result.rank_by)
        found.append(("ranking.png", "The ranking", "Means and intervals, among rows of equal needs."))
    if by_captions(result.rank_by):
        for measure in PREDICTORS[:DRAWN]:
            if any(is_number(row.get(measure)) for row in rows):
                name = f"agreement-{measure}.png"
                agreement(rows, folder / name, measure, result.rank_by)
                text = "Whether the measure of the vectors puts rows in the order of their captions."
                found.append((name, f"Does {measure.replace('_', ' ')} predict captions?", text))
    return found


def _one_a_bridge(result: Comparison) -> list[dict[str, Any]]:
    """The rows, but one of those with the same vectors: under another decoder training a bridge stays where it is."""
    seen: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in result.rows:
        if is_number(row.get("centred_paired_cosine")):
            place = tuple(row.get(name) for name in ("bridge", "centred_paired_cosine", "centred_r_at_1", "gap_norm"))
            kept = seen.get(place)
            if kept is None or (row.get("baseline") and not kept.get("baseline")):
                seen[place] = row
    return list(seen.values())


def _figure(path: Path, title: str, text: str) -> str:
    picture = f"<img class='figure' src='{inline_png(path.read_bytes())}' alt='{html.escape(title)}'>"
    return f"<h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{picture}"


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name}: comparison - modbridge</title>
<style>
{style}.group th {{ padding-top: .8rem; border-bottom: 1px solid #ccc }} .failed td {{ color: #a33 }}
td {{ white-space: nowrap }}
</style>
<h1>{name}: comparison</h1>
{tables}
{figures}
<h2>Config</h2>
<pre>{config}</pre>
</html>
"""
