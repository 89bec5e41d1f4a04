"""Parquet files with a column of images, any row of them at once.

A row is read with its whole row group, of which a process holds the last few; training shuffles within as many
(`modbridge.training.WINDOW`), so that each is read once an epoch by each process that reads.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modbridge.builtin.items import few, path_keys
from modbridge.builtin.shard_config import ParquetConfig
from modbridge.builtin.shard_files import chosen, named_files, print_of, refuse_shards
from modbridge.errors import DataError, SetupError
from modbridge.interfaces.key_list import KeyList
from modbridge.interfaces.source import Source
from modbridge.media import image_of
from modbridge.training import WINDOW

_OPEN = 16  # files a process keeps open


class ParquetSource(Source[ParquetConfig]):
    """The rows of parquet files, in their order.

    Raises SetupError without pyarrow; DataError for files that are missing or no parquet files, for columns that are
    not there, for keys that are not unique, and in `media` and `texts` for what cannot be read, with file and row.
    """

    def __init__(self, config: ParquetConfig) -> None:
        super().__init__(config)
        self._tables = _Tables()
        files = named_files(config.path)
        places = [path.absolute() for path in files]
        root = os.path.commonpath([place.parent for place in places])
        names = path_keys([place.relative_to(root).as_posix() for place in places])
        problems: dict[str, str] = {}
        parts: list[KeyList] = []
        groups: list[tuple[Path, int]] = []
        firsts = [0]
        for path, name in zip(files, names, strict=True):
            if config.stop is not None and firsts[-1] >= config.stop:
                break
            try:
                sizes = self._checked(path)
                keys = self._named(path, name, sum(sizes))
            except DataError as error:
                problems[str(path)] = str(error)
                continue
            parts.append(keys)
            groups += [(path, number) for number in range(len(sizes))]
            firsts += [firsts[-1] + end for end in accumulate(sizes)]
        refuse_shards(problems, len(files), config)
        if not firsts[-1]:
            raise DataError(
                f"{files[0]}{' and others' if len(files) > 1 else ''}: found no rows; expected at least one."
            )
        self.skipped = tuple(problems)
        self._rows = chosen(firsts[-1], config)
        self._groups, self._firsts = groups, firsts
        self._fingerprint = print_of(config, list(dict.fromkeys(path for path, _ in groups)), self.skipped)
        self._keys = KeyList.joined(parts)[self._rows.start : self._rows.stop]
        self._refuse_doubles()

    def keys(self) -> KeyList:
        return self._keys

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self) -> Sequence[int]:
        """The first row of each row group."""
        inside = (first - self._rows.start for first in self._firsts[:-1] if first in self._rows)
        return list(dict.fromkeys((0, *inside)))

    def media(self, row: int) -> Image.Image | NDArray[np.uint8]:
        """The image, not decoded yet; pixels (H, W, 3) where the column holds these."""
        value, where = self._value(self.config.image, row)
        if isinstance(value, dict):
            value = value.get("bytes")
        shape = self.config.shape
        if shape is not None:
            return _pixels(value, shape, where)
        if not isinstance(value, bytes):
            raise DataError(
                f"{where}: found {'nothing' if value is None else type(value).__name__}, expected the bytes of an "
                f"image. Leave the row out; for bare pixels give their `shape`."
            )
        return image_of(value, where, where, "Leave the row out; for bare pixels give their `shape`.")

    def texts(self, row: int) -> tuple[str, ...]:
        column = self.config.captions
        if column is None:
            return ()
        value, where = self._value(column, row)
        captions = [value] if isinstance(value, str) else value
        if (
            not isinstance(captions, list)
            or not captions
            or not all(isinstance(c, str) and c.strip() for c in captions)
        ):
            raise DataError(f"{where}: found {captions!r:.80}; expected a caption or a list of captions.")
        return tuple(captions)

    def fingerprint(self) -> str:
        """A hash of the fields, and of each file's name, size and time of change, taken when it was built."""
        return self._fingerprint

    def _value(self, column: str, row: int) -> tuple[Any, str]:
        """What stands in a row, and where that is."""
        at = self._rows[row]
        group = bisect_right(self._firsts, at) - 1
        path, number = self._groups[group]
        within = at - self._firsts[group]
        in_file = at - self._firsts[group - number]
        return self._tables.column(path, number, column)[within].as_py(), f"{path}, row {in_file}, {column!r}"

    def _checked(self, path: Path) -> list[int]:
        """The sizes of a file's row groups that hold rows. Raises DataError where a column is not there."""
        file = self._tables.file(path)
        there = file.schema_arrow.names
        lacking = [c for c in (self.config.image, self.config.captions, self.config.key) if c and c not in there]
        if lacking:
            hint = " Say `captions: null` if it has none." if self.config.captions in lacking else ""
            raise DataError(
                f"{path}: no column {', '.join(map(repr, lacking))}; found {', '.join(map(repr, there))}.{hint}"
            )
        return [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]

    def _named(self, path: Path, name: str, count: int) -> KeyList:
        if self.config.key is None:
            return KeyList.of([f"{name}-{row}" for row in range(count)])
        try:
            keys = self._tables.file(path).read(columns=[self.config.key]).column(0).to_pylist()
        except (OSError, ValueError) as error:
            raise DataError(f"{path}, {self.config.key!r}: cannot be read ({error}). Fetch it again.") from error
        good = (isinstance(key, str | int) and not isinstance(key, bool) and key != "" for key in keys)
        bad = next((row for row, ok in enumerate(good) if not ok), None)
        if bad is not None:
            raise DataError(f"{path}, row {bad}: the key is {keys[bad]!r}; expected a name or a whole number.")
        return KeyList.of([str(key) for key in keys])

    def _refuse_doubles(self) -> None:
        double = self._keys.double()
        if double is not None:
            column = self.config.key
            at = [self._value(column, row)[1] for row, key in enumerate(self._keys) if key == double] if column else []
            raise DataError(
                f"{len(at)} rows have the key {double!r}: {few(at)}. Every item needs a key of its own; name another "
                f"column, or leave `key` out."
            )


