"""modbridge check: a config, without loading weights."""

from __future__ import annotations

import gc
from typing import Any

import click

from modbridge.cli.state import Asked, State, config_options, json_option, print_json


@click.command("check")
@config_options
@json_option
@click.pass_obj
def command(state: State, asked: Asked, as_json: bool) -> None:
    """Check a config: every mistake at once, and the ports of neighbours compared. Loads no weights.

    A path that is declared without value is listed as "to be given".

    \b
    Examples:
      modbridge check configs/coco500.yaml
      modbridge check my.yaml --set bridge.start_step=400 --json
    """
    # A short process that keeps nearly all it makes: looking for garbage would be a tenth of its time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        experiment = asked.load(state.plugins.registry)
    finally:
        if collecting:
            gc.enable()
    rows: list[dict[str, Any]] = [
        {
            "cell": cell.label,
            "encoder": cell.config.encoder.type,
            "bridge": cell.config.bridge.title,
            "augment": "supervised" if cell.config.supervised else cell.config.augmenter.augments_by,
            "decoder": cell.config.decoder.type if cell.config.decoder else None,
            "decoders": {name: other.type for name, other in cell.config.decoders.items()},
            "source": str(cell.plan.source),
            "text": str(cell.plan.text),
            "bridged": str(cell.plan.bridged),
            "trained": str(cell.plan.trained),
        }
        for cell in experiment.cells
    ]
    if as_json:
        print_json({"rows": rows, "to_be_given": experiment.to_be_given})
        return
    for row in rows:
        decoder = f" -> {row['decoder']}" if row["decoder"] else ""
        click.echo(f"{row['cell']}: {row['encoder']} -> {row['bridge']} (augment: {row['augment']}){decoder}")
        click.echo(f"  {row['source']} -> {row['bridged']}")
        for name, other in row["decoders"].items():
            click.echo(f"  {name}: {other}")
    for name in experiment.to_be_given:
        click.echo(f"to be given: {name} (--set {name}=DIR)")
    click.echo("ok")
