"""modbridge init: a config to start from."""

from __future__ import annotations

from pathlib import Path

import click

from modbridge.cli.state import State
from modbridge.errors import DataError


@click.command("init")
@click.argument("file", required=False)
@click.option("--source", default="jsonl", show_default=True, help="Where items come from.")
@click.option("--encoder", default="open_clip", show_default=True)
@click.option("--bridge", default="diffusion_bridge", show_default=True)
@click.option("--decoder", default="prefix_lm", show_default=True)
@click.option("--metrics", default="bleu,rouge_l,cider", show_default=True, help="Comma-separated.")
@click.pass_obj
def command(state: State, file: str | None, source: str, encoder: str, bridge: str, decoder: str, metrics: str) -> None:
    """Write a commented config with every field of the chosen parts; to stdout without FILE.

    \b
    Examples:
      modbridge init my.yaml
      modbridge init --encoder hf_clip --bridge mean_shift > my.yaml
    """
    from modbridge.config.template import starter

    registry = state.plugins.registry
    chosen = {"source": source, "encoder": encoder, "bridge": bridge, "decoder": decoder}
    for kind, name in chosen.items():
        registry.get(kind, name)
    names = [name for name in metrics.split(",") if name]
    for name in names:
        registry.get("metric", name)
    text = starter({**chosen, "metrics": names}, registry)
    if file is None:
        click.echo(text, nl=False)
        return
    path = Path(file)
    if path.exists():
        raise DataError(f"{path} exists; nothing was written. Give another name, or remove it first.")
    path.write_text(text, encoding="utf-8")
    click.echo(f"wrote {path}; see what it still needs with: modbridge check {path}", err=True)
