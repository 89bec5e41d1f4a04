"""What the bridges that recall texts share: a memory of text vectors, of any size, gone through a chunk at a time.

A memory is kept in the artefact as it was given (its numbers are not rounded twice) and normalised as it is read. Where
it is small it is held on the device; where it isn't, every batch of queries reads the file once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from modbridge.builtin.bridges.memory_config import RecallConfig, require_rows
from modbridge.builtin.bridges.memory_file import NAME, FileRows, PickedRows, Rows, TensorRows, check_rows, write_rows
from modbridge.builtin.bridges.moments import require_finite
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.config.search import advice, require_faiss
from modbridge.errors import DataError
from modbridge.geometry import Statistics, centre, unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw
from modbridge.training import derived_seed

if TYPE_CHECKING:
    from modbridge.approximate import Index

ConfigT = TypeVar("ConfigT", bound=RecallConfig)

FILE, INDEX = "memory.safetensors", "memory.faiss"
MIB = 2**20
_SPARE = 8  # rows that are picked out beyond those asked for, since the index knows them in half precision
_PICKED = 2**22  # numbers of such rows at once


class RecallBridge(StatisticsBridge[ConfigT]):
    """Answers source vectors from a memory. Authors write `recall`."""

    _rows: Rows | None = None
    _held: torch.Tensor | None = None
    _index: Index | None = None

    @abstractmethod
    def recall(self, query: torch.Tensor) -> torch.Tensor:
        """The answer (B, D) to unit queries (B, D): in the centred frame if `answers_centred`, else among raw texts."""
        ...

    @property
    def answers_centred(self) -> bool:
        return False

    def shapes(self) -> dict[str, tuple[int, ...]]:
        dim = self.context.dim()
        shapes: dict[str, tuple[int, ...]] = {"text_mean": (dim,), "text_radius": ()}
        return {**shapes, "source_mean": (dim,)} if self.config.centred else shapes

    def fit(self, data: FitData, fitting: Fitting) -> None:
        if len(data.text) == 0:
            raise DataError(f"{self.who} needs text vectors to be fitted; the training data gave none.")
        require_finite(data.text, self.who)
        text = Statistics.of(data.text)
        values = {"text_mean": text.mean, "text_radius": text.radius}
        if self.config.centred:
            source = data.require_source(self.who)
            require_finite(source, self.who)
            values["source_mean"] = Statistics.of(source).mean
        whole = self._given(data)
        rows = self._chosen(whole, fitting.seed)
        self._check(rows)
        self.load_tensors(values)
        self._take(rows)
        if self.config.search != "exact":
            self._index = self._index_class().build(rows.count, rows.dim, lambda: (keys for _, keys in self.memory()))
            fitting.log(index=self.config.search.type, lists=self._index.lists, bytes=self._index.bytes)
        fitting.log(fit=self.config.type, memory=rows.count, of=whole.count, bytes=rows.count * rows.dim * 4)
        note = advice(self.config.search, rows.count)
        if note is not None:
            fitting.log(note=f"{self.who}: {note}.")

    def save_extra(self, folder: Path) -> None:
        write_rows(self._remembered(), folder / FILE, size=self.config.chunk)
        if self._index is not None:
            self._index.save(folder / INDEX)

    def load_extra(self, folder: Path) -> None:
        rows = FileRows(folder / FILE, NAME)
        self._take(rows)
        if self.config.search != "exact":
            mapped = rows.count * rows.dim * 2 > self.config.held_mib * MIB
            self._index = self._index_class().load(folder / INDEX, rows.count, rows.dim, mapped=mapped)

    def parameter_count(self) -> int:
        """The numbers of the memory and of the means beside it; 0 before fitting."""
        return super().parameter_count() + (self._rows.count * self._rows.dim if self._rows is not None else 0)

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._carried(x, centred=self.config.frame == "centred")

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return centre(x, self.statistic("text_mean")) if self.config.frame == "centred" else x

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        return [("encoded", x), ("bridged", self._carried(x, centred=False))]

    def memory(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """(unit text vectors, what queries are compared with), (n, D) each, float32 on the device, chunk by chunk."""
        mean = self.statistic("text_mean").to(self.device, torch.float32) if self.config.centred else None
        for block in self._blocks():
            yield block, block if mean is None else unit(block - mean)

    def picked(self, query: torch.Tensor, count: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """For all of B unit queries, a few at a time, on the CPU: texts that the index picks out, of which the `count`
        (at most all) nearest count, of equal ones the first of the memory. (their cosines (b, K) float64, -inf for
        those that don't count and wherever a query holds NaN; the unit text vectors, and what queries are compared
        with, (b, K, D) float32 each)."""
        from modbridge.approximate import exact_cosines

        assert self.config.search != "exact"
        assert self._index is not None, "built by `fit`, or loaded"
        mean = self.statistic("text_mean").to(torch.float32) if self.config.centred else None
        found = self._index.candidates(query, count + _SPARE, self.config.search.probes)
        at_once = max(1, _PICKED // (found.shape[1] * query.shape[1]))
        for x, rows in zip(torch.split(query.cpu(), at_once), torch.split(found, at_once), strict=True):
            texts = self._rows_at(rows.clamp(min=0))
            keys = texts if mean is None else unit(texts - mean)
            cosines = exact_cosines(x, keys).masked_fill(rows < 0, -torch.inf)
            beyond = cosines.argsort(dim=1, descending=True, stable=True)[:, count:]
            yield cosines.scatter(1, beyond, -torch.inf), texts, keys

    def _carried(self, x: torch.Tensor, *, centred: bool) -> torch.Tensor:
        mean = self.statistic("text_mean")
        answer = self.recall(centre(x, self.statistic("source_mean")) if self.config.centred else unit(x))
        if self.answers_centred:
            return answer if centred else self.in_text_frame(answer)
        return centre(answer, mean) if centred else answer

    def _blocks(self) -> Iterator[torch.Tensor]:
        held = self._hold()
        if held is not None:
            yield from torch.split(held, self.config.chunk)
            return
        for block in self._remembered().blocks(self.config.chunk):
            yield self._ready_block(block)

    def _hold(self) -> torch.Tensor | None:
        """All unit text vectors, where they are few enough to be held."""
        rows = self._remembered()
        if self._held is None and rows.count * rows.dim * 4 <= self.config.held_mib * MIB:
            self._held = torch.empty(rows.count, rows.dim, device=self.device)
            start = 0
            for block in rows.blocks(self.config.chunk):
                self._held[start : start + len(block)] = self._ready_block(block)
                start += len(block)
        return self._held

    def _rows_at(self, numbers: torch.Tensor) -> torch.Tensor:
        """The unit text vectors (B, K, D) of numbers (B, K), on the CPU. Each is read once."""
        each, place = torch.unique(numbers, return_inverse=True)
        held = self._hold()
        found = self._ready_block(self._remembered().at(each)) if held is None else held[each.to(held.device)]
        return found.cpu()[place]

    def _ready_block(self, block: torch.Tensor) -> torch.Tensor:
        return unit(block.to(self.device, torch.float32))

    def _remembered(self) -> Rows:
        if self._rows is None:
            raise DataError(f"{self.who} has no memory yet; call `fit`, or load an artefact.")
        return self._rows

    def _take(self, rows: Rows) -> None:
        self._rows, self._held, self._index = rows, None, None

    def _index_class(self) -> type[Index]:
        require_faiss(self.config.search)
        from modbridge.approximate import Index

        return Index

    def _given(self, data: FitData) -> Rows:
        if self.config.file is None or self.config.array is None:
            return TensorRows(data.text.values)
        require_rows(self.config.file, self.config.array, self.context.dim())
        rows = FileRows(Path(self.config.file).expanduser(), self.config.array)
        if rows.count == 0:
            raise DataError(f"{self.who}: the memory {self.config.array!r} of {self.config.file} holds no vectors.")
        return rows

    def _chosen(self, rows: Rows, seed: int) -> Rows:
        if self.config.size is None or self.config.size >= rows.count:
            return rows
        generator = np.random.default_rng(derived_seed("memory", seed))
        index = generator.choice(rows.count, self.config.size, replace=False, shuffle=False)
        return PickedRows(rows, torch.from_numpy(np.sort(index)))

    def _check(self, rows: Rows) -> None:
        found = check_rows(rows, size=self.config.chunk)
        if found.bad:
            raise DataError(
                f"{self.who}: {found.bad} of the {rows.count} vectors of its memory hold NaN or infinity, or have "
                f"length 0 (the first is row {found.first}). Encode these texts again, or leave them out."
            )
