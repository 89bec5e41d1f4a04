"""modbridge gap: the modality gap, before and after bridges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from modbridge.cli.state import (
    Asked,
    State,
    Work,
    config_options,
    json_option,
    make_session,
    print_json,
    print_rows,
    work_options,
)

if TYPE_CHECKING:
    from modbridge.config.reported import ReportedConfig
    from modbridge.stages.gap import GapResult


@click.command("gap")
@config_options
@click.option("--all", "every", is_flag=True, help="Print every measure, not only the main ones.")
@click.option("--out", metavar="DIR", help="The report's folder. [default: runs/NAME-gap]")
@click.option("--no-report", is_flag=True, help="Only print; draw and write nothing.")
@work_options
@json_option
@click.pass_obj
def command(
    state: State,
    asked: Asked,
    every: bool,
    out: str | None,
    no_report: bool,
    work: Work,
    as_json: bool,
) -> None:
    """Measure the gap of a config's held-out pairs before and after each bridge, and write a report with figures.

    The bridges are those of `gap.bridges`, or the pipeline's own. `gap.sweep` takes fields of them through values,
    `gap.similarity` adds the similarity table of Diffusion Bridge, `gap.cost` what crossing costs.

    \b
    Examples:
      modbridge gap configs/coco500.yaml --set paths.data=DIR
      modbridge gap my.yaml --all --no-report
      modbridge gap my.yaml --set gap.sweep.start_step=[0,200,400,600] --out sweep
    """
    from modbridge.config.pipeline import dump

    experiment = asked.load(state.plugins.registry)
    experiment.require_paths()
    session = make_session(state, work)
    from modbridge.stages.gap import gap
    from modbridge.stages.gap_report import claim_gap_folder, write_gap

    folder = None if no_report else Path(out) if out else Path("runs") / f"{experiment.first.config.name}-gap"
    if folder is not None:
        claim_gap_folder(folder)
    result = gap(session, experiment)
    if not as_json:
        _print(result, experiment.first.config.reported, every)
    report = None if folder is None else write_gap(session, experiment, result, folder)
    if as_json:
        reported = dump(experiment.first.config.reported)
        print_json({**result.to_json(), "reported": reported, "report": None if report is None else str(report)})
    if report is not None:
        session.talk.say(f"report: {report}")


def _print(result: GapResult, reported: ReportedConfig | None, every: bool) -> None:
    from modbridge.gap_tables import tables

    shown = tables(result.rows, result.all_pairs, result.similarity, result.notes, reported, every=every)
    for number, table in enumerate(shown):
        if number:
            click.echo()
        print_rows(table.headings, table.cells, table.title if number and table.title else None)
        for note in table.notes:
            click.echo(note)
