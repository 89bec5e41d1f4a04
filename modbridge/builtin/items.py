"""A source that is a list of items: what the folder, jsonl and precomputed sources share."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from modbridge.builtin.source_config import MediaSourceConfig
from modbridge.errors import DataError
from modbridge.interfaces import Source, check_keys

ConfigT = TypeVar("ConfigT", bound=MediaSourceConfig)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Item:
    """One item: its id, its medium (a file's path, or an id where there is no file), its texts, and facts."""

    key: str
    media: Path | str
    texts: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)


class ItemSource(Source[ConfigT]):
    """Items in a list. `skipped`: what was left out because a file was missing."""

    def __init__(self, config: ConfigT, items: Sequence[Item], skipped: Sequence[str], where: str, stamp: str) -> None:
        super().__init__(config)
        self.items = tuple(items)
        self.skipped = tuple(skipped)
        check_keys([item.key for item in self.items], where)
        self._fingerprint = _fingerprint(self.items, stamp)

    def keys(self) -> list[str]:
        return [item.key for item in self.items]

    def media(self, row: int) -> Path | str:
        return self.items[row].media

    def texts(self, row: int) -> tuple[str, ...]:
        return self.items[row].texts

    def facts(self, row: int) -> Mapping[str, Any]:
        return self.items[row].facts

    def fingerprint(self) -> str:
        """A hash of keys, texts, facts, and each file's name, size and time of change, taken when it was built."""
        return self._fingerprint

    def __len__(self) -> int:
        return len(self.items)


def window(items: Sequence[T], config: MediaSourceConfig, where: str) -> Sequence[T]:
    """The items that `rows` and `limit` choose. Raises DataError where `rows` reaches past the end."""
    if config.rows is not None:
        start, stop = config.rows
        if stop > len(items):
            raise DataError(f"{where}: rows [{start}, {stop}] of {len(items)} items; `stop` is at most {len(items)}.")
        items = items[start:stop]
    return items[: config.limit]


def path_keys(names: Sequence[str]) -> list[str]:
    """Ids of files from their relative names: without suffix, or all with it where two would be the same."""
    short = [str(PurePosixPath(name).with_suffix("")) for name in names]
    return short if len(set(short)) == len(short) else list(names)


def present(
    items: Sequence[T], file: Callable[[T], Path], config: MediaSourceConfig, where: str, what: str
) -> tuple[list[T], list[str]]:
    """The items whose `file` is there, and the names of the missing files. Raises DataError if some are missing, unless
    the config says to skip them."""
    found, missing = [], []
    for item in items:
        path = file(item)
        if path.is_file():
            found.append(item)
        else:
            missing.append(str(path))
    if missing and config.missing == "error":
        raise DataError(
            f"{where}: {len(missing)} of {len(items)} {what} are missing: {few(missing)}. Put them there, or say "
            f"`missing: skip` to go on without these items."
        )
    return found, missing


def few(names: Sequence[str]) -> str:
    """The first few names of many."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def double(names: Sequence[str]) -> list[str]:
    """The names that occur more than once, in order."""
    return [name for name, count in Counter(names).items() if count > 1]


def _fingerprint(items: Sequence[Item], stamp: str) -> str:
    digest = hashlib.sha256(stamp.encode())
    for item in items:
        line: list[Any] = [item.key, item.texts, dict(item.facts)]
        if isinstance(item.media, Path):
            about = item.media.stat()
            line += [item.media.name, about.st_size, about.st_mtime_ns]
        digest.update(json.dumps(line, sort_keys=True).encode() + b"\n")
    return digest.hexdigest()
