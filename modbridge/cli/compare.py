"""modbridge compare: a matrix of pipelines in one table that says how sure it is."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from fnmatch import fnmatch
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
    from modbridge.assembly.experiment import Cell, Experiment, Misfit
    from modbridge.assembly.workers import Job
    from modbridge.plugins.registry import Registry


@click.command("compare")
@config_options
@click.option("--seeds", metavar="N|A,B", help="N seeds from 0 on, or these; splits, where gap.fit makes them.")
@click.option("--rows", "patterns", multiple=True, metavar="GLOB", help="Only rows like 'ridge/*', and the baseline.")
@click.option("--baseline", metavar="ROW", help="The row that the others are tested against.")
@click.option("--rank-by", metavar="MEASURE", help="The measure that rows are ranked by, within equal needs.")
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes that share the work.")
@click.option("--no-cost", is_flag=True, help="Don't time the bridges.")
@click.option("--out", metavar="DIR", help="The table's folder. [default: runs/NAME-compare]")
@work_options
@json_option
@click.pass_obj
def command(
    state: State,
    asked: Asked,
    seeds: str | None,
    patterns: tuple[str, ...],
    baseline: str | None,
    rank_by: str | None,
    jobs: int,
    no_cost: bool,
    out: str | None,
    work: Work,
    as_json: bool,
) -> int:
    """Compare the variants of a config, and every combination of varied fields, over several seeds.

    Rows are ranked among those that take the same data to be fitted. Stages that rows share are done once; a row that
    fails is told, and the others go on; what is done already is not done again.

    \b
    Examples:
      modbridge compare configs/zoo/coco500.yaml --set paths.data=DIR
      modbridge compare my.yaml --vary bridge.type=identity,c3,ridge --seeds 5
      modbridge compare configs/zoo/demo.yaml --rows 'c3/*' --rows 'identity/*' --seeds 0,1
    """
    if jobs > 1 and work.engine != "local":
        from modbridge.errors import ConfigError, Problem

        message = f"each of {jobs} processes would ask the engine {work.engine!r} for workers of its own"
        hint = "leave --jobs out: the engine spreads the work of each cell"
        raise ConfigError([Problem("--jobs", message, hint=hint)])
    settings = {"baseline": baseline, "rank_by": rank_by, "cost": "false" if no_cost else None}
    judged = (f"compare.{name}={value}" for name, value in settings.items() if value is not None)
    asked = replace(asked, sets=(*asked.sets, *judged))
    matrix = Matrix(asked, _numbers(seeds), patterns)
    experiment = matrix.load(state.plugins.registry)
    session = make_session(state, work)
    from modbridge.assembly.workers import Failure, in_turn, spread
    from modbridge.comparison_tables import tables
    from modbridge.errors import ConfigError
    from modbridge.stages.compare import compare, replicates, require_comparable
    from modbridge.stages.compare_report import about, claim_compare_folder, write_comparison

    require_comparable(session, experiment)
    folder = Path(out) if out else Path("runs") / f"{experiment.first.config.name}-compare"
    claim_compare_folder(folder)
    cells = experiment.cells
    indices = range(len(cells))

    def job(index: int) -> None:
        replicates(session, cells[index])

    if jobs == 1:
        done = in_turn(indices, job)
    else:
        done = spread(indices, jobs, open_worker, state.files, state.quiet, matrix, work)
    failures: dict[str, Failure] = {}
    for misfit in experiment.misfits:
        session.talk.say(f"left out: {misfit.label}: {ConfigError(misfit.problems)}")
    with session.talk.progress("compare", len(cells)) as progress:
        for index, failure in done:
            label = cells[index].label
            if failure is not None:
                failures[label] = failure
                session.talk.say(f"failed: {label}: {failure.message}")
                if state.debug:
                    session.talk.say(failure.traceback)
            progress.advance(1, label)
    result = compare(session, experiment, failures)
    shown = {"--set": map(_without_place, asked.sets), "--vary": asked.vary, "--rows": patterns}
    shown |= {"--profile": filter(None, [asked.profile]), "--seeds": filter(None, [seeds])}
    words = [word for option, values in shown.items() for value in values for word in (option, value)]
    told = about(session, experiment, result, shlex.join(["modbridge", "compare", _without_root(asked.config), *words]))
    report = write_comparison(session, experiment, result, told, folder)
    if as_json:
        print_json({**result.to_json(), "report": str(report)})
    else:
        for number, table in enumerate(tables(result.rows, told)):
            if number:
                click.echo()
            print_rows(table.headings, table.cells, table.title or None)
            for note in table.notes:
                click.echo(note)
    fresh = sum(not done.cached for done in session.done)
    session.talk.say(f"{fresh} stages done here, {len(session.done) - fresh} taken from the cache")
    session.talk.say(f"report: {report}")
    codes = [failure.exit_code for failure in failures.values()]
    return max([*codes, *(1 for _ in experiment.misfits)], default=0)


@dataclass(frozen=True)
class Matrix:
    """What is compared. `seeds`: in place of the config's own. `rows`: globs of the rows that are wanted; none: all."""

    asked: Asked
    seeds: list[int] | None = None
    rows: tuple[str, ...] = ()

    def load(self, registry: Registry) -> Experiment:
        """The cells: every variant and varied point, at every seed. Raises ConfigError as `load_experiment` does, and
        for a glob that no row is like."""
        from modbridge.assembly.experiment import row_name
        from modbridge.errors import ConfigError, Problem

        found = self.asked.load(registry, allow_misfits=True)
        first = found.first.config
        seeds = self.seeds if self.seeds is not None else first.compare.seeds
        varied = any(text.split("=")[0].strip() == "seed" for text in self.asked.vary)
        seeded = self.asked
        if seeds is not None and first.decoder is None and first.gap.fit is not None:
            seeded = replace(seeded, sets=(*seeded.sets, f"gap.seeds={seeds}"))
        elif seeds is not None and not (varied and self.seeds is None):
            seeded = replace(seeded, vary=(*seeded.vary, f"seed={','.join(map(str, seeds))}"))
        if seeded is not self.asked:
            found = seeded.load(registry, allow_misfits=True)
        if not self.rows:
            return found
        names = [*map(row_name, found.cells), *map(row_name, found.misfits)]
        for glob in self.rows:
            if not any(fnmatch(name, glob) for name in names):
                hint = f"rows: {', '.join(dict.fromkeys(names))}"
                raise ConfigError([Problem("--rows", f"no row is like {glob!r}", hint=hint)])

        def wanted(cell: Cell | Misfit) -> bool:
            return row_name(cell) == first.compare.baseline or any(fnmatch(row_name(cell), glob) for glob in self.rows)

        cells, misfits = list(filter(wanted, found.cells)), list(filter(wanted, found.misfits))
        if not cells:
            raise ConfigError([problem for misfit in misfits for problem in misfit.problems])
        return replace(found, cells=cells, misfits=misfits)


