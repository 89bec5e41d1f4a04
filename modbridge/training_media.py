"""The media of training items: kept in memory where they are few, else read ahead of the steps that need them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, Generic, TypeVar

import torch
from torch.utils.data import Dataset

from modbridge.ahead import made_ahead
from modbridge.errors import ModbridgeError, PluginError
from modbridge.interfaces.fitting import Fitting

T = TypeVar("T", bound=torch.Tensor | tuple[torch.Tensor, ...])

KEPT_BYTES = 2**30
_PIECE = 64  # items prepared at once by one process, while all are


class Media(Generic[T]):
    """What `prepare(row)` makes of the medium of each of `count` items: a tensor, of one shape for all, or a tuple of
    such tensors, where a medium is read once for several uses.

    All of it is kept in memory if it takes 1 GiB at most. Else it is read batch by batch: in `workers` processes, ahead
    of the steps, where `modbridge.training.train` is given it as `media`:

        media = Media(len(keys), partial(prepared, self, source), fitting, "images", workers=config.workers)
        train(..., media=media, loss=lambda step, epoch, rows: loss_of(media.batch(rows)))

    `loss` then asks for the media of its step's `rows`, all of them, once. The bytes are the same with any number of
    workers. `prepare` may touch no device; what it raises of ours is raised when its step has come. `what` they are is
    for progress and messages. `of`: where several rows share a medium, which of the `count` each row has.
    """

    def __init__(
        self,
        count: int,
        prepare: Callable[[int], T],
        fitting: Fitting,
        what: str,
        *,
        workers: int = 0,
        of: Sequence[int] | None = None,
    ) -> None:
        self.what, self.workers, self._of = what, workers, of
        self._reader = _Reader(prepare)
        self._coming: Iterator[_Read[T]] | None = None
        self._kept: tuple[torch.Tensor, ...] | None = None
        first = prepare(0)
        self._single = isinstance(first, torch.Tensor)
        shapes = _parts(first)
        if count * sum(part.nbytes for part in shapes) <= KEPT_BYTES:
            self._kept = tuple(torch.empty((count, *part.shape), dtype=part.dtype) for part in shapes)
            with fitting.progress(f"preparing {what}", count) as progress:
                pieces = [list(range(at, min(at + _PIECE, count))) for at in range(0, count, _PIECE)]
                for read in self._ahead(pieces, min(workers, len(pieces)), pin=False):
                    for kept, part in zip(self._kept, _parts(read.values()), strict=True):
                        kept[read.rows[0] : read.rows[-1] + 1] = part
                    progress.advance(len(read.rows))

    def batch(self, rows: torch.Tensor) -> T:
        """The media of `rows` (B,): tensors (B, ...) on the CPU, one or several, as `prepare` gives them.

        Raises what `prepare` raises, and PluginError for other rows than those that are being read ahead.
        """
        listed = self._media(rows.tolist())
        if self._kept is not None:
            kept: Any = tuple(part[listed] for part in self._kept)
            found: T = kept[0] if self._single else kept
            return found
        if self._coming is None:
            return self._reader[listed].values()
        read = next(self._coming, None)
        if read is None or read.rows != listed:
            raise PluginError(
                f"other {self.what} were asked for than those of the training step's rows. `loss` is to ask "
                f"media.batch(rows) once, with the rows that it was given."
            )
        return read.values()

    @contextmanager
    def ahead(self, plan: Iterable[Sequence[int]], *, pin: bool = False) -> Iterator[None]:
        """Meanwhile `batch` is asked for the rows of `plan`, in order. Raises SetupError, there, where a process that
        reads ahead is ended from outside."""
        if self._kept is not None or not self.workers:
            yield
            return
        with closing(self._ahead(map(self._media, plan), self.workers, pin=pin)) as self._coming:
            try:
                yield
            finally:
                self._coming = None

    def _media(self, rows: Sequence[int]) -> list[int]:
        return list(rows) if self._of is None else [self._of[row] for row in rows]

    def _ahead(self, plan: Iterable[Sequence[int]], workers: int, *, pin: bool) -> Generator[_Read[T], None, None]:
        yield from made_ahead(
            self._reader,
            plan,
            workers,
            pin=pin,
            what=f"read {self.what} ahead",
            advice="Give fewer `workers` or a smaller `batch_size` and run again: training goes on from its last "
            "checkpoint.",
        )


class _Read(Generic[T]):
    """A batch that was read, or what of ours was raised instead: raised over there, torch would tell it with a
    traceback."""

    def __init__(self, rows: list[int], batch: T | None, error: ModbridgeError | None = None) -> None:
        self.rows, self.batch, self.error = rows, batch, error

    def values(self) -> T:
        if self.error is not None:
            raise self.error
        assert self.batch is not None
        return self.batch

    def pin_memory(self) -> _Read[T]:
        """With its tensors in page-locked memory; torch's loader asks for it."""
        if self.batch is None:
            return self
        parts: Any = tuple(part.pin_memory() for part in _parts(self.batch))
        return _Read(self.rows, parts[0] if isinstance(self.batch, torch.Tensor) else parts)


class _Reader(Dataset[_Read[T]], Generic[T]):
    """Batches of prepared media."""

    def __init__(self, prepare: Callable[[int], T]) -> None:
        self.prepare = prepare

    def __getitem__(self, rows: Sequence[int]) -> _Read[T]:
        try:
            items: list[Any] = [self.prepare(row) for row in rows]
        except ModbridgeError as error:
            return _Read(list(rows), None, error)
        single = isinstance(items[0], torch.Tensor)
        batch: Any = torch.stack(items) if single else tuple(torch.stack(part) for part in zip(*items, strict=True))
        return _Read(list(rows), batch)


def _parts(value: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (value,) if isinstance(value, torch.Tensor) else value
