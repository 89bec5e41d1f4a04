"""Memory projection over a large memory: what it takes in RAM and time, chunk by chunk and all at once.

    uv run python benchmarks/memory.py                # 1,000,000 x 512, 256 queries: 2 GB of disk, 8 GB of RAM
    uv run python benchmarks/memory.py --count 20000  # small
    uv run python benchmarks/memory.py --json FILE    # also write every number there

The memory is drawn from a seed, float16, and lies in a file in a temporary folder that is removed at the end. Three
ways, each in a fresh process:
- "from the file": the bridge `memory` from its artefact, where the memory is too large to be held (`held_mib: 0`);
- "held": the same, kept in RAM as float32 (`held_mib` large enough);
- "all at once": softmax(Q M' / .01) M in three lines of torch, the whole memory and all scores in RAM.
The peak is that of the process less what it had after its imports (on Linux from /proc, elsewhere ru_maxrss). Times are
of one crossing of all queries, the file being in the page cache or not as the machine has it; the first crossing of
"held" reads the file, the second doesn't.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from modbridge.builtin.bridges.memory_file import Rows, write_rows
from modbridge.interfaces import FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, toy_port

Row = dict[str, Any]
DIM = 512
TEMPERATURE = 0.01
ALL_AT_ONCE = "all at once"
HELD_MIB = {"from the file": 0, "held": 2**20}
WAYS = (*HELD_MIB, ALL_AT_ONCE)
AGREE = 1e-5


class Drawn(Rows):
    """`count` vectors from a normal law of mean 0.5 and deviation 1, drawn as they are asked for."""

    dtype = torch.float16

    def __init__(self, count: int) -> None:
        self.count, self.dim = count, DIM

    def blocks(self, size: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        for start in range(0, self.count, size):
            rows = min(size, self.count - start)
            yield (torch.randn(rows, self.dim, generator=generator) + 0.5).to(self.dtype)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="texts in the memory")
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    parser.add_argument("--one", nargs=2, metavar=("WAY", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.one:
        print(json.dumps(one(arguments.one[0], Path(arguments.one[1]), arguments.queries)))
        return 0

    with tempfile.TemporaryDirectory(prefix="modbridge-memory-") as name:
        folder = Path(name)
        write_rows(Drawn(arguments.count), folder / "memory.safetensors", size=8192)
        rows = [in_a_fresh_process(way, folder, arguments) for way in WAYS]
        answers = {way: np.load(folder / f"{way}.npy") for way in WAYS}
    for row in rows:
        row["largest difference"] = float(np.abs(answers[row["way"]] - answers[ALL_AT_ONCE]).max())
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}",
        "memory": f"{arguments.count} x {DIM}, float16, {arguments.count * DIM * 2 / 2**20:.0f} MiB",
        "queries": arguments.queries,
        "rows": rows,
    }
    show(found)
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["largest difference"] <= AGREE for row in rows) else 1


def in_a_fresh_process(way: str, folder: Path, arguments: argparse.Namespace) -> Row:
    command = [sys.executable, __file__, "--queries", str(arguments.queries), "--one", way, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    row: Row = json.loads(done.stdout)
    return row


def one(way: str, folder: Path, queries: int) -> Row:
    """One way of projecting, measured in this process."""
    keys = tuple(map(str, range(queries)))
    query = Embeddings(Draw.of(keys, 1).normal(DIM) + 0.1, toy_port(DIM, "image"), keys)
    path = folder / "memory.safetensors"
    before = peak()
    if way == ALL_AT_ONCE:
        times, answer = timed(lambda: all_at_once(query.values, path), 1)
        row = {}
    else:
        text = Embeddings(Draw.of(keys, 2).normal(DIM), toy_port(DIM), keys)
        block = {"type": "memory", "file": str(path), "array": "memory", "held_mib": HELD_MIB[way]}
        ports = {"text": text.port, "source": query.port}
        fitted: Any = build("bridge", block, ports=ports)
        loaded: Any = build("bridge", block, ports=ports)
        fit, _ = timed(lambda: fitted.fit(FitData(text), MemoryFitting()), 1)
        save, _ = timed(lambda: save_component(fitted, folder / "artefact", {"type": "memory"}), 1)
        load, _ = timed(lambda: load_component(loaded, folder / "artefact"), 1)
        times, answer = timed(lambda: loaded.cross(query).values, 2)
        row = {"fit": fit[0], "save": save[0], "load": load[0]}
    np.save(folder / f"{way}.npy", answer.numpy())
    return {"way": way, "peak_mib": (peak() - before) / 2**20, "seconds": times, **row}


def all_at_once(query: torch.Tensor, path: Path) -> torch.Tensor:
    memory = torch.nn.functional.normalize(load_file(path)["memory"].float(), dim=1)
    weights = torch.softmax(torch.nn.functional.normalize(query, dim=1) @ memory.T / TEMPERATURE, dim=1)
    return torch.nn.functional.normalize(weights @ memory, dim=1)


def timed(call: Callable[[], Any], times: int) -> tuple[list[float], Any]:
    seconds, result = [], None
    for _ in range(times):
        begun = time.perf_counter()
        result = call()
        seconds.append(time.perf_counter() - begun)
    return seconds, result


def peak() -> int:
    """The most memory this process ever had, in bytes."""
    status = Path("/proc/self/status")
    if status.is_file():  # ru_maxrss begins with that of the process this one was forked from
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def show(found: dict[str, Any]) -> None:
    print(f"{found['memory']}; {found['queries']} queries; {found['machine']}\n")
    titles = " ".join(title.rjust(7) for title in ("1st s", "2nd s", "fit s", "save s", "load s"))
    print(f"{'way':14s} {'peak MiB':>9s} {titles}  difference")
    for row in found["rows"]:
        seconds = [*row["seconds"], None][:2] + [row.get(name) for name in ("fit", "save", "load")]
        cells = [("-" if value is None else f"{value:.2f}").rjust(7) for value in seconds]
        print(f"{row['way']:14s} {row['peak_mib']:9.0f} {' '.join(cells)}  {row['largest difference']:.1e}")


if __name__ == "__main__":
    raise SystemExit(main())
