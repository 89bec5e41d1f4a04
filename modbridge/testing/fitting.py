"""The surroundings of a fit, in memory: no store, no console."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from modbridge.distributed import World
from modbridge.interfaces.bridge import FitData
from modbridge.interfaces.fitting import Progress, TextVectors, WeightsJudge
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_weights
from modbridge.store.keys import stable_hash, vectors_hash
from modbridge.testing.toy import toy_texts


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class Interrupted(Exception):
    """Raised by a MemoryFitting that was told to stop, as if the process had been killed."""


class MemoryFitting:
    """A Fitting for tests. `stop_after`: raise Interrupted at that checkpoint, so that resuming can be tested.
    `embed`: stands for the run's encoder of texts."""

    def __init__(
        self,
        seed: int = 0,
        *,
        stop_after: int | None = None,
        judge: WeightsJudge | None = None,
        embed: Callable[[Sequence[str]], Embeddings] = toy_texts,
    ) -> None:
        self.seed = seed
        self.judge = judge
        self.world = World()
        self.stop_after = stop_after
        self.embed = embed
        self.saved: dict[str, dict[str, Any]] = {}
        self.logged: list[dict[str, Any]] = []
        self.checkpoints = 0

    @contextmanager
    def progress(self, label: str, total: int, done: int = 0) -> Iterator[Progress]:
        yield _Silent()

    def restore(self, name: str) -> dict[str, Any] | None:
        return copy.deepcopy(self.saved.get(name))

    def checkpoint(self, name: str, state: Callable[[], dict[str, Any]], *, force: bool = False) -> None:
        self.checkpoints += 1
        self.saved[name] = copy.deepcopy(state())
        if self.stop_after is not None and self.checkpoints >= self.stop_after:
            self.stop_after = None
            raise Interrupted(name)

    def log(self, **values: float | int | str) -> None:
        self.logged.append(values)

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return self.embed(texts)

    def fit_part(self, part: Any, clean: Embeddings, observed: Embeddings | None = None) -> None:
        part.fit(clean, self, observed=observed)

    def fit_bridge(self, bridge: Any, data: FitData) -> None:
        if bridge.config.weights is not None:
            load_weights(bridge, bridge.config.weights)
            return
        given = [None if side is None else vectors_hash(side) for side in (data.text, data.source)]
        bridge.fit(data, _Inside(self, stable_hash([bridge.config.key_fields(), given])))

    def fit_decoder(self, decoder: Any, vectors: TextVectors, targets: Sequence[str]) -> None:
        if decoder.config.weights is not None:
            load_weights(decoder, decoder.config.weights)
            return
        hints = vectors.hints and vectors.hints.key
        given = [decoder.config.key_fields(), vectors_hash(vectors.embeddings), hints, list(targets)]
        decoder.fit(vectors, targets, _Inside(self, stable_hash(given), self.judge))


class _Inside(MemoryFitting):
    """The surroundings of a nested fit: its checkpoints lie among those of the outer one, under names of its own."""

    def __init__(self, outer: MemoryFitting, name: str, judge: WeightsJudge | None = None) -> None:
        super().__init__(outer.seed, judge=judge, embed=outer.embed)
        self.outer, self.name, self.logged = outer, name, outer.logged

    def restore(self, name: str) -> dict[str, Any] | None:
        return self.outer.restore(f"{self.name}/{name}")

    def checkpoint(self, name: str, state: Callable[[], dict[str, Any]], *, force: bool = False) -> None:
        self.outer.checkpoint(f"{self.name}/{name}", state, force=force)
