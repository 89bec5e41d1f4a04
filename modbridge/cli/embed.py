"""modbridge embed: the vectors of a config's data, made and listed."""

from __future__ import annotations

import json
from typing import Any

import click

from modbridge.cli.state import (
    Asked,
    State,
    Work,
    config_options,
    json_option,
    make_session,
    print_json,
    print_rows,
    work_options,
)

SPLITS = ("train", "validation", "test")


@click.command("embed")
@config_options
@click.option("--split", "splits", multiple=True, metavar="SPLIT", help="Only this split: train, validation or test.")
@click.option("--side", "sides", multiple=True, metavar="SIDE", help="Only this side: text, or the media's modality.")
@work_options
@json_option
@click.pass_obj
def command(
    state: State, asked: Asked, splits: tuple[str, ...], sides: tuple[str, ...], work: Work, as_json: bool
) -> None:
    """Embed every item and every text that a config names, and say where the vectors are.

    Vectors come in shards of safetensors, each with the rows that it holds; index.json names the items. What stands
    already is left as it is; a call that was killed goes on after its last shard.

    \b
    Examples:
      modbridge embed my.yaml
      modbridge embed my.yaml --split train --side image --engine ray
    """
    from modbridge.errors import ConfigError, Problem

    for split in splits:
        if split not in SPLITS:
            raise ConfigError([Problem("--split", f"no such split: {split!r}", hint=f"splits: {', '.join(SPLITS)}")])
    experiment = asked.load(state.plugins.registry)
    experiment.require_paths()
    session = make_session(state, work)
    from modbridge.stages.embed import vectors_folder

    rows: dict[str, dict[str, Any]] = {}
    for cell in (one.untuned for one in experiment.cells):
        data = cell.config.data
        known = {"text", data.train.modality}
        for side in sides:
            if side not in known:
                hint = f"sides: {', '.join(sorted(known))}"
                raise ConfigError([Problem("--side", f"no such side: {side!r}", hint=hint)])
        for split in splits or [name for name in SPLITS if getattr(data, name) is not None]:
            source = getattr(data, split)
            if source is None:
                raise ConfigError([Problem(f"data.{split}", "is missing", where=cell.document.where("data"))])
            for side in sides or ([source.modality, "text"] if source.brings_texts else [source.modality]):
                folder = vectors_folder(session, cell, split, side)
                rows.setdefault(str(folder), {"split": split, "side": side, **_about(folder)})
    if as_json:
        print_json({"rows": list(rows.values())})
        return
    listed = [
        (row["split"], row["side"], str(row["items"]), str(row["left_out"]), row["port"], row["folder"])
        for row in rows.values()
    ]
    print_rows(("split", "side", "items", "left out", "vectors", "folder"), listed)


def _about(folder: Any) -> dict[str, Any]:
    """What a store says of itself."""
    from modbridge.spaces import Port
    from modbridge.store.artefact import read_manifest
    from modbridge.store.shards import INDEX

    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    skipped = sum(len(note["unread"]) for note in index["shards"].values())
    port = Port.from_json(read_manifest(folder, verify=False)["port"])
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "items": len(index["keys"]),
        "left_out": skipped,
        "port": str(port),
        "shards": len(index["shards"]),
        "bytes": size,
        "folder": str(folder),
    }
