"""What the bridges that recall texts share: a memory of text vectors, of any size, gone through a chunk at a time.

A memory is kept in the artefact as it was given (its numbers are not rounded twice) and normalised as it is read. Where
it is small it is held on the device; where it isn't, every batch of queries reads the file once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from modbridge.builtin.bridges.memory_config import RecallConfig, require_rows
from modbridge.builtin.bridges.memory_file import NAME, FileRows, PickedRows, Rows, TensorRows, check_rows, write_rows
from modbridge.builtin.bridges.moments import require_finite
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.errors import DataError
from modbridge.geometry import Statistics, centre, unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw
from modbridge.training import derived_seed

ConfigT = TypeVar("ConfigT", bound=RecallConfig)

FILE = "memory.safetensors"
MIB = 2**20


class RecallBridge(StatisticsBridge[ConfigT]):
    """Answers source vectors from a memory. Authors write `recall`."""

    _rows: Rows | None = None
    _held: torch.Tensor | None = None

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
        fitting.log(fit=self.config.type, memory=rows.count, of=whole.count, bytes=rows.count * rows.dim * 4)

    def save_extra(self, folder: Path) -> None:
        write_rows(self._remembered(), folder / FILE, size=self.config.chunk)

    def load_extra(self, folder: Path) -> None:
        self._take(FileRows(folder / FILE, NAME))

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

    def _carried(self, x: torch.Tensor, *, centred: bool) -> torch.Tensor:
        mean = self.statistic("text_mean")
        answer = self.recall(centre(x, self.statistic("source_mean")) if self.config.centred else unit(x))
        if self.answers_centred:
            return answer if centred else self.in_text_frame(answer)
        return centre(answer, mean) if centred else answer

    def _blocks(self) -> Iterator[torch.Tensor]:
        rows = self._remembered()
        if self._held is None and rows.count * rows.dim * 4 <= self.config.held_mib * MIB:
            self._held = torch.empty(rows.count, rows.dim, device=self.device)
            start = 0
            for block in rows.blocks(self.config.chunk):
                self._held[start : start + len(block)] = self._ready_block(block)
                start += len(block)
        if self._held is not None:
            yield from torch.split(self._held, self.config.chunk)
            return
        for block in rows.blocks(self.config.chunk):
            yield self._ready_block(block)

    def _ready_block(self, block: torch.Tensor) -> torch.Tensor:
        return unit(block.to(self.device, torch.float32))

    def _remembered(self) -> Rows:
        if self._rows is None:
            raise DataError(f"{self.who} has no memory yet; call `fit`, or load an artefact.")
        return self._rows

    def _take(self, rows: Rows) -> None:
        self._rows, self._held = rows, None

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
