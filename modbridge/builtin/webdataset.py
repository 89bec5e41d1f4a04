"""Tar shards in the form of webdataset, any item of them at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from modbridge.builtin.items import few
from modbridge.builtin.jsonl import captions_of
from modbridge.builtin.shard_config import WebdatasetConfig
from modbridge.builtin.shard_files import OpenFiles, chosen, named_files, print_of, refuse_shards
from modbridge.builtin.shard_index import Places, member_at, places
from modbridge.errors import DataError
from modbridge.interfaces.key_list import KeyList
from modbridge.interfaces.source import Source
from modbridge.media import image_of
from modbridge.store.place import cache_root


class WebdatasetSource(Source[WebdatasetConfig]):
    """The items of tar files, in their order, by an index of where each lies. A member's name up to its first dot is
    the item's key; a key without an image is no item.

    Raises DataError for shards that are missing or no whole tar files, for items without captions where some are asked
    for, for keys that are not unique, and in `media` and `texts` for what cannot be read, with shard and member.
    """

    def __init__(self, config: WebdatasetConfig) -> None:
        super().__init__(config)
        index = cache_root() / "shards" if config.index is None else Path(config.index).expanduser()
        found, self._shards, skipped = _opened(config, index)
        self._places, self._shards = _window(found, self._shards, config)
        if config.told_in is not None:
            self._places, bare = _with_captions(self._places, self._shards, config)
            skipped += bare
        self.skipped = tuple(skipped)
        self._firsts = np.cumsum([0, *(count for _, count in self._shards)])
        self._fingerprint = print_of(config, [path for path, _ in self._shards], skipped)
        self._files = OpenFiles()
        self._refuse_doubles()

    def keys(self) -> KeyList:
        return self._places.keys

    def __len__(self) -> int:
        return len(self._places)

    def blocks(self) -> Sequence[int]:
        """The first row of each shard."""
        return self._firsts[:-1].tolist()  # type: ignore[no-any-return]

    def media(self, row: int) -> Image.Image:
        """The image, not decoded yet."""
        path, at = self._shard(row), int(self._places.at[row])
        data = self._files.read(path, at, int(self._places.size[row]))
        advice = "Leave the item out, or write the shard again."
        return image_of(data, f"{path}:{member_at(path, at)}", f"{path}:{self._places.keys[row]}", advice)

    def texts(self, row: int) -> tuple[str, ...]:
        field = self.config.captions
        if field is None:
            return ()
        path, at = self._shard(row), int(self._places.told_at[row])
        data = self._files.read(path, at, int(self._places.told_size[row]))
        try:
            text = data.decode("utf-8-sig")
            if not field.startswith("."):
                found = json.loads(text)
                if not isinstance(found, dict):
                    raise ValueError(f"expected an object {{...}}, found {type(found).__name__}")
                return captions_of(found, field)
            captions = tuple(line.strip() for line in text.splitlines() if line.strip())
            if not captions:
                raise ValueError("it holds no caption; expected one caption a line")
            return captions
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            raise DataError(f"{path}:{member_at(path, at)}: {error}.") from error

    def fingerprint(self) -> str:
        """A hash of the fields, and of each shard's name, size and time of change, taken when it was built."""
        return self._fingerprint

    def _shard(self, row: int) -> Path:
        at = range(len(self))[row]
        return self._shards[int(np.searchsorted(self._firsts, at, side="right")) - 1][0]

    def _refuse_doubles(self) -> None:
        double = self._places.keys.double()
        if double is not None:
            at = [self._shard(row).name for row, key in enumerate(self._places.keys) if key == double]
            raise DataError(
                f"{len(at)} items have the key {double!r}, in {few(at)}; every item needs a key of its own, also over "
                f"shards. Write them with other names, or leave one of the shards out."
            )


def _opened(config: WebdatasetConfig, index: Path) -> tuple[Places, list[tuple[Path, int]], list[str]]:
    """All items, how many each shard holds, and the shards that were left out."""
    parts: list[Places] = []
    shards: list[tuple[Path, int]] = []
    problems: dict[str, str] = {}
    count = 0
    files = named_files(config.path)
    for path in files:
        if config.stop is not None and count >= config.stop:
            break
        try:
            if not path.is_file():
                raise DataError(f"{path}: no such file.")
            part = places(path, config.suffixes, config.told_in, index)
        except DataError as error:
            problems[str(path)] = str(error)
            continue
        parts.append(part)
        shards.append((path, len(part)))
        count += len(part)
    refuse_shards(problems, len(files), config)
    if not count:
        raise DataError(
            f"{files[0]}{' and others' if len(files) > 1 else ''}: found no items; looked for members KEY.EXT with "
            f"{', '.join(sorted(config.suffixes))}."
        )
    return Places.joined(parts), shards, list(problems)


def _with_captions(found: Places, shards: list[tuple[Path, int]], config: WebdatasetConfig) -> tuple[Places, list[str]]:
    """The items that have captions, and the names of the others; `shards` is brought to the same counts."""
    bare = np.flatnonzero(found.told_size == 0)
    if not len(bare):
        return found, []
    ends = np.cumsum([count for _, count in shards])
    names = [f"{shards[int(np.searchsorted(ends, row, 'right'))][0]}:{found.keys[int(row)]}" for row in bare]
    if config.missing == "error":
        raise DataError(
            f"{len(names)} of {len(found)} items have no member {config.told_in}, or an empty one: {few(names)}. Say "
            f"where captions are (`captions`), `missing: skip` to go on without these items, or `captions: null`."
        )
    kept = np.flatnonzero(found.told_size > 0)
    before = np.searchsorted(kept, np.concatenate([[0], ends]))
    shards[:] = [(path, int(n)) for (path, _), n in zip(shards, np.diff(before), strict=True) if n]
    if not len(kept):
        raise DataError(f"none of {len(found)} items has a member {config.told_in}: {few(names)}.")
    return found.part(kept), names


def _window(
    found: Places, shards: list[tuple[Path, int]], config: WebdatasetConfig
) -> tuple[Places, list[tuple[Path, int]]]:
    """The items that `rows` and `limit` choose, and the shards that hold some."""
    rows = chosen(len(found), config)
    first = 0
    left = []
    for path, count in shards:
        inside = min(first + count, rows.stop) - max(first, rows.start)
        if inside > 0:
            left.append((path, inside))
        first += count
    return found.part(slice(rows.start, rows.stop)), left
