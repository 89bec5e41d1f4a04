"""modbridge caption: captions of files, one a line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from modbridge.cli.state import State, json_option, print_json
from modbridge.details import explained


@click.command("caption")
@click.option("--run", "run", required=True, metavar="RUN", help="A finished run's folder, or hf://org/name@revision.")
@click.option("--cell", metavar="NAME", help="Which variant of the run. [default: the config's main one]")
@click.option(
    "--explain",
    is_flag=True,
    help="Show entities found, with scores, and each bridge step's distance to the text cloud.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps; auto: as the config says.")
@json_option
@click.argument("files", nargs=-1, required=True)
@click.pass_obj
def command(
    state: State, run: str, cell: str | None, explain: bool, device: str, as_json: bool, files: tuple[str, ...]
) -> None:
    """Caption FILES with a finished run: one line a file, in their order.

    \b
    Examples:
      modbridge caption --run runs/demo image.png other.jpg
      modbridge caption --run runs/demo --explain image.png
    """
    from modbridge.assembly.pipeline import load

    pipeline = load(run, cell=cell, device=device, plugins=state.plugins)
    source = pipeline.encode(list(files))
    decoded = pipeline.decode(source)
    stations = pipeline.explain(source) if explain else None
    if as_json:
        rows: list[dict[str, Any]] = []
        for i, (file, one) in enumerate(zip(files, decoded, strict=True)):
            rows.append({"file": file, "caption": one.text})
            if stations:
                rows[-1] |= {"stations": [asdict(station) for station in stations[i]], "details": dict(one.details)}
        print_json({"rows": rows})
        return
    for i, one in enumerate(decoded):
        click.echo(one.text)
        if not stations:
            continue
        for line in explained(one.details):
            click.echo(f"  {line}")
        for station in stations[i]:
            click.echo(
                f"  {station.name:<12} distance to text mean {station.to_mean:.3f}, "
                f"cosine to nearest text {station.nearest:.3f}"
            )
