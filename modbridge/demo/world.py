"""What the made-up worlds share: items and captions drawn from a seed, and their fingerprint."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar, Generic, TypeVar

import numpy as np
from numpy.random import Generator

from modbridge.demo.config import WorldConfig
from modbridge.interfaces.source import Source

ConfigT = TypeVar("ConfigT", bound=WorldConfig)
ItemT = TypeVar("ItemT")
STREAMS = {"train": 0, "validation": 1, "test": 2}


class MadeUp(Source[ConfigT], Generic[ConfigT, ItemT]):
    """A source of made-up items with keys "test-00017". `revision` goes up when the same seed gives other items."""

    revision: ClassVar[int] = 1

    @abstractmethod
    def draw(self, random: Generator) -> ItemT:
        """One item."""
        ...

    @abstractmethod
    def caption(self, item: ItemT, random: Generator) -> str:
        """One caption of it."""
        ...

    @cached_property
    def _world(self) -> tuple[Sequence[ItemT], list[tuple[str, ...]]]:
        random = self.stream()
        items = [self.draw(random) for _ in range(self.config.count)]
        return items, [tuple(self.caption(item, random) for _ in range(self.config.captions)) for item in items]

    @property
    def items(self) -> Sequence[ItemT]:
        return self._world[0]

    def stream(self, *more: int) -> Generator:
        """The random numbers of the split, or of a part of it that `more` numbers name."""
        return np.random.default_rng([self.config.seed, STREAMS[self.config.split], *more])

    def keys(self) -> list[str]:
        return [f"{self.config.split}-{i:05d}" for i in range(self.config.count)]

    def texts(self, row: int) -> tuple[str, ...]:
        return self._world[1][row]

    def fingerprint(self) -> str:
        items, texts = self._world
        content = json.dumps([self.revision, [repr(item) for item in items], texts])
        return hashlib.sha256(content.encode()).hexdigest()[:20]
