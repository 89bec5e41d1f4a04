"""modbridge gap: the modality gap, before and after bridges."""

from __future__ import annotations

import click

from modbridge.cli.state import (
    State,
    config_options,
    json_option,
    make_session,
    print_json,
    print_rows,
    print_table,
    work_options,
)


@click.command("gap")
@config_options
@work_options
@json_option
@click.pass_obj
def command(
    state: State,
    config: str,
    sets: tuple[str, ...],
    vary: tuple[str, ...],
    profile: str | None,
    cache: str | None,
    device: str,
    on_error: str,
    checkpoint_seconds: float,
    as_json: bool,
) -> None:
    """Measure the gap of a config's held-out pairs, across each bridge of `gap.bridges` (or its own).

    \b
    Examples:
      modbridge gap configs/coco500.yaml --set paths.data=DIR
      modbridge gap my.yaml --json
    """
    from modbridge.assembly.experiment import load_experiment

    experiment = load_experiment(config, state.plugins.registry, sets=sets, vary=vary, profile=profile)
    experiment.require_paths()
    session = make_session(state, cache, device, on_error, checkpoint_seconds)
    from modbridge.stages.gap import gap

    result = gap(session, experiment)
    if as_json:
        print_json(result)
        return
    print_table(result["rows"])
    click.echo()
    pairs = result["all_pairs"]
    print_rows(
        ("all pairs, no bridge", ""), [(name.replace("_", " "), f"{value:.3f}") for name, value in pairs.items()]
    )