def open_worker(files: list[str], quiet: bool, matrix: Matrix, work: Work) -> Job:
    """What does a cell in a process of its own: it makes the cell's results, in the cache."""
    from rich.console import Console

    from modbridge.stages.compare import replicates
    from modbridge.talk import Talk

    state = State(files=list(files), quiet=quiet)
    experiment = matrix.load(state.plugins.registry)
    session = make_session(state, work)
    # Lines, not bars: several processes share one terminal.
    session.talk = Talk(quiet=quiet, console=Console(stderr=True, highlight=False, force_terminal=False))

    def job(index: int) -> None:
        replicates(session, experiment.cells[index])

    return job


def _without_place(text: str) -> str:
    """A `--set` as a table tells it: where data lie differs from machine to machine."""
    name = text.partition("=")[0]
    return f"{name}=DIR" if name.startswith("paths.") else text


def _without_root(path: str) -> str:
    """A config file as a table tells it: an absolute path says nothing on another machine."""
    return Path(path).name if Path(path).is_absolute() else path


def _numbers(text: str | None) -> list[int] | None:
    """The seeds of `--seeds`: 5 is 0 to 4, "3,7" is those two, "3," the one."""
    from modbridge.errors import ConfigError, Problem

    if text is None:
        return None
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts or not all(part.isdecimal() for part in parts) or (parts == ["0"] and "," not in text):
        hint = "--seeds 5 for the seeds 0 to 4, --seeds 3,7 for those two"
        raise ConfigError(
            [Problem("--seeds", f"expected a number of seeds or a list of them, found {text!r}", hint=hint)]
        )
    return [int(part) for part in parts] if "," in text else list(range(int(parts[0])))
