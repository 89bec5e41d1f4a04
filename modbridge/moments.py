"""Mean and covariance of unit vectors, summed up as the vectors come."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Moments:
    """Sums over `count` vectors, each brought to length 1: of n(x), float64 (D,), and of n(x) n(x)', float64 (D, D).

    They do not depend on how the vectors come in parts, beyond rounding. Source: ours.
    """

    count: int
    total: torch.Tensor
    products: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, times: torch.Tensor | None = None) -> Moments:
        """Of vectors (B, D), each counted as often as `times` (B,) says. A vector without a direction spoils them: they
        are then NaN."""
        values = x.double()
        values = values / values.norm(dim=1, keepdim=True)
        often = values if times is None else values * times[:, None].to(values)
        count = len(x) if times is None else int(times.sum())
        return cls(count, often.sum(dim=0).cpu(), (often.T @ values).cpu())

    def __add__(self, other: Moments) -> Moments:
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> torch.Tensor:
        """The mean of n(x), float64 (D,)."""
        return self.total / self.count

    @property
    def covariance(self) -> torch.Tensor:
        """The covariance of n(x), float64 (D, D), divided by the count."""
        mean = self.mean
        return self.products / self.count - torch.outer(mean, mean)

    @property
    def known(self) -> bool:
        """Whether they are of vectors that all have a direction, and of at least one."""
        return self.count > 0 and bool(torch.isfinite(self.total).all())

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is stored."""
        return {"count": torch.tensor(self.count), "total": self.total, "products": self.products}

    @classmethod
    def from_tensors(cls, stored: dict[str, torch.Tensor]) -> Moments:
        return cls(int(stored["count"]), stored["total"], stored["products"])
