"""modbridge new-plugin: a package to begin with."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("new-plugin")
@click.argument("name")
@click.option("--kinds", default="bridge", show_default=True, metavar="KIND,...", help="Which parts it has.")
@click.option("--out", metavar="DIR", help="The package's folder. [default: NAME]")
def command(name: str, kinds: str, out: str | None) -> None:
    """Write a package with parts of your own: they run in its pipeline and pass its tests at once.

    The kinds are encoder, prior, bridge, decoder, source, vocabulary, metric, engine, objective and judge. A prior
    comes with a bridge that it works in, a vocabulary with a decoder, an objective with an encoder, a judge with a
    metric. What is yours to decide is marked in the code.

    \b
    Examples:
      modbridge new-plugin my-plugin
      modbridge new-plugin my-plugin --kinds encoder,bridge --out work/my-plugin
    """
    from modbridge.scaffold import Package, write_package

    asked = [kind.strip() for kind in kinds.split(",") if kind.strip()]
    package = Package.of(name, asked)
    folder = Path(out) if out else Path(package.name)
    for path in write_package(package, folder):
        click.echo(folder / path)
    added = [kind for kind in package.kinds if kind not in asked]
    if added:
        click.echo(f"written too, since parts that were asked for work inside: {', '.join(added)}", err=True)
    click.echo(f'next: cd {folder} && pip install -e ".[test]" && pytest && modbridge run pipeline.yaml', err=True)
