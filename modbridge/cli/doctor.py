"""modbridge doctor: what the environment lacks."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import click

from modbridge.cli.state import State, cache_folder, json_option, print_json, print_rows

# What for, its modules, the extra of the core that brings them.
EXTRAS = (
    ("reading sounds", ("soundfile", "soxr"), "audio"),
    ("clouds by UMAP in reports", ("umap",), "umap"),
    ("images in parquet files", ("pyarrow",), "parquet"),
    ("memories of more than ten million texts", ("faiss",), "faiss"),
)


@click.command("doctor")
@click.option("--cache", metavar="DIR", help="Which cache. [default: MODBRIDGE_CACHE, or the user's]")
@json_option
@click.pass_obj
def command(state: State, cache: str | None, as_json: bool) -> None:
    """Say what is there and what is missing: plugins, devices, disk, and what each plugin asks for.

    Exits with 3 if a plugin is broken, with 4 if anything is missing that every run needs; what only some parts need is
    told and does not count.

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
    _torch(note)
    for what, modules, extra in EXTRAS:
        there = all(find_spec(module) is not None for module in modules)
        note(f"{what}: {', '.join(modules)}", there, f"pip install 'modbridge[{extra}]'", needed=False)
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
    if state.plugins.doctors_failed or any(info.status == "broken" for info in state.plugins.infos):
        raise SystemExit(3)
    if any(row["needed"] and not row["there"] for row in rows):
        raise SystemExit(4)


def _torch(note: Callable[..., None]) -> None:
    """Whether torch can be imported, and torchvision with it where it is installed: a pair that does not match fails to
    import and breaks model code, even where that needs no torchvision."""
    name = "torch"
    try:
        import torch

        name = f"torch {torch.__version__}"
        if find_spec("torchvision") is not None:
            name += " with torchvision"
            import torchvision  # noqa: F401
    except Exception as error:  # whatever a broken pair raises, the doctor tells it
        note(name, False, f"{type(error).__name__}: {error}; install a matching pair of torch and torchvision")
        return
    note(name, True, "")
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    note("a GPU", gpu, "work is done on the CPU; if there is one, install torch for its driver", needed=False)
