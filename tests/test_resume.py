"""Killed at any moment, a run goes on where it was and ends with the same bytes."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from .conftest import TOY


def command(world: Path, cache: Path, out: Path) -> list[str]:
    return [
        sys.executable, "-m", "modbridge", "run", str(world), "--plugin", str(TOY), "--cache", str(cache),
        "--out", str(out), "--checkpoint-seconds", "0", "--set", "decoder.pause=0.03",
        "--set", "bridge={type: c3, frame: text}",
    ]  # fmt: skip


def contents(run: Path) -> dict[str, str]:
    """The hash of every weight and every prediction of a run."""
    files = [*run.rglob("*.safetensors"), run / "predictions.jsonl", *run.rglob("modbridge.json")]
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def wait_for(process: subprocess.Popen[bytes], there: Callable[[], bool]) -> None:
    """Wait until something is there, or the process has ended."""
    deadline = time.monotonic() + 60
    while process.poll() is None and not there() and time.monotonic() < deadline:
        time.sleep(0.005)


def test_a_killed_run_ends_with_the_same_bytes(world: Path, tmp_path: Path) -> None:
    subprocess.run(command(world, tmp_path / "calm", tmp_path / "undisturbed"), check=True, capture_output=True)
    cache = tmp_path / "cache"
    chance = random.Random(0)
    kills = resumed = 0
    # Killed as soon as a stage is under way, then three times in the middle of the decoder's training.
    moments = ["work/*", *["work/fit_decoder-*/checkpoint-*"] * 3, None]
    for moment in moments:
        begun = time.time()
        process = subprocess.Popen(
            command(world, cache, tmp_path / "killed"), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
        )
        if moment is not None:
            wait_for(process, lambda: any(path.stat().st_mtime > begun for path in cache.glob(moment)))  # noqa: B023
            time.sleep(chance.uniform(0, 0.2))
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        _, err = process.communicate()
        resumed += b"going on from step" in err
    assert process.returncode == 0, err
    assert kills >= 3
    assert resumed >= 2
    assert contents(tmp_path / "killed") == contents(tmp_path / "undisturbed")
    assert not list((cache / "work").iterdir())


def test_an_interrupted_run_says_that_it_goes_on(world: Path, tmp_path: Path) -> None:
    slow = [*command(world, tmp_path / "cache", tmp_path / "run"), "--set", "decoder.pause=0.2"]
    # A shell that starts tests in the background ignores Ctrl-C, and its children would inherit that.
    listening = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler)}
    process = subprocess.Popen(slow, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, **listening)
    work = tmp_path / "cache" / "work"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(work.glob("fit_decoder-*/checkpoint-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "goes on where it was" in err
    assert "Traceback" not in err
