"""modbridge demo: the main job on a machine without weights."""

from __future__ import annotations

import time
from pathlib import Path

import click

from modbridge.cli.state import State, Work, json_option, make_session, print_json, print_table


@click.command("demo")
@click.option("--modality", metavar="NAME", default="image", show_default=True, help="Which world.")
@click.option("--profile", metavar="NAME", help="smoke: the same code in under a minute, too small to learn much.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the world, the weights and the noise.")
@click.option("--out", metavar="DIR", help="The run's folder. [default: runs/demo]")
@click.option("--cache", metavar="DIR", help="Where results are kept. [default: MODBRIDGE_CACHE, or the user's]")
@click.option("--set", "sets", multiple=True, metavar="A.B=VALUE", help="Set a field of the demo's config.")
@json_option
@click.pass_obj
def command(
    state: State,
    modality: str,
    profile: str | None,
    seed: int,
    out: str | None,
    cache: str | None,
    sets: tuple[str, ...],
    as_json: bool,
) -> None:
    """Make a world of drawn scenes (or of synthesised sounds), train a small dual encoder on it, and caption held-out
    items across the gap it leaves, with every bridge and every decoder training. The world is made up;
    docs/explanation/demo.md and demo-audio.md say how it was chosen.

    It is `modbridge run` on the config that this package brings.

    \b
    Examples:
      modbridge demo
      modbridge demo --modality audio
      modbridge demo --profile smoke --json
    """
    from modbridge.assembly.experiment import load_experiment
    from modbridge.demo import demo_config

    config = demo_config(modality)
    sets = (f"seed={seed}", *sets)
    experiment = load_experiment(config, state.plugins.registry, sets=sets, profile=profile)
    session = make_session(state, Work(cache))
    from modbridge.demo.probe import probe
    from modbridge.stages.run import run

    begun = time.monotonic()
    folder = Path(out) if out else Path("runs") / experiment.first.config.name
    result = run(session, experiment, folder)
    seen = probe(session, experiment.first)
    seconds = time.monotonic() - begun
    fresh = sum(not done.cached for done in session.done)
    session.talk.say(f"{fresh} stages done in {seconds:.0f} s, {len(session.done) - fresh} taken from the cache")
    if as_json:
        print_json({**result.to_json(), "probe": seen})
    else:
        print_table(result.table)
        shares = ", ".join(f"{what} {share:.1%}" for what, share in seen.items())
        modality = experiment.first.config.data.train.modality
        click.echo(f"what a linear probe reads from {modality} vectors, share of items: {shares}")
    session.talk.say(f"report: {result.report}")
