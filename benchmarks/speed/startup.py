"""Starting up: `modbridge check CONFIG` against a bare interpreter, each in a process of its own.

Bytecode is written in the warm-up, as it is in any installation.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from speed.measure import Row, fastest

NAMES = ("startup", "startup-matrix")
ALLOWED = 0.5
CONFIGS = Path(__file__).parents[2] / "configs"


def rows(full: bool) -> Iterator[Row]:
    """The ratio is half a second by what the check takes beyond `python -c pass`."""
    rounds = 7 if full else 1
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        environ = {**os.environ, "PYTHONPYCACHEPREFIX": name}
        environ.pop("PYTHONDONTWRITEBYTECODE", None)

        def run(*arguments: str) -> None:
            subprocess.run([sys.executable, *arguments], env=environ, stdout=subprocess.DEVNULL, check=True)

        configs = {"startup": CONFIGS / "coco500.yaml", "startup-matrix": CONFIGS / "combined" / "coco.yaml"}
        ways = {label: partial(run, "-m", "modbridge", "check", str(file)) for label, file in configs.items()}
        seconds = fastest({"bare": partial(run, "-c", "pass"), **ways}, rounds)
    for label, file in configs.items():
        beyond = seconds[label] - seconds["bare"]
        what = f"modbridge check {file.relative_to(CONFIGS.parent)}"
        yield Row(
            name=label, unit="starts", rate=1 / beyond, rate_of=f"{what}, beyond a bare interpreter", other=1 / ALLOWED,
            other_of=f"{ALLOWED} s", goal=1.0, rounds=rounds,
            more={"check s": round(seconds[label], 3), "python -c pass s": round(seconds["bare"], 3)},
        )  # fmt: skip
