"""modbridge cache: what is kept, and emptying it."""

from __future__ import annotations

import shutil

import click

from modbridge.cli.state import State, cache_folder, json_option, print_json, print_rows

WORK = "work"  # where stages that are not finished keep their checkpoints


@click.command("cache")
@click.option("--cache", metavar="DIR", help="Which cache. [default: MODBRIDGE_CACHE, or the user's]")
@click.option("--clear", metavar="STAGE", help="Remove the results of this stage; `all` removes everything.")
@json_option
@click.pass_obj
def command(state: State, cache: str | None, clear: str | None, as_json: bool) -> None:
    """Show how much each stage keeps, or remove it.

    \b
    Examples:
      modbridge cache
      modbridge cache --clear embed
    """
    from modbridge.errors import DataError
    from modbridge.stages import KEPT

    root = cache_folder(cache)
    # Only what modbridge itself keeps there: the folder may be shared, or given by mistake.
    stages = [name for name in (*KEPT, WORK) if (root / name).is_dir() and any((root / name).iterdir())]
    if clear is not None:
        if clear != "all" and clear not in stages:
            raise DataError(f"the cache {root} keeps no {clear!r}; it keeps: {', '.join(stages) or 'nothing'}.")
        for name in stages if clear == "all" else [clear]:
            shutil.rmtree(root / name)
        stages = [] if clear == "all" else [name for name in stages if name != clear]
    rows = []
    for name in stages:
        files = [p for p in (root / name).rglob("*") if p.is_file()]
        results = sum(1 for p in (root / name).iterdir() if p.is_dir())
        name = "unfinished" if name == WORK else name
        rows.append({"stage": name, "results": results, "bytes": sum(p.stat().st_size for p in files)})
    if as_json:
        print_json({"rows": rows, "folder": str(root)})
        return
    click.echo(f"cache: {root}")
    table = [(str(r["stage"]), str(r["results"]), f"{int(str(r['bytes'])) / 1e6:.1f} MB") for r in rows]
    print_rows(("stage", "results", "size"), table)
