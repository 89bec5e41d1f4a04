"""How fast modbridge is, each row against another way of the same work, both measured in this one run.

    uv run python benchmarks/run.py                       # every row, about seven minutes on two idle cores
    uv run python benchmarks/run.py bridging store --json # the rows of these names, or that begin so
    uv run python benchmarks/run.py --list
    uv run python benchmarks/run.py --profile smoke       # toy sizes, to see that it works

Both sides take turns several times after a warm-up, and the fastest round of each counts. Torch runs on --threads
threads on both sides; worker processes, where a row says so, take another core. benchmarks/README.md says what stands
on each side, and holds the last table. The exit code is 0 whenever all was measured: whether goals are met, the table
says.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from speed.measure import Row

MODULES = ("startup", "store", "search", "bridging", "captions", "embedding", "reading", "cached")
VERSIONS = ("modbridge", "torch", "transformers", "open-clip-torch", "safetensors", "numpy")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="rows to measure, by name or its beginning; none: all")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout instead of a table")
    parser.add_argument("--list", action="store_true", help="the rows there are")
    parser.add_argument("--profile", choices=("full", "smoke"), default="full")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="torch's threads, on both sides [default: 1]"
    )
    options = parser.parse_args(argv)
    # Set before torch is imported, and inherited by processes that rows start.
    os.environ |= {"OMP_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "false"}
    known = {name: module for module in MODULES for name in rows_of(module)}
    if options.list:
        print("\n".join(known))
        return 0
    unknown = [name for name in options.names if not matching(name, known)]
    if unknown:
        print(f"error: no row named {', '.join(map(repr, unknown))}; there are: {', '.join(known)}", file=sys.stderr)
        return 1
    wanted = [row for name in options.names for row in matching(name, known)] or list(known)
    modules = [module for module in MODULES if any(known[name] == module for name in wanted)]
    rows = list(measured(modules, set(wanted), options))
    found = {
        "machine": machine(),
        "load": load(),
        "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
        "command": " ".join(["python benchmarks/run.py", *(sys.argv[1:] if argv is None else argv)]),
        "threads": options.threads,
        "profile": options.profile,
        "rows": [row.to_json() for row in rows],
    }
    if options.json:
        json.dump(found, sys.stdout, indent=1)
        print()
    else:
        print("\n".join(page(found)))
    return 0


def rows_of(module: str) -> tuple[str, ...]:
    names: tuple[str, ...] = importlib.import_module(f"speed.{module}").NAMES
    return names


def matching(name: str, known: dict[str, str]) -> list[str]:
    return [row for row in known if row.startswith(name)]


def measured(modules: Sequence[str], wanted: set[str], options: argparse.Namespace) -> Iterator[Row]:
    """The wanted rows. A module measures all of its own, which share what it sets up."""
    import torch

    torch.set_num_threads(options.threads)
    for module in modules:
        begun = time.monotonic()
        for row in importlib.import_module(f"speed.{module}").rows(options.profile == "full"):
            if row.name in wanted:
                yield row
        print(f"{module}: {time.monotonic() - begun:.0f} s", file=sys.stderr)


def machine() -> str:
    """In words, without any host's name."""
    import torch

    about = Path("/proc/cpuinfo")
    lines = about.read_text(encoding="utf-8").splitlines() if about.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    kind = names[0] if names else platform.processor() or platform.machine()
    return f"{cores} cores of {kind}, {memory:.0f} GiB memory, {gpu}, {platform.system()}"


def load() -> str:
    """How busy the machine was, this run included."""
    return f"{os.getloadavg()[1]:.1f} over the last five minutes" if hasattr(os, "getloadavg") else "not known"


def version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def page(found: dict[str, Any]) -> list[str]:
    """A table in Markdown, and below it what explains its rows."""
    lines = [
        f"{found['machine']}; load {found['load']}; torch {found['versions']['torch']}, threads: {found['threads']}.",
        f"`{found['command']}`",
        "",
        "| row | ratio | goal | rate | of | against | of |",
        "|---|---|---|---|---|---|---|",
    ]
    notes = []
    for row in found["rows"]:
        goal = "-" if row["goal"] is None else f"{row['goal']:g} {'met' if row['ok'] else 'MISSED'}"
        rates = [f"{number(row[side])} {row['unit']}/s | {row[side + '_of']}" for side in ("rate", "other")]
        lines.append(f"| {row['name']} | {number(row['ratio'])} | {goal} | {' | '.join(rates)} |")
        told = [row["limit"], *(f"{key}: {value}" for key, value in (row["more"] or {}).items())]
        notes += [f"- {row['name']}: {'; '.join(filter(None, told))}"] if any(told) else []
    return [*lines, "", *notes]


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    raise SystemExit(main())
