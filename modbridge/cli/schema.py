"""modbridge schema: the JSON schema of configs."""

from __future__ import annotations

import click

from modbridge.cli.state import State, print_json


@click.command("schema")
@click.pass_obj
def command(state: State) -> None:
    """Write the JSON schema of configs to stdout, installed plugins included.

    \b
    Example:
      modbridge schema > modbridge.schema.json
      # then, first line of a config:  # yaml-language-server: $schema=modbridge.schema.json
    """
    from modbridge.config.pipeline import PipelineConfig
    from modbridge.config.schema import json_schema

    print_json(json_schema(state.plugins.registry, PipelineConfig))
