"""modbridge demo: the main job on a machine without weights."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modbridge.cli.state import State, Work, json_option, make_session, print_conditioning, print_json, print_table

if TYPE_CHECKING:
    from modbridge.assembly.experiment import Experiment
    from modbridge.assembly.session import Session


@click.command("demo")
@click.option("--modality", metavar="NAME", default="image", show_default=True, help="image, audio, or vlv.")
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
    items across the gap it leaves, with every bridge and every decoder training. Or, with vlv: train a small
    text-to-image model, let it teach an encoder on pictures alone, and read its embeddings out as captions and as
    pictures. The worlds are made up; docs/explanation/demo.md, demo-audio.md and demo-vlv.md say how they were chosen.

    It is `modbridge run` on the config that this package brings.

    \b
    Examples:
      modbridge demo
      modbridge demo --modality audio
      modbridge demo --modality vlv
      modbridge demo --profile smoke --json
    """
    from modbridge.assembly.experiment import load_experiment
    from modbridge.demo import demo_config

    config = demo_config(modality)
    sets = (f"seed={seed}", *sets)
    experiment = load_experiment(config, state.plugins.registry, sets=sets, profile=profile)
    session = make_session(state, Work(cache))
    from modbridge.stages.run import run

    begun = time.monotonic()
    folder = Path(out) if out else Path("runs") / experiment.first.config.name
    result = run(session, experiment, folder)
    more = _composition(state, session, experiment, folder) if modality == "vlv" else _probe(session, experiment)
    seconds = time.monotonic() - begun
    fresh = sum(not done.cached for done in session.done)
    session.talk.say(f"{fresh} stages done in {seconds:.0f} s, {len(session.done) - fresh} taken from the cache")
    if as_json:
        print_json({**result.to_json(), **more.found})
    else:
        print_table(result.table)
        print_conditioning(result)
        click.echo(more.told)
    session.talk.say(f"report: {result.report}")


@dataclass(frozen=True)
class _More:
    """What a demo says beside its table: for `--json`, and as a line."""

    found: dict[str, Any]
    told: str


def _probe(session: Session, experiment: Experiment) -> _More:
    from modbridge.demo.probe import probe

    seen = probe(session, experiment.first)
    shares = ", ".join(f"{what} {share:.1%}" for what, share in seen.items())
    modality = experiment.first.config.data.train.modality
    return _More({"probe": seen}, f"what a linear probe reads from {modality} vectors, share of items: {shares}")


def _composition(state: State, session: Session, experiment: Experiment, folder: Path) -> _More:
    from modbridge.assembly.pipeline import load
    from modbridge.demo.vlv_sheet import composition, draw_sheet

    data = experiment.first.config.data
    source = session.source(data.test or data.train)
    pipeline = load(folder, device=session.device, plugins=state.plugins)
    found = composition(pipeline, source)
    sheet = draw_sheet(folder, pipeline, source)
    session.talk.say(f"pictures, and what was painted of them: {sheet}")
    shares = ", ".join(f"{what.replace('_', ' of the ')} {share:.1%}" for what, share in found.items())
    return _More({"composition": found}, f"painted of two pictures, half the tokens of each: {shares}")
