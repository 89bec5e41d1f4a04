"""Captions a second of a finished run: its items decoded in batches, and one by one.

    uv run modbridge demo                                  # or any run with a decoder
    uv run python benchmarks/captions.py runs/demo
    uv run python benchmarks/captions.py runs/combined --cell diffusion_bridge/raw --items 400 --json FILE

The items are encoded once and carried across once; only `decode` is timed: finding entities, where the decoder does,
and writing. Both ways take turns in one process, several times, and the fastest of each counts. Their captions must be
the same (beyond rounding, which the number of different ones tells). Torch's threads as they are set (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import modbridge
from modbridge.interfaces import Decoded
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings

ROUNDS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--cell")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = measure(options.run, options.cell, options.items)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(run: Path, cell: str | None, items: int) -> dict[str, Any]:
    """Seconds of both ways of decoding the first `items` test items of a run."""
    pipeline = modbridge.load(str(run), cell=cell)
    config = pipeline.config.data.test or pipeline.config.data.train
    test = Plugins.discover().registry.get("source", config.type).load_impl()(config)
    count = min(items, len(test))
    source = pipeline.encode([test.media(row) for row in range(count)])
    source = replace(source, keys=tuple(test.keys()[:count]))
    bridged = pipeline.bridge.cross(source, pipeline.config.seed)

    def decoded(rows: range) -> list[Decoded]:
        of: Embeddings = source.select(rows)
        return pipeline.decoder.decode(bridged.select(rows), source=of, seed=pipeline.config.seed)

    seconds: dict[str, list[float]] = {"batched": [], "one by one": []}
    texts: dict[str, list[str]] = {}
    decoded(range(min(2, count)))  # what is set up once is not counted
    for _ in range(ROUNDS):
        for way, steps in (("batched", [range(count)]), ("one by one", [range(i, i + 1) for i in range(count)])):
            begun = time.perf_counter()
            found = [one for rows in steps for one in decoded(rows)]
            seconds[way].append(time.perf_counter() - begun)
            texts[way] = [one.text for one in found]
    best = {way: min(times) for way, times in seconds.items()}
    return {
        "decoder": pipeline.decoder.config.type,
        "items": count,
        "batch": pipeline.decoder.batch_size,
        "captions_a_second": {way: count / time for way, time in best.items()},
        "ratio": best["one by one"] / best["batched"],
        "different": sum(a != b for a, b in zip(texts["batched"], texts["one by one"], strict=True)),
        "device": str(pipeline.decoder.device),
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['items']} items by {found['decoder']!r}, batches of {found['batch']}; {found['device']}, "
        f"{found['threads']} threads; {found['machine']}\n"
    )
    for way, rate in found["captions_a_second"].items():
        print(f"{way:12s} {rate:9.1f} captions/s")
    print(f"\nbatched is {found['ratio']:.1f} times as fast; {found['different']} captions differ")


if __name__ == "__main__":
    raise SystemExit(main())
