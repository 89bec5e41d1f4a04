"""benchmarks/run.py in its smallest form: what it prints, and that both sides of a row do the same. No timing is
asserted."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

RUN = Path(__file__).parents[1] / "benchmarks" / "run.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(RUN), *arguments], capture_output=True, text=True)


@pytest.fixture(scope="module")
def found() -> Any:
    done = run("store", "nearest", "memory", "captions", "--profile", "smoke", "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_rows_asked_for_are_measured(found: Any) -> None:
    names = [row["name"] for row in found["rows"]]
    assert names == ["store", "nearest", "memory", "captions-greedy", "captions-generate", "captions-beams"]


def test_a_row_says_what_it_compares(found: Any) -> None:
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["rate"] / row["other"])
        assert row["goal"] is None or row["ok"] == (row["ratio"] >= row["goal"])
        assert row["unit"]
        assert row["rate_of"]
        assert row["other_of"]
    assert {"machine", "versions", "command", "threads", "profile", "load"} < set(found)
    assert "--profile smoke" in found["command"]


def test_both_sides_do_the_same(found: Any) -> None:
    more = {row["name"]: row["more"] for row in found["rows"]}
    assert more["memory"]["largest difference"] < 1e-4
    for name in ("captions-greedy", "captions-generate", "captions-beams"):
        assert more[name]["captions that differ"].startswith("0 of ")


def test_a_table_for_people() -> None:
    done = run("store", "--profile", "smoke")
    assert done.returncode == 0
    assert "| store |" in done.stdout


def test_the_rows_are_listed() -> None:
    names = run("--list").stdout.split()
    assert {"embedding-images", "bridging-unet", "second-run", "startup"} < set(names)
    assert len(set(names)) == len(names)


def test_an_unknown_row_is_told_with_those_that_there_are() -> None:
    done = run("stoer", "--json")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "'stoer'" in done.stderr
    assert "bridging-unet" in done.stderr
