"""KeyList: the ids of tens of millions of items, as few arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 16  # rows looked at together
_MIX = np.uint64(0x9E3779B97F4A7C15)


class KeyList(Sequence[str]):
    """Ids that are made into strings when they are asked for; a slice is another KeyList.

    40 million names of nine letters take 0.7 GB here and 2.6 GB as a list. What is more, arrays stay shared with worker
    processes: of a list every process that looks at it gets a copy, since looking counts references.

    `text`: all ids in UTF-8, one after another, uint8; `ends`: where each ends there, int64 (N,).
    """

    def __init__(self, text: NDArray[np.uint8], ends: NDArray[np.int64]) -> None:
        self.text, self.ends = text, ends
        self._double: str | None = None
        self._looked = False

    @classmethod
    def of(cls, keys: Sequence[str]) -> KeyList:
        """From strings."""
        parts = [key.encode() for key in keys]
        ends = np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)))
        return cls(np.frombuffer(b"".join(parts), np.uint8), ends)

    @classmethod
    def joined(cls, lists: Sequence[KeyList]) -> KeyList:
        """One list after another."""
        if not lists:
            return cls.of(())
        base = np.cumsum([0, *(len(one.text) for one in lists[:-1])])
        ends = np.concatenate([one.ends + start for one, start in zip(lists, base, strict=True)])
        return cls(np.concatenate([one.text for one in lists]), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> KeyList: ...
    def __getitem__(self, row: int | slice) -> str | KeyList:
        if isinstance(row, slice):
            return self.take(np.arange(len(self))[row])
        at = range(len(self))[row]
        return self.text[self._start(at) : int(self.ends[at])].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for at in range(0, len(self), _CHUNK):
            ends = self.ends[at : at + _CHUNK].tolist()
            start = base = self._start(at)
            text = self.text[base : ends[-1]].tobytes()
            for end in ends:
                yield text[start - base : end - base].decode()
                start = end

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"KeyList of {len(self)}: {', '.join(map(repr, self[:3]))}{' ...' if len(self) > 3 else ''}"

    def take(self, rows: NDArray[np.int64]) -> KeyList:
        """The ids of any rows, int64 (M,)."""
        if not len(rows):
            return KeyList.of(())
        starts = np.where(rows > 0, self.ends[rows - 1], 0)
        lengths = self.ends[rows] - starts
        ends = np.cumsum(lengths)
        if np.all(np.diff(rows) == 1):  # neighbours: nothing is copied but their ends
            return KeyList(self.text[starts[0] : starts[0] + ends[-1]], ends)
        places = np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1])
        return KeyList(self.text[places], ends)

    def double(self) -> str | None:
        """An id that two items have, or None. Found once: by hashes, then by the ids that share one."""
        if not self._looked:
            hashes = self._hashes()
            sorted_ = np.sort(hashes)
            shared = np.unique(sorted_[1:][sorted_[1:] == sorted_[:-1]])
            seen: set[str] = set()
            for row in np.flatnonzero(np.isin(hashes, shared)).tolist() if len(shared) else ():
                if self[row] in seen:
                    self._double = self[row]
                    break
                seen.add(self[row])
            self._looked = True
        return self._double

    def _start(self, row: int) -> int:
        return int(self.ends[row - 1]) if row else 0

    def _hashes(self) -> NDArray[np.uint64]:
        """64 bits of each id, a whole word of it at a time."""
        found = np.empty(len(self), np.uint64)
        for at in range(0, len(self), _CHUNK):
            part: Any = self[at : at + _CHUNK]
            lengths = np.diff(part.ends, prepend=0)
            words = -(-int(lengths.max()) // 8) or 1
            table = np.zeros((len(part), words * 8), np.uint8)
            table[np.arange(words * 8) < lengths[:, None]] = part.text
            mixed = lengths.astype(np.uint64)
            for word in table.view("<u8").T:
                mixed = (mixed ^ word) * _MIX
                mixed ^= mixed >> np.uint64(29)
            found[at : at + _CHUNK] = mixed
        return found
