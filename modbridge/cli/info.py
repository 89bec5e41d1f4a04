"""modbridge info: versions, platform, devices, plugins, for issue reports."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from typing import Any

import click

from modbridge.cli.state import State, json_option, print_json, print_rows

# What a problem is most often about; what is not installed is told as such.
LIBRARIES = (
    "torch", "torchvision", "torchaudio", "transformers", "open-clip-torch", "diffusers", "accelerate", "peft",
    "safetensors", "huggingface-hub", "numpy", "pydantic", "aac-metrics", "pycocoevalcap",
)  # fmt: skip


@click.command("info")
@click.option("--markdown", is_flag=True, help="As Markdown, to paste into an issue.")
@json_option
@click.pass_obj
def command(state: State, markdown: bool, as_json: bool) -> None:
    """Say what is installed and what it runs on. No paths and no names of machines are shown.

    \b
    Examples:
      modbridge info
      modbridge info --markdown
    """
    rows = _rows(state)
    if as_json:
        print_json({"rows": rows})
    elif markdown:
        click.echo("| what | found |\n|---|---|")
        for row in rows:
            click.echo(f"| {_cell(row['what'])} | {_cell(row['found'])} |")
    else:
        print_rows(("what", "found"), [(row["what"], row["found"]) for row in rows])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def _rows(state: State) -> list[dict[str, str]]:
    found = [("modbridge", _version("modbridge")), ("Python", platform.python_version())]
    found += [("platform", f"{platform.system()} {platform.release()} {platform.machine()}")]
    found += [("cores", str(os.cpu_count() or "?")), ("devices", _devices())]
    found += [(name, _version(name)) for name in LIBRARIES]
    found += [("java", "there" if shutil.which("java") else "not found")]
    for info in state.plugins.infos:
        about = f"{info.distribution} {info.version}" if info.version != "file" else "a file"
        status = info.status if info.status != "broken" else f"broken: {_without_home(info.error)}"
        found.append((f"plugin {info.name}", f"{about}, {status}"))
    given = sorted(name for name in os.environ if name.startswith(("MODBRIDGE_", "HF_HUB_")))
    found.append(("variables set", ", ".join(given) or "none"))
    return [{"what": what, "found": told} for what, told in found]


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def _without_home(text: str) -> str:
    """A message without the user's own folder, which is nobody's business in an issue."""
    home = os.path.expanduser("~")
    return text.replace(home, "~") if len(home) > 1 else text


def _devices() -> str:
    try:
        import torch
    except Exception as error:  # whatever a broken torch raises, that is what an issue needs to say
        return f"torch cannot be imported: {type(error).__name__}: {error}"
    names: list[Any] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        names.append("mps")
    return ", ".join(["cpu", *names])
