"""Fitting bridges on more vectors than the memory holds: under a limit, and without one.

    uv run python benchmarks/larger_than_memory.py               # 2 x 0.6 GB under 1 GB, as root on Linux; minutes
    uv run python benchmarks/larger_than_memory.py --count 50000 --limit 600

Two sides of `--count` x 1024 float32 are drawn from a seed and lie in a file in a temporary folder (TMPDIR), which is
removed at the end. `modbridge run --until fit_bridge` embeds them (precomputed: it looks them up) and fits `mean_shift`
and `diffusion_bridge` with a residual-MLP prior of 60 steps, each in a process of its own with a cache of its own:
- "limited": in a control group of `--limit` MB, where what is too much for the memory is mapped from the store;
- "free": without a limit.
The bridges must be the same, tensor by tensor. The kernel kills a process that holds more than its group's limit, so
the limited run's end is the proof; its peak, page cache included, is shown beside. Needs the right to make control
groups (cgroup v1 or v2); elsewhere run it by `systemd-run --scope -p MemoryMax=1G`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

DIM, BLOCK = 1024, 65536
GROUPS = Path("/sys/fs/cgroup")
NAME = f"modbridge-{os.getpid()}"
BRIDGES = {
    "mean_shift": {"type": "mean_shift"},
    "diffusion_bridge": {
        "type": "diffusion_bridge",
        "prior": {"type": "ddpm", "denoiser": {"type": "residual_mlp", "width": 256}, "steps": 60},
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=150_000, help="vectors on each side")
    parser.add_argument("--limit", type=int, default=1000, metavar="MB")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="modbridge-") as name:
        folder = Path(name)
        draw(folder / "vectors.safetensors", arguments.count)
        config = write_config(folder)
        found: dict[str, Any] = {
            "vectors": f"2 x {arguments.count} x {DIM} float32",
            "data_mb": round(2 * arguments.count * DIM * 4 / 1e6),
            "limit_mb": arguments.limit,
            "runs": {way: fit(folder, config, way, arguments.limit) for way in ("limited", "free")},
        }
        found["same"] = compared(folder)
    print(f"{found['vectors']}: {found['data_mb']} MB of vectors; limit {found['limit_mb']} MB")
    for way, run in found["runs"].items():
        peak = "" if run["peak_mb"] is None else f", peak {run['peak_mb']:.0f} MB with page cache"
        print(f"{way:8s} {run['seconds']:6.1f} s{peak}")
    print("largest difference of a fitted tensor:", found["same"])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def draw(path: Path, count: int) -> None:
    """Vectors of both sides around means of their own, one file; a map keeps this process small."""
    blocks: dict[str, torch.Tensor] = {}
    for number, side in enumerate(("image", "text")):
        generator = torch.Generator().manual_seed(number)
        mean = torch.randn(DIM, generator=generator)
        values = torch.empty(count, DIM)
        for start in range(0, count, BLOCK):
            part = values[start : start + BLOCK]
            torch.randn(part.shape, generator=generator, out=part)
            part += mean
        blocks[side] = values
    save_file({**blocks, "ids": torch.arange(count)}, path)


def write_config(folder: Path) -> Path:
    """A config as JSON, which is YAML."""
    vectors = {side: {"array": side, "keys": "ids"} for side in ("image", "text")}
    file = str(folder / "vectors.safetensors")
    tree = {
        "name": "larger-than-memory",
        "data": {"train": {"type": "precomputed", "file": file, "vectors": vectors}},
        "encoder": {"type": "precomputed", "file": file, "space": "drawn/normal", "vectors": vectors},
        "bridge": "mean_shift",
        "variants": {name: {"bridge": block} for name, block in BRIDGES.items()},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(tree), encoding="utf-8")
    return path


def fit(folder: Path, config: Path, way: str, limit: int) -> dict[str, Any]:
    """Seconds of one run, and its peak in MB where it is limited."""
    group = new_group(limit) if way == "limited" else None
    begun = time.perf_counter()
    try:
        subprocess.run(
            [sys.executable, "-m", "modbridge", "run", config, "--until", "fit_bridge", "--device", "cpu"],
            env={**os.environ, "MODBRIDGE_CACHE": str(folder / way)},
            check=True,
            preexec_fn=None if group is None else lambda: join(group),
        )
        return {"seconds": time.perf_counter() - begun, "peak_mb": peak(group)}
    finally:
        if group is not None:
            group.rmdir()


def new_group(limit: int) -> Path:
    """A control group with a limit in MB, of whichever version there is."""
    old = GROUPS / "memory"
    group = (old if old.is_dir() else GROUPS) / NAME
    try:
        group.mkdir()
        limits = group / ("memory.limit_in_bytes" if old.is_dir() else "memory.max")
        limits.write_text(str(limit * 1_000_000), encoding="ascii")
    except OSError as error:
        sys.exit(f"no control group can be made here ({error}); see this script's first lines")
    return group


def join(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")


def peak(group: Path | None) -> float | None:
    if group is None:
        return None
    for name in ("memory.max_usage_in_bytes", "memory.peak"):
        if (group / name).is_file():
            return int((group / name).read_text(encoding="ascii")) / 1e6
    return None


def compared(folder: Path) -> float:
    """The largest difference between what the two runs fitted."""
    one, other = (sorted((folder / way).glob("fit_*/*/**/model.safetensors")) for way in ("limited", "free"))
    if not one or [p.relative_to(folder / "limited") for p in one] != [p.relative_to(folder / "free") for p in other]:
        sys.exit("the two runs fitted different things")
    pairs = [(load_file(a), load_file(b)) for a, b in zip(one, other, strict=True)]
    return max(float((a[name].double() - b[name].double()).abs().max()) for a, b in pairs for name in a)


if __name__ == "__main__":
    raise SystemExit(main())
