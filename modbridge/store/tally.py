"""The moments of an embedding, summed up beside its making."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import torch

from modbridge.errors import ArtefactError
from modbridge.moments import Moments
from modbridge.store.shards import read_shard

TRIES, PAUSE = 6, 1.0  # seconds between two


class Tally:
    """Sums up the shards `names` of a folder in that order, whatever order they come in, in a thread of its own: the
    sums are the same however often the making was interrupted, and nobody waits for them but the last.

    `times`: how often each row counts, (N,).
    """

    def __init__(self, folder: Path, names: Sequence[str], times: torch.Tensor) -> None:
        self.folder, self.times = folder, times
        self._waiting = list(reversed(names))
        self._there: set[str] = set()
        self._sum: Moments | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moments")
        self._taken: list[Future[None]] = []

    def __enter__(self) -> Tally:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def add(self, name: str) -> None:
        """A shard is whole."""
        self._taken.append(self._thread.submit(self._take, name))

    def moments(self) -> Moments | None:
        """The sums, once all shards have been added; None for sequences. Raises ArtefactError for one that cannot be
        read."""
        for taken in self._taken:
            taken.result()
        return self._sum

    def _take(self, name: str) -> None:
        self._there.add(name)
        while self._waiting and self._waiting[-1] in self._there:
            values, rows = self._read(self.folder / self._waiting[-1])
            self._waiting.pop()
            if values.ndim == 2:
                part = Moments.of(values, self.times[rows])
                self._sum = part if self._sum is None else self._sum + part

    def _read(self, file: Path) -> tuple[torch.Tensor, torch.Tensor]:
        """A shard; one that was written on another machine may take a moment to be seen."""
        for _ in range(TRIES - 1):
            try:
                return read_shard(file)
            except ArtefactError:
                time.sleep(PAUSE)
        return read_shard(file)
