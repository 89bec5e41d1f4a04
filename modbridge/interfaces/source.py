"""Source: items with keys, references and a content fingerprint."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from modbridge.config.kinds import SourceConfig
from modbridge.errors import DataError
from modbridge.interfaces.key_list import KeyList

SourceConfigT = TypeVar("SourceConfigT", bound=SourceConfig)


class Source(ABC, Generic[SourceConfigT]):
    """A list of items. Row i has a key, a medium (an image's path, an array ...), any number of texts, and facts.

    Everything is asked for by row, so a source of a million files costs a list of names; one of tens of millions keeps
    them in a `KeyList`. Nothing is read before `media(i)` is called, which may happen in a worker process.
    """

    skipped: Sequence[str] = ()
    """What was left out because it is missing or broken (`missing: skip`): items, or whole shards; every table says how
    many."""

    def __init__(self, config: SourceConfigT) -> None:
        self.config = config

    @property
    def modality(self) -> str:
        return self.config.modality

    @abstractmethod
    def keys(self) -> Sequence[str]:
        """The items' ids, in order, all different: a list, or a `KeyList`."""
        ...

    @abstractmethod
    def media(self, row: int) -> Any:
        """The item itself, as the encoder's `prepare` takes it."""
        ...

    @abstractmethod
    def texts(self, row: int) -> tuple[str, ...]:
        """The item's captions; empty if it has none."""
        ...

    def embedded_texts(self, row: int) -> int:
        """How many of the item's texts, from the first on, are embedded; the rest serve as references only.

        All of them by default. Fewer where the vectors were made elsewhere and not of every text.
        """
        return len(self.texts(row))

    def facts(self, row: int) -> Mapping[str, Any]:
        """What else is known of the item, for metrics (for instance which objects are really there)."""
        return {}

    def blocks(self) -> Sequence[int]:
        """The first row of each run of rows that lie together on disk (in a shard, in a row group), rising from 0.

        Training shuffles such blocks, and rows among those of a few of them (`modbridge.training.epoch_order`). One
        block by default: no row is farther from another than any other.
        """
        return (0,)

    @abstractmethod
    def fingerprint(self) -> str:
        """A hash that changes when the content does."""
        ...

    def __len__(self) -> int:
        return len(self.keys())

    def shard(self, index: int, count: int) -> Source[Any]:
        """Every `count`-th item, from `index` on."""
        return Shard(self, index, count)


class Shard(Source[Any]):
    """One of `count` disjoint parts of another source."""

    def __init__(self, whole: Source[Any], index: int, count: int) -> None:
        super().__init__(whole.config)
        if not 0 <= index < count:
            raise DataError(f"shard {index} of {count}: expected an index from 0 to {count - 1}.")
        self.whole, self.index, self.count = whole, index, count

    def keys(self) -> Sequence[str]:
        return self.whole.keys()[self.index :: self.count]

    def media(self, row: int) -> Any:
        return self.whole.media(self.index + row * self.count)

    def texts(self, row: int) -> tuple[str, ...]:
        return self.whole.texts(self.index + row * self.count)

    def embedded_texts(self, row: int) -> int:
        return self.whole.embedded_texts(self.index + row * self.count)

    def facts(self, row: int) -> Mapping[str, Any]:
        return self.whole.facts(self.index + row * self.count)

    def blocks(self) -> Sequence[int]:
        # The first of its rows that is not before the block; of blocks that hold none of its rows nothing is left.
        firsts = (max(0, -((self.index - start) // self.count)) for start in self.whole.blocks())
        return [row for row in dict.fromkeys(firsts) if row < len(self)] or [0]

    def fingerprint(self) -> str:
        return f"{self.whole.fingerprint()}[{self.index}::{self.count}]"


def text_key(item_key: str, number: int) -> str:
    """The id of an item's caption: "000123#0"."""
    return f"{item_key}#{number}"


def check_keys(keys: Sequence[str], where: str) -> Sequence[str]:
    """The keys, or a DataError if there are none or two are the same."""
    if not keys:
        raise DataError(f"{where} is empty: found no items, expected at least one.")
    double = keys.double() if isinstance(keys, KeyList) else _double(keys)
    if double is not None:
        raise DataError(f"{where}: two items have the key {double!r}; every item needs a key of its own.")
    return keys


def _double(keys: Sequence[str]) -> str | None:
    """The first key that stands there before."""
    if len(set(keys)) == len(keys):
        return None
    seen: set[str] = set()
    return next(key for key in keys if key in seen or seen.add(key))  # type: ignore[func-returns-value]
