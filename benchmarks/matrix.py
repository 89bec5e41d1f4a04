"""What sharing stages saves: one matrix as `modbridge compare` makes it, and every cell of it alone.

    uv run python benchmarks/matrix.py                                # a part of the demo's zoo, small: minutes
    uv run python benchmarks/matrix.py CONFIG --rows 'ridge/*' --profile none --jobs 2

Three times of the same cells, in one run: with one cache for all (`compare`), with one cache and `--jobs` processes,
and each row with a fresh cache of its own, as scripts do it that know nothing of each other. The tables of all three
must agree. Interpreter start-up is not in the times of the first and the third.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from modbridge.cli import main

HERE = Path(__file__).resolve().parent
CONFIG = HERE.parent / "configs" / "zoo" / "demo.yaml"
ROWS = ["identity/*", "mean_shift/*", "coral/*"]


def compare(arguments: list[str], cache: Path, out: Path, rows: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """Seconds and rows of one call of `modbridge compare`. Raises SystemExit where it fails."""
    patterns = [word for row in rows for word in ("--rows", row)]
    given = [
        "compare",
        *arguments,
        *patterns,
        "--no-cost",
        "--json",
        "--quiet",
        "--cache",
        str(cache),
        "--out",
        str(out),
    ]
    text = io.StringIO()
    begun = time.perf_counter()
    with contextlib.redirect_stdout(text):
        code = main(given)
    seconds = time.perf_counter() - begun
    if code:
        raise SystemExit(f"modbridge {' '.join(given)} ended with {code}")
    return seconds, json.loads(text.getvalue())["rows"]


def scores(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["row"]: round(row["cider"], 9) for row in rows}


def command() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", nargs="?", default=str(CONFIG))
    parser.add_argument("--rows", action="append", help=f"rows of the matrix [default: {' '.join(ROWS)}]")
    parser.add_argument("--seeds", default="0,")
    parser.add_argument("--profile", default="smoke", help="a profile of the config, or none")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--json", metavar="FILE", help="also write every number there")
    told = parser.parse_args()
    about = [told.config, "--seeds", told.seeds, *(["--profile", told.profile] if told.profile != "none" else [])]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shared, rows = compare(about, folder / "shared", folder / "out", told.rows or ROWS)
        again, _ = compare(about, folder / "shared", folder / "out", told.rows or ROWS)
        spread, several = compare(
            [*about, "--jobs", str(told.jobs)], folder / "jobs", folder / "out", told.rows or ROWS
        )
        alone: dict[str, float] = {}
        found: dict[str, float] = {}
        for number, row in enumerate(scores(rows)):
            plain = [*about, "--baseline", row, "--set", f"name=alone{number}"]
            alone[row], one = compare(plain, folder / f"alone{number}", folder / f"out{number}", [row])
            found |= scores(one)
    if not scores(rows) == scores(several) == found:
        raise SystemExit(f"the three ways disagree: {scores(rows)}, {scores(several)}, {found}")
    apart = sum(alone.values())
    print(f"{len(alone)} rows, seeds {told.seeds}, profile {told.profile}; all three ways gave the same CIDEr")
    print("| way | seconds | against one cache |\n|---|---|---|")
    for way, seconds in {
        "every row with a cache of its own": apart,
        "one cache": shared,
        f"one cache, {told.jobs} processes": spread,
        "one cache, again": again,
    }.items():
        print(f"| {way} | {seconds:.1f} | {seconds / shared:.2f} |")
    if told.json:
        content = {"alone": alone, "apart": apart, "shared": shared, "jobs": spread, "again": again, "cider": found}
        Path(told.json).write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    command()
