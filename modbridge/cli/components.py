"""modbridge components: every component of every plugin."""

from __future__ import annotations

import click

from modbridge.cli.state import State, json_option, print_json, print_rows


@click.command("components")
@click.argument("kind", required=False)
@json_option
@click.pass_obj
def command(state: State, kind: str | None, as_json: bool) -> None:
    """List every component that is installed, or those of one KIND.

    \b
    Examples:
      modbridge components
      modbridge components bridge --json
    """
    from modbridge.errors import ConfigError, Problem
    from modbridge.plugins.registry import KINDS

    if kind is not None and kind not in KINDS:
        raise ConfigError([Problem("", f"no such kind: {kind!r}", hint=f"kinds: {', '.join(KINDS)}")])
    specs = [spec for spec in state.plugins.registry if kind in (None, spec.kind)]
    if as_json:
        print_json(
            {"rows": [{"kind": s.kind, "name": s.name, "plugin": s.plugin, "summary": s.summary} for s in specs]}
        )
        return
    print_rows(("kind", "name", "plugin", "summary"), [(s.kind, s.name, s.plugin, s.summary) for s in specs])
