"""Rows of vectors read in order, a chunk at a time, whether they lie in RAM or in a file larger than it.

Files are read plainly into one buffer that is used again and again, not mapped: mapped pages would count as this
process's memory.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch

from modbridge.builtin.vector_header import DAMAGE, damaged, require, safetensors_header, suffix_of
from modbridge.errors import DataError

NAME = "memory"
_READ = 4096  # rows at once
SAFETENSORS = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
NUMPY = {"<f2": torch.float16, "<f4": torch.float32, "<f8": torch.float64}


class Rows(ABC):
    """`count` vectors of `dim` numbers of type `dtype`."""

    count: int
    dim: int
    dtype: torch.dtype

    @abstractmethod
    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        """All rows in order, up to `size` at once. A block is good only until the next is asked for."""
        ...

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """The rows (n, dim) of numbers (n,) in any order, int64 on the CPU. This goes through all rows once."""
        order = index.argsort()
        picked = PickedRows(self, index[order]).blocks(_READ)
        found = torch.empty(len(index), self.dim, dtype=self.dtype)
        start = 0
        for block in picked:
            found[order[start : start + len(block)]] = block.cpu()
            start += len(block)
        return found


class TensorRows(Rows):
    """The rows of a tensor (N, D)."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        (self.count, self.dim), self.dtype = values.shape, values.dtype

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        yield from torch.split(self.values, size)

    def at(self, index: torch.Tensor) -> torch.Tensor:
        return self.values[index.to(self.values.device)]


class PickedRows(Rows):
    """Some rows of others: `index`, int64, ascending."""

    def __init__(self, rows: Rows, index: torch.Tensor) -> None:
        self.rows, self.index = rows, index
        self.count, self.dim, self.dtype = len(index), rows.dim, rows.dtype

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        start = 0
        for block in self.rows.blocks(size):
            first, last = torch.searchsorted(self.index, torch.tensor([start, start + len(block)])).tolist()
            if first < last:
                yield block[(self.index[first:last] - start).to(block.device)]
            start += len(block)

    def at(self, index: torch.Tensor) -> torch.Tensor:
        return self.rows.at(self.index[index])


class FileRows(Rows):
    """The rows of an array of a .safetensors or .npz file.

    Raises DataError for a file or array that isn't there or holds no rows of floats, ArtefactError for a damaged file,
    also while it is read.
    """

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        suffix_of(path)
        try:
            with self._opened() as (_, shape, dtype):
                pass
        except (*DAMAGE, zlib.error) as error:
            raise damaged(path, error) from error
        if len(shape) != 2:
            raise DataError(f"{path}: the array {name!r} has the shape {shape}; expected (rows, dimension).")
        (self.count, self.dim), self.dtype = shape, dtype

    def blocks(self, size: int) -> Iterator[torch.Tensor]:
        width = self.dim * self.dtype.itemsize
        buffer = bytearray(max(1, min(size, self.count)) * width)
        try:
            with self._opened() as (file, _, _):
                for start in range(0, self.count, size):
                    rows = min(size, self.count - start)
                    _fill(file, memoryview(buffer)[: rows * width])
                    yield torch.frombuffer(buffer, dtype=self.dtype, count=rows * self.dim).view(rows, self.dim)
        except (*DAMAGE, zlib.error) as error:
            raise damaged(self.path, error) from error

    def at(self, index: torch.Tensor) -> torch.Tensor:
        """As for all rows; those of a .safetensors file are read alone, one by one."""
        if self.path.suffix != ".safetensors":
            return super().at(index)
        width = self.dim * self.dtype.itemsize
        found = bytearray(len(index) * width)
        try:
            with self._opened() as (file, _, _):
                begin = file.tell()
                for place, row in enumerate(index.tolist()):
                    file.seek(begin + row * width)
                    _fill(file, memoryview(found)[place * width : (place + 1) * width])
        except (*DAMAGE, zlib.error) as error:
            raise damaged(self.path, error) from error
        return torch.frombuffer(found, dtype=self.dtype).view(len(index), self.dim)

    @contextmanager
    def _opened(self) -> Iterator[tuple[io.BufferedIOBase, tuple[int, ...], torch.dtype]]:
        """The file where the array's numbers begin, their shape and type."""
        if self.path.suffix == ".safetensors":
            entry = require(safetensors_header(self.path)[0], self.name, self.path)
            with self.path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                file.seek(8 + length + entry["data_offsets"][0])
                yield file, tuple(entry["shape"]), self._float(SAFETENSORS, entry["dtype"])
            return
        with zipfile.ZipFile(self.path) as archive:
            members = {member.removesuffix(".npy"): member for member in archive.namelist()}
            with archive.open(require(members, self.name, self.path)) as stream:
                shape, by_column, kind = _npy_header(stream)
                if by_column and len(shape) > 1:
                    raise DataError(
                        f"{self.path}: the array {self.name!r} is stored column by column (Fortran order), so that its "
                        f"rows cannot be read one after another. Save `numpy.ascontiguousarray` of it."
                    )
                yield cast(io.BufferedIOBase, stream), shape, self._float(NUMPY, kind)

    def _float(self, known: dict[str, torch.dtype], found: str) -> torch.dtype:
        if found not in known:
            raise DataError(f"{self.path}: the array {self.name!r} holds {found}; expected one of {', '.join(known)}.")
        return known[found]


def write_rows(rows: Rows, path: Path, *, size: int) -> None:
    """Write rows as the tensor "memory" of a .safetensors file, a chunk at a time; float64 as float32."""
    dtype = torch.float32 if rows.dtype == torch.float64 else rows.dtype
    kind = next(name for name, known in SAFETENSORS.items() if known == dtype)
    length = rows.count * rows.dim * dtype.itemsize
    entry = {"dtype": kind, "shape": [rows.count, rows.dim], "data_offsets": [0, length]}
    header = json.dumps({NAME: entry}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for block in rows.blocks(size):
            file.write(block.detach().cpu().to(dtype).contiguous().view(torch.uint8).numpy().data)


@dataclass(frozen=True)
class Checked:
    """What one look through rows found."""

    bad: int
    first: int


def check_rows(rows: Rows, *, size: int) -> Checked:
    """How many rows have no direction (NaN, infinity, or length 0), and the first of them."""
    bad, first, start = 0, -1, 0
    for block in rows.blocks(size):
        length = block.float().norm(dim=1)
        wrong = (~(torch.isfinite(length) & (length > 0))).nonzero().flatten()
        if len(wrong) and first < 0:
            first = start + int(wrong[0])
        bad += len(wrong)
        start += len(block)
    return Checked(bad, first)


def _fill(file: io.BufferedIOBase, view: memoryview) -> None:
    done = 0
    while done < len(view):
        got = file.readinto(view[done:])
        if not got:
            raise EOFError(f"{len(view) - done} bytes are missing")
        done += got


def _npy_header(stream: object) -> tuple[tuple[int, ...], bool, str]:
    """(shape, whether it is stored by column, type) from a .npy header, which is read past."""
    file = cast(io.BufferedIOBase, stream)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_column, dtype = read(file)
    return tuple(shape), bool(by_column) and math.prod(shape) > 0, dtype.str
