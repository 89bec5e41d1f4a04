"""modbridge import-weights: what a method's authors published, as an artefact."""

from __future__ import annotations

import difflib

import click

from modbridge.cli.state import State, shared_options
from modbridge.errors import ConfigError, Problem
from modbridge.plugins.registry import ComponentSpec


class Importers(click.Group):
    """The components whose plugins can read foreign weights, by name; `-` and `_` are the same."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(spec.name.replace("_", "-") for spec in _registry(ctx) if spec.importer)

    def get_command(self, ctx: click.Context, name: str) -> click.Command:
        for spec in _registry(ctx):
            if spec.importer and spec.name == name.replace("-", "_"):
                found: click.Command = spec.load_importer()
                known = {option for param in found.params for option in param.opts}
                found.params += [option for option in shared_options() if not known & set(option.opts)]
                return found
        known_names = self.list_commands(ctx)
        close = difflib.get_close_matches(name, known_names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]!r}?" if close else f"there are: {', '.join(known_names) or 'none'}"
        raise ConfigError([Problem("", f"no weights of {name!r} can be imported", hint=hint)])

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(spec.name.replace("_", "-"), spec.summary) for spec in _registry(ctx) if spec.importer]
        with formatter.section("Weights of"):
            formatter.write_dl(rows or [("(none)", "no plugin that reads foreign weights is installed")])


def _registry(ctx: click.Context) -> list[ComponentSpec]:
    state: State = ctx.ensure_object(State)
    return list(state.plugins.registry)


@click.command("import-weights", cls=Importers)
def command() -> None:
    """Read weights that a method's authors published, and write them as an artefact, which a config takes up with
    `weights: DIR`. Pickles are opened with weights_only=True.

    \b
    Example:
      modbridge import-weights diffusion-bridge model-300.pt --out weights/db
    """
