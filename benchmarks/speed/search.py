"""Looking things up: nearest captions of a datastore, and the bridge `memory`, each against all at once in plain torch.

Both go chunk by chunk in bounded memory, where plain torch holds every score: 256 queries times every row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from memory import DIM, TEMPERATURE
from torch.nn.functional import normalize

from modbridge.datastore import Datastore
from modbridge.interfaces import FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_port
from speed.measure import Row, fastest

NAMES = ("nearest", "memory")
QUERIES, NEAREST = 256, 5


def rows(full: bool) -> Iterator[Row]:
    """Cosines in float32 on both sides; the datastore's vectors are kept as float16 and settled in float64."""
    count, rounds = (100_000, 3) if full else (2_000, 2)
    keys = tuple(map(str, range(QUERIES)))
    queries = Embeddings(Draw.of(keys, 1).normal(DIM), toy_port(DIM, "image"), keys)
    texts = tuple(f"caption {row}" for row in range(count))
    unit = normalize(Draw.of(texts, 0).normal(DIM), dim=1)
    flops = 2 * QUERIES * DIM * count / 1e9

    store = Datastore(unit.half(), texts, tuple((text,) for text in texts))
    ways: dict[str, Any] = {
        "chunked": lambda: store.nearest(queries.values, NEAREST),
        "plain": lambda: (normalize(queries.values, dim=1) @ unit.T).topk(NEAREST, dim=1),
    }
    seconds = fastest(ways, rounds)
    yield Row(
        name="nearest", unit="queries", rate=QUERIES / seconds["chunked"],
        rate_of=f"Datastore.nearest, {NEAREST} of {count:,} captions, float16", other=QUERIES / seconds["plain"],
        other_of="one matrix product and topk, float32", goal=None, rounds=rounds,
        limit=f"the product is {flops:.1f} GFLOP; a chunk also becomes float32 and is made unit length",
    )  # fmt: skip

    block = {"type": "memory", "temperature": TEMPERATURE, "size": count}
    text = Embeddings(unit, toy_port(DIM), texts)
    bridge: Any = build("bridge", block, ports={"text": text.port, "source": queries.port})
    bridge.fit(FitData(text), MemoryFitting())

    def all_at_once() -> torch.Tensor:
        weights = torch.softmax(normalize(queries.values, dim=1) @ unit.T / TEMPERATURE, dim=1)
        return normalize(weights @ unit, dim=1)

    seconds = fastest({"chunked": lambda: bridge.cross(queries), "plain": all_at_once}, rounds)
    apart = float((bridge.cross(queries).values - all_at_once()).abs().max())
    yield Row(
        name="memory", unit="vectors", rate=QUERIES / seconds["chunked"],
        rate_of=f"bridge `memory` over {count:,} texts, chunk by chunk", other=QUERIES / seconds["plain"],
        other_of="softmax(Q M' / t) M all at once", goal=None, rounds=rounds,
        limit=f"both products are {2 * flops:.1f} GFLOP", more={"largest difference": apart},
    )  # fmt: skip
