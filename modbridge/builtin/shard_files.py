"""The files that a pattern names, what sources of such files have in common, and reading from many of them."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from modbridge.builtin.shard_config import ShardedConfig
from modbridge.errors import DataError

_OPEN = 64  # files a process keeps open


def named_files(patterns: str | Sequence[str]) -> list[Path]:
    """The files that patterns name, which need not be there, in order. `{00..41}` and `{a,b}` stand for each of these,
    `*`, `?` and `[...]` for what is there.

    Raises DataError where a pattern finds nothing, or one file is named twice.
    """
    found: list[Path] = []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if re.match(r"[a-z0-9+]+://|pipe:", pattern):
            raise DataError(f"{pattern}: shards are read from files; fetch them, or mount what they lie in.")
        for name in _expanded(os.path.expanduser(pattern)):
            if os.path.exists(name) or not glob.has_magic(name):
                found.append(Path(name))
                continue
            there = sorted(glob.glob(name))
            if not there:
                raise DataError(
                    f"no file is named like {name!r}; correct `path`. It counts from the working directory."
                )
            found += map(Path, there)
    if len(set(found)) != len(found):
        double = next(path for number, path in enumerate(found) if path in found[:number])
        raise DataError(f"{double} is named twice by `path`; every shard is read once.")
    return found


def _expanded(pattern: str) -> Iterator[str]:
    """What a shell makes of braces."""
    brace = re.search(r"\{([^{}]*)\}", pattern)
    if brace is None or os.path.exists(pattern):
        yield pattern
        return
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", brace[1])
    if numbers:
        first, last = numbers.groups()
        width = len(first) if first.startswith("0") or len(first) == len(last) else 0
        choices = [f"{number:0{width}d}" for number in range(int(first), int(last) + 1)]
    else:
        choices = brace[1].split(",")
    if len(choices) < (1 if numbers else 2):
        raise DataError(f"{pattern}: {brace[0]} stands for nothing; expected {{00000..00041}} or {{a,b}}.")
    for choice in choices:
        yield from _expanded(pattern[: brace.start()] + choice + pattern[brace.end() :])


def refuse_shards(problems: dict[str, str], count: int, config: ShardedConfig) -> None:
    """Raise DataError with what is wrong with shards, unless the config says to leave such ones out."""
    if problems and (config.missing == "error" or len(problems) == count):
        told = list(problems.values())
        more = f"\n  and {len(told) - 20} more" if len(told) > 20 else ""
        hint = "" if len(problems) == count else "\nMend them, or say `missing: skip` to go on without these shards."
        raise DataError(f"{len(told)} of {count} shards cannot be read:\n  " + "\n  ".join(told[:20]) + more + hint)


def chosen(count: int, config: ShardedConfig) -> range:
    """The rows that `rows` and `limit` choose of `count`. Raises DataError where `rows` reaches past the end."""
    start, stop = config.rows or (0, count)
    if stop > count:
        raise DataError(f"rows [{start}, {stop}] of {count} items; `stop` is at most {count}.")
    return range(start, stop if config.limit is None else min(stop, start + config.limit))


def print_of(config: ShardedConfig, files: Sequence[Path], skipped: Sequence[str]) -> str:
    """The fingerprint of items in files: the fields that decide it, and each file's name, size and time of change."""
    told = {name: value for name, value in config.key_fields().items() if name != "path"}
    digest = hashlib.sha256(json.dumps([told, list(skipped)], sort_keys=True).encode())
    for path in files:
        about = path.stat()
        digest.update(json.dumps([path.name, about.st_size, about.st_mtime_ns]).encode() + b"\n")
    return digest.hexdigest()


class OpenFiles:
    """Reads pieces of many files, of which the last used stay open. Another process opens its own."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, IO[bytes]] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self._files = OrderedDict()

    def read(self, path: Path, offset: int, size: int) -> bytes:
        """Bytes from `offset` on. Raises DataError where the file is gone or shorter."""
        try:
            file = self._files.get(path)
            if file is None:
                file = self._files[path] = path.open("rb", buffering=0)
                if len(self._files) > _OPEN:
                    self._files.popitem(last=False)[1].close()
            self._files.move_to_end(path)
            # Without moving its place, which a process shares with those that it was copied from.
            data = os.pread(file.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error}).") from error
        if len(data) != size:
            raise DataError(
                f"{path}: {len(data)} bytes at {offset}, expected {size}: it was cut short or altered after it was "
                f"opened. Fetch it again."
            )
        return data
