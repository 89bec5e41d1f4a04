"""modbridge doctor: what the environment lacks."""

from __future__ import annotations

import shutil
from typing import Any

import click

from modbridge.cli.state import State, cache_folder, json_option, print_json, print_rows


@click.command("doctor")
@click.option("--cache", metavar="DIR", help="Which cache. [default: MODBRIDGE_CACHE, or the user's]")
@json_option
@click.pass_obj
def command(state: State, cache: str | None, as_json: bool) -> None:
    """Say what is there and what is missing: plugins, devices, disk, and what each plugin asks for.

    Exits with 4 if anything is missing that a plugin asks for, 3 if a plugin is broken.

    \b
    Example:
      modbridge doctor
    """
    rows: list[dict[str, Any]] = []

    def note(what: str, there: bool, advice: str, needed: bool = True) -> None:
        rows.append({"what": what, "there": there, "advice": "" if there else advice, "needed": needed})

    for info in state.plugins.infos:
        if info.status != "disabled":
            note(f"plugin {info.name} {info.version}", info.status == "loaded", info.error)
    try:
        import torch
        import torchvision  # noqa: F401 (a pair that does not match fails to import, and breaks model code with it)

        note(f"torch {torch.__version__} with torchvision", True, "")
        note("a GPU", torch.cuda.is_available(), "work is done on the CPU", needed=False)
    except Exception as error:  # whatever a broken pair raises, the doctor tells it
        note("torch with torchvision", False, f"{type(error).__name__}: {error}; install a matching pair")
    root = cache_folder(cache)
    at = next(parent for parent in (root, *root.parents) if parent.exists())
    free = shutil.disk_usage(at).free / 1e9
    note(f"disk for the cache at {root}: {free:.1f} GB free", free > 1, "free some space, or set MODBRIDGE_CACHE")
    for found in state.plugins.doctor():
        note(*found, needed=False)
    if as_json:
        print_json({"rows": rows})
    else:
        print_rows(("", "what", "what to do"), [("ok" if r["there"] else "--", r["what"], r["advice"]) for r in rows])
    if any(info.status == "broken" for info in state.plugins.infos):
        raise SystemExit(3)
    if any(row["needed"] and not row["there"] for row in rows):
        raise SystemExit(4)
