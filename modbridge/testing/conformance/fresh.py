"""What a plugin loads and prints, seen in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

SECONDS = 120.0


@dataclass(frozen=True)
class Seen:
    """`printed`: what stood on stdout. `error`: why the process came to no end, or None. `steps`: for each step the
    `heavy` modules that it loaded first, and the `error` that it raised, or None. Steps are "import" of the plugin and
    its hooks, then for each component "KIND:NAME config" and, for those with an example, "KIND:NAME ports"."""

    printed: str
    error: str | None
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def looked_at(plugin: str, file: str | None, examples: Mapping[str, Mapping[str, Any]], folder: Path) -> Seen:
    """What a fresh process sees of a plugin, given the example blocks of its components by "KIND:NAME"."""
    out, given = folder / "seen.json", folder / "asked.json"
    absolute = None if file is None else str(Path(file).resolve())
    given.write_text(json.dumps({"plugin": plugin, "file": absolute, "examples": examples}), encoding="utf-8")
    program = Path(__file__).with_name("fresh_process.py")
    # -P: the program's own folder must not hide modules of the same names. The path is this process's, so that a plugin
    # that is found here is found there.
    command = [sys.executable, "-P", str(program), str(out), str(given)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS, check=False, env=environment, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return Seen("", f"it came to no end within {SECONDS:.0f} s")
    if not out.is_file():
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return Seen(done.stdout, f"the process ended with {done.returncode}: {last}")
    return Seen(done.stdout, None, json.loads(out.read_text(encoding="utf-8")))
