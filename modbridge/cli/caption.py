"""modbridge caption: captions of files, one a line; or what another decoder of the run makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modbridge.cli.state import State, json_option, print_json
from modbridge.details import explained
from modbridge.errors import ConfigError, Problem, SetupError

if TYPE_CHECKING:
    from modbridge.interfaces.decoder import Decoded


@click.command("caption")
@click.option("--run", "run", required=True, metavar="RUN", help="A finished run's folder, or hf://org/name@revision.")
@click.option("--cell", metavar="NAME", help="Which variant of the run. [default: the config's main one]")
@click.option(
    "--explain",
    is_flag=True,
    help="Show entities found, with scores, and each bridge step's distance to the text cloud.",
)
@click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps; auto: as the config says.")
@click.option("--to", default="text", show_default=True, metavar="NAME", help="Which decoder of the run: image, say.")
@click.option("--out", metavar="DIR", help="Where images go, of a decoder that makes them.")
@json_option
@click.argument("files", nargs=-1, required=True)
@click.pass_obj
def command(
    state: State,
    run: str,
    cell: str | None,
    explain: bool,
    device: str,
    to: str,
    out: str | None,
    as_json: bool,
    files: tuple[str, ...],
) -> None:
    """Caption FILES with a finished run: one line a file, in their order.

    With --to a further decoder of the run is taken; of one that makes images the line names the image's file.

    \b
    Examples:
      modbridge caption --run runs/demo image.png other.jpg
      modbridge caption --run runs/demo --explain image.png
      modbridge caption --run runs/both --to image --out painted image.png
    """
    from modbridge.assembly.pipeline import load

    pipeline = load(run, cell=cell, device=device, plugins=state.plugins)
    paints = pipeline.decoder_of(to).config.makes == "image"
    if paints != (out is not None):
        message = f"{to!r} makes images; say where they go" if paints else f"{to!r} makes no images to be put there"
        raise ConfigError([Problem("--out", message, hint="--out DIR" if paints else "leave it out")])
    source = pipeline.encode(list(files))
    decoded = pipeline.decode(source, to)
    stations = pipeline.explain(source) if explain else None
    said = [one.text for one in decoded] if out is None else _images(decoded, files, Path(out))
    if as_json:
        rows: list[dict[str, Any]] = []
        for i, (file, one) in enumerate(zip(files, decoded, strict=True)):
            rows.append({"file": file, "image" if paints else "caption": said[i]})
            if stations:
                rows[-1] |= {"stations": [asdict(station) for station in stations[i]], "details": dict(one.details)}
        print_json({"rows": rows})
        return
    for i, one in enumerate(decoded):
        click.echo(said[i])
        if not stations:
            continue
        for line in explained(one.details):
            click.echo(f"  {line}")
        for station in stations[i]:
            click.echo(
                f"  {station.name:<12} distance to text mean {station.to_mean:.3f}, "
                f"cosine to nearest text {station.nearest:.3f}"
            )


def _images(decoded: Sequence[Decoded], files: Sequence[str], folder: Path) -> list[str]:
    """Write the images that were made of files under their names; gives where they are. Raises ConfigError before it
    would write over one of the files."""
    from PIL import Image

    stems, names = [Path(file).stem for file in files], list[str]()
    for i, stem in enumerate(stems):
        name = stem if stems.count(stem) == 1 else f"{stem}-{i}"
        while name in names or (name != stem and name in stems):
            name += "-"
        names.append(name)
    given = {Path(file).resolve() for file in files}
    for name in names:
        if (folder / f"{name}.png").resolve() in given:
            message = f"{folder / name}.png is one of the files that are given, and would be written over"
            raise ConfigError([Problem("--out", message, hint="give another folder")])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for one, name in zip(decoded, names, strict=True):
            Image.fromarray(one.image).save(folder / f"{name}.png")
    except OSError as error:
        raise SetupError(f"{folder} cannot be written ({error}); give another folder with --out.") from error
    return [str(folder / f"{name}.png") for name in names]
