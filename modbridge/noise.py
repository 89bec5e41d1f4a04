"""Noise drawn per item from (seed, epoch, key).

A counter-based generator (SplitMix64 finaliser over key, seed, epoch and coordinate) gives every item its own stream,
so batch size, order and sharding change nothing. Everything is integer arithmetic on tensors: it runs on any device,
without a Python loop over items, and gives the same bits everywhere up to the rounding of log and cos.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15 as a signed 64-bit integer
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_TWO_32 = float(2**32)


def key_hash(key: str) -> int:
    """A signed 64-bit hash of an item id, the same in every process."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little", signed=True)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of signed 64-bit integers."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shift(x, 30)) * _MIX_1
    x = (x ^ _shift(x, 27)) * _MIX_2
    return x ^ _shift(x, 31)


@dataclass(frozen=True, slots=True)
class Draw:
    """The random numbers of a batch of items.

    `hashes`: int64 (B,) from `key_hash`; `seed` and `epoch` choose the stream, `purpose` keeps independent uses of one
    item apart ("noise", "time step"). `silent`: normal noise is zero, so that what is left without it can be seen.
    """

    hashes: torch.Tensor
    seed: int
    epoch: int = 0
    purpose: str = ""
    silent: bool = False

    @classmethod
    def of(cls, keys: Sequence[str], seed: int, epoch: int = 0, *, device: torch.device | str = "cpu") -> Draw:
        return cls(torch.tensor([key_hash(key) for key in keys], dtype=torch.int64, device=device), seed, epoch)

    def named(self, purpose: str) -> Draw:
        return replace(self, purpose=purpose)

    def select(self, rows: slice) -> Draw:
        return replace(self, hashes=self.hashes[rows])

    def bits(self, count: int) -> torch.Tensor:
        """int64 (B, count) of independent random bits."""
        stream = key_hash(f"{self.seed}/{self.epoch}/{self.purpose}")
        start = _mix(self.hashes ^ stream)
        counter = torch.arange(1, count + 1, dtype=torch.int64, device=self.hashes.device) * _GOLDEN
        return _mix(start[:, None] + counter)

    def uniform(self, count: int) -> torch.Tensor:
        """float32 (B, count), uniform in the open interval (0, 1)."""
        return (_shift(self.bits(count), 41).to(torch.float32) + 0.5) / float(2**23)

    def normal(self, count: int) -> torch.Tensor:
        """float32 (B, count), standard normal (Box-Muller); zeros where it is `silent`."""
        if self.silent:
            return torch.zeros(len(self.hashes), count, device=self.hashes.device)
        bits = self.bits((count + 1) // 2)
        radius = torch.sqrt(-2.0 * torch.log((_shift(bits, 32).to(torch.float32) + 0.5) / _TWO_32))
        angle = (bits & 0xFFFFFFFF).to(torch.float32) * (2.0 * math.pi / _TWO_32)
        return torch.cat([radius * torch.cos(angle), radius * torch.sin(angle)], dim=1)[:, :count]
