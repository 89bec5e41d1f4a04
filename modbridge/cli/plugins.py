"""modbridge plugins: what was found, what is broken, what is switched off."""

from __future__ import annotations

from dataclasses import asdict

import click

from modbridge.cli.state import State, json_option, print_json


@click.command("plugins")
@json_option
@click.pass_obj
def command(state: State, as_json: bool) -> None:
    """List the plugins that were found, with their distribution, version and components.

    Broken plugins are listed with their error; every other still works.

    \b
    Examples:
      modbridge plugins
      MODBRIDGE_DISABLE=demo modbridge plugins --json
    """
    infos = state.plugins.infos
    if as_json:
        print_json({"rows": [asdict(info) for info in infos]})
        return
    # Plain columns: this verb answers at once, and rich would take longer to import than all of it.
    widths = [max((len(str(getattr(info, name))) for info in infos), default=0) for name in ("name", "distribution")]
    for info in infos:
        about = info.error if info.status == "broken" else ", ".join(info.components)
        status = "" if info.status == "loaded" else f"{info.status}: "
        click.echo(f"{info.name:<{widths[0]}}  {info.distribution:<{widths[1]}}  {info.version:<8}  {status}{about}")
