"""modbridge run: a config through every stage."""

from __future__ import annotations

from pathlib import Path

import click

from modbridge.cli.state import (
    Asked,
    State,
    Work,
    config_options,
    json_option,
    make_session,
    print_conditioning,
    print_json,
    print_table,
    work_options,
)


@click.command("run")
@config_options
@click.option("--out", metavar="DIR", help="The run's folder. [default: runs/NAME]")
@click.option("--until", metavar="STAGE", default="report", show_default=True, help="Stop after this stage.")
@work_options
@json_option
@click.pass_obj
def command(
    state: State,
    asked: Asked,
    out: str | None,
    until: str,
    work: Work,
    as_json: bool,
) -> None:
    """Run a config: fit_encoder, embed, fit_bridge, fit_decoder, generate, score, report.

    What is done already is not done again; a run that was killed goes on where it was. Several processes train as one.

    \b
    Examples:
      modbridge run my.yaml
      torchrun --nproc-per-node 2 -m modbridge run my.yaml
      modbridge run my.yaml --vary bridge.type=identity,mean_shift --until score
    """
    from modbridge.errors import ConfigError, Problem
    from modbridge.stages import STAGES

    if until not in STAGES:
        raise ConfigError([Problem("--until", f"no such stage: {until!r}", hint=f"stages: {', '.join(STAGES)}")])
    experiment = asked.load(state.plugins.registry)
    experiment.require_paths()
    session = make_session(state, work)
    from modbridge.stages.run import run
    from modbridge.tables import beside

    folder = Path(out) if out else Path("runs") / experiment.first.config.name
    result = run(session, experiment, folder, until)
    session.world.close()
    if not session.world.main:
        return
    fresh = sum(not done.cached for done in session.done)
    session.talk.say(f"{fresh} stages done, {len(session.done) - fresh} taken from the cache")
    if as_json:
        print_json(result.to_json())
    elif result.table:
        print_table(*beside(result.table, result.reported, experiment.first.config.name))
        print_conditioning(result)
    if result.report:
        session.talk.say(f"report: {result.report}")