class _Tables:
    """The last row groups that this process read, column by column, and the files that it has open."""

    def __init__(self) -> None:
        self._files: OrderedDict[Path, Any] = OrderedDict()
        self._columns: dict[str, OrderedDict[tuple[Path, int], Any]] = {}

    def __getstate__(self) -> dict[str, object]:
        return {}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__init__()  # type: ignore[misc]

    def file(self, path: Path) -> Any:
        """An open file. Raises DataError where it is missing or no parquet file."""
        found = self._files.get(path)
        if found is None:
            reading = pyarrow_parquet()
            try:
                # Mapped, a file has no place that a process would share with those that it was copied from.
                found = self._files[path] = reading.ParquetFile(path, memory_map=True)
            except FileNotFoundError:
                raise DataError(f"{path}: no such file.") from None
            except (OSError, ValueError) as error:  # pyarrow's ArrowInvalid is a ValueError
                raise DataError(f"{path} is no whole parquet file ({error}). Fetch it again.") from error
            if len(self._files) > _OPEN:
                self._files.popitem(last=False)
        self._files.move_to_end(path)
        return found

    def column(self, path: Path, number: int, name: str) -> Any:
        """A column of a row group. Raises DataError where it cannot be read."""
        held = self._columns.setdefault(name, OrderedDict())
        found = held.get((path, number))
        if found is None:
            try:
                found = self.file(path).read_row_group(number, columns=[name], use_threads=False).column(0)
            except (OSError, ValueError) as error:
                raise DataError(f"{path}, row group {number}, {name!r}: cannot be read ({error}).") from error
            held[path, number] = found
            if len(held) > WINDOW:
                held.popitem(last=False)
        held.move_to_end((path, number))
        return found


def pyarrow_parquet() -> Any:
    """The module. Raises SetupError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise SetupError(
            f"the source `parquet` needs the package pyarrow ({error}). Install it: pip install 'modbridge[parquet]'."
        ) from error
    return pyarrow.parquet


def _pixels(value: Any, shape: Sequence[int], where: str) -> NDArray[np.uint8]:
    """Bare pixels of `shape` as (H, W, 3)."""
    try:
        flat = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else np.array(value, np.uint8).reshape(-1)
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{where}: no pixels of 8 bits ({error}).") from error
    if flat.size != np.prod(shape):
        raise DataError(
            f"{where}: {flat.size} bytes; expected {np.prod(shape)}, {' x '.join(map(str, shape))}. Correct `shape`, "
            f"or leave it out where the column holds files."
        )
    pixels = flat.reshape(shape)
    return np.ascontiguousarray(pixels.transpose(1, 2, 0)) if shape[0] == 3 else pixels
