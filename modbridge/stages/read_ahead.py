"""Items read, prepared and put into batches ahead of the encoder, in worker processes if its config says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.utils.data import Dataset

from modbridge.ahead import made_ahead
from modbridge.errors import DataError
from modbridge.interfaces.encoder import Encoder


@dataclass(frozen=True)
class Batch:
    """Rows that were read, collated as `inputs` (None if there are none), and why others could not be."""

    rows: list[int]
    inputs: Any
    unread: dict[int, str] = field(default_factory=dict)

    def pin_memory(self) -> Batch:
        """With its tensors in page-locked memory; torch's loader asks for it."""
        return Batch(self.rows, _pinned(self.inputs), self.unread)


class Reader(Dataset[Batch]):
    """Batches of the rows `plan[i]` of `items`, made by an encoder's own `prepare` and `collate`."""

    def __init__(self, encoder: Encoder[Any], items: Sequence[Any], side: str, plan: Sequence[Sequence[int]]) -> None:
        self.encoder, self.items, self.side, self.plan = encoder, items, side, plan

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, number: int) -> Batch:
        prepared: dict[int, Any] = {}
        unread: dict[int, str] = {}
        for row in self.plan[number]:
            try:
                prepared[row] = self.encoder.prepare(self.items[row], self.side)
            except DataError as error:
                unread[row] = str(error)
        inputs = self.encoder.collate(list(prepared.values()), self.side) if prepared else None
        return Batch(list(prepared), inputs, unread)


def read_ahead(reader: Reader, workers: int, *, pin: bool) -> Iterator[Batch]:
    """The reader's batches in order. With `workers` processes each is ready before it is asked for.

    Raises SetupError where one of these is ended from outside.
    """
    yield from made_ahead(
        reader,
        range(len(reader)),
        min(workers, len(reader)),
        pin=pin,
        what=f"read {reader.side} items ahead",
        advice="Give the encoder fewer `workers` or a smaller `batch_size` and run again: it goes on after the last "
        "shard.",
    )


def bucketed(
    items: Sequence[Any], rows: Sequence[int], size: int, length: Callable[[Any], int] | None
) -> list[list[int]]:
    """`rows` in batches of `size`; with `length`, the longest items first, so that like ones share a batch and what is
    too much for the device shows at once."""
    order = list(rows) if length is None else sorted(rows, key=lambda row: -length(items[row]))
    return [order[at : at + size] for at in range(0, len(order), size)]


def _pinned(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _pinned(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_pinned(one) for one in value)
    return value.pin_memory() if hasattr(value, "pin_memory") else value
