"""The nearest of many vectors: gone through in chunks, or picked out by an index of FAISS and settled exactly.

    uv run python benchmarks/nearest.py                       # 500,000 x 256, 512 queries: 1 GB of RAM, minutes
    uv run python benchmarks/nearest.py --count 20000         # small
    uv run python benchmarks/nearest.py --json FILE           # also write every number there

Vectors are drawn from a seed around centres, `--each` of them a centre, so that lists mean something; queries lie
around the same centres, further off. Two things are looked up, in one process, both ways by turns in every round:
- captions: `Datastore.nearest`, the 5 nearest, exactly and with 4, 16 ... `probes`;
- `memory`: the bridge, mixing all vectors and the `nearest` 256 and 1,024, at a temperature of .01.
For each way: queries a second in the fastest round, beside the exact way's; recall, how many of the 5 nearest are
found; for `memory` the cosine with the exact mixture, on average and at least. What the index takes, and how long it
takes to build, stand above the table. The limit: the exact way multiplies each query by every vector, 2 D M operations,
the index by 4 sqrt(M) centres and about sqrt(M) / 4 vectors a probe; what it finds is read and compared once more.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import torch
from torch.nn.functional import normalize

from modbridge.approximate import Index
from modbridge.config.search import Faiss
from modbridge.datastore import Datastore
from modbridge.interfaces import FitData
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_port

NEAREST, TEMPERATURE, BLOCK = 5, 0.01, 16384
EXACT = "exact"
Row = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500_000, help="vectors that are looked among")
    parser.add_argument("--dim", type=int, default=256)
    parser.add_argument("--queries", type=int, default=512)
    parser.add_argument("--each", type=int, default=100, help="vectors around one centre")
    parser.add_argument("--probes", type=int, nargs="+", default=[4, 16, 32, 64, 256], help="lists looked through")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    asked = parser.parse_args(argv)
    vectors, queries = drawn(asked.count, asked.queries, asked.dim, asked.each)
    begun = time.perf_counter()
    index = Index.build(
        asked.count, asked.dim, lambda: (normalize(x.float(), dim=1) for x in torch.split(vectors, BLOCK))
    )
    built = time.perf_counter() - begun
    found = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}, faiss {faiss.__version__}",
        "vectors": f"{asked.count} x {asked.dim}, {asked.each} around a centre",
        "queries": asked.queries,
        "lists": index.lists,
        "index_mib": index.bytes / 2**20,
        "float32_mib": asked.count * asked.dim * 4 / 2**20,
        "build_seconds": built,
        "captions": captions(vectors, queries, index, asked.probes, asked.rounds),
        "memory": memory(vectors, queries, index, asked.probes, asked.rounds),
    }
    show(found)
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def drawn(count: int, queries: int, dim: int, each: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors (count, dim), float16, and queries (queries, dim), float32."""
    generator = torch.Generator().manual_seed(0)
    centres = normalize(torch.randn(max(1, count // each), dim, generator=generator), dim=1)

    def around(rows: int, spread: float) -> torch.Tensor:
        at = torch.randint(len(centres), (rows,), generator=generator)
        return normalize(centres[at] + spread * torch.randn(rows, dim, generator=generator) / dim**0.5, dim=1)

    vectors = torch.empty(count, dim, dtype=torch.float16)
    for start in range(0, count, BLOCK):
        vectors[start : start + BLOCK] = around(min(BLOCK, count - start), 1.0).half()
    return vectors, around(queries, 1.5)


def captions(vectors: torch.Tensor, queries: torch.Tensor, index: Index, probes: list[int], rounds: int) -> list[Row]:
    """Captions looked up, each way."""
    store = Datastore(vectors, tuple(map(str, range(len(vectors)))), ((),) * len(vectors))
    store.__dict__["_index"] = index  # the one that was timed
    ways: dict[str, Callable[[], Any]] = {EXACT: lambda: store.nearest(queries, NEAREST)}
    for few in probes:
        ways[f"faiss, {few} probes"] = partial(store.nearest, queries, NEAREST, Faiss(probes=few))
    seconds, answers = by_turns(ways, rounds)
    truth = answers[EXACT]
    hits = {
        way: sum(len({*a} & {*b}) for a, b in zip(found, truth, strict=True)) / (NEAREST * len(queries))
        for way, found in answers.items()
    }
    return rates(seconds, len(queries), {"recall": hits})


def memory(vectors: torch.Tensor, queries: torch.Tensor, index: Index, probes: list[int], rounds: int) -> list[Row]:
    """The bridge `memory`, each way."""
    dim = vectors.shape[1]
    text = Embeddings(vectors, toy_port(dim), tuple(map(str, range(len(vectors)))))
    source = Embeddings(queries, toy_port(dim, "image"), tuple(map(str, range(len(queries)))))

    def bridge(search: Any) -> Any:
        block = {"type": "memory", "temperature": TEMPERATURE, "held_mib": 2**20, "search": search}
        return build("bridge", block, ports={"text": text.port, "source": source.port})

    exact = bridge(EXACT)
    exact.fit(FitData(text), MemoryFitting())
    exact.cross(source.select(range(1)))
    bridges = {EXACT: exact}
    for few in probes:
        for nearest in (256, 1024):
            other = bridge({"type": "faiss", "probes": few, "nearest": nearest})
            other.load_tensors(exact.tensors())
            other._rows, other._held, other._index = exact._rows, exact._held, index  # one copy of them for all
            bridges[f"faiss, {few} probes, {nearest} nearest"] = other
    seconds, answers = by_turns({way: partial(other.cross, source) for way, other in bridges.items()}, rounds)
    truth = answers[EXACT].values
    cosines = {way: (found.values * truth).sum(1) for way, found in answers.items()}
    return rates(
        seconds,
        len(queries),
        {
            "mean cosine": {way: float(found.mean()) for way, found in cosines.items()},
            "least cosine": {way: float(found.min()) for way, found in cosines.items()},
        },
    )


def by_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """The fewest seconds of each way over rounds in which all take their turn, and what each answers."""
    seconds, answers = dict.fromkeys(ways, float("inf")), {}
    for _ in range(rounds):
        for way, call in ways.items():
            begun = time.perf_counter()
            answers[way] = call()
            seconds[way] = min(seconds[way], time.perf_counter() - begun)
    return seconds, answers


def rates(seconds: dict[str, float], queries: int, more: dict[str, dict[str, float]]) -> list[Row]:
    return [
        {"way": way, "rate": queries / spent, "ratio": seconds[EXACT] / spent}
        | {name: values[way] for name, values in more.items()}
        for way, spent in seconds.items()
    ]


def show(found: dict[str, Any]) -> None:
    print(f"{found['vectors']}; {found['queries']} queries; {found['machine']}")
    print(
        f"index: {found['lists']} lists, {found['index_mib']:.0f} MiB (the vectors as float32: "
        f"{found['float32_mib']:.0f} MiB), built in {found['build_seconds']:.1f} s"
    )
    for what in ("captions", "memory"):
        rows = found[what]
        more = [name for name in rows[0] if name not in ("way", "rate", "ratio")]
        print(f"\n{what:32s} {'queries/s':>10s} {'ratio':>7s} {' '.join(name.rjust(12) for name in more)}")
        for row in rows:
            cells = " ".join(f"{row[name]:12.4f}" for name in more)
            print(f"{row['way']:32s} {row['rate']:10.0f} {row['ratio']:7.1f} {cells}")


if __name__ == "__main__":
    raise SystemExit(main())
