"""Unit vectors, their mean, and the two frames they are spoken of in: raw and centred.

Diffusion Bridge, C3 and the gap measures all centre unit vectors on the mean of their own modality. What they leave
behind has length r on average, and a centred unit vector z comes back to the text side as n(r z + mean).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modbridge.errors import DataError
from modbridge.spaces import Embeddings, Port

CHUNK = 8192  # rows of float64 at once: 64 MB at 1,024 dimensions


def unit(x: torch.Tensor) -> torch.Tensor:
    """n(x): vectors (..., D) divided by their Euclidean length. Raises DataError for a vector of length 0, which has
    no direction."""
    length = x.norm(dim=-1, keepdim=True)
    if bool((length == 0).any()):
        rows = (length.reshape(-1) == 0).nonzero().reshape(-1)
        raise DataError(
            f"{len(rows)} of {length.numel()} vectors have length 0 (the first is row {int(rows[0])}); only vectors "
            f"with a direction can be normalised. Look for empty items, or for too few different vectors to centre."
        )
    return torch.div(x, length)


def finite(x: torch.Tensor, *, chunk: int = CHUNK) -> torch.Tensor:
    """Which of the vectors (N, ...) hold neither NaN nor infinity, bool (N,) on the CPU, `chunk` rows at a time."""
    return torch.cat([torch.isfinite(part).flatten(1).all(1).cpu() for part in torch.split(x, chunk)])


def nothing(port: Port, device: torch.device | str = "cpu") -> Embeddings:
    """No vectors, of a port's shape: (0, D) or (0, n, D), float32."""
    dim = port.space.dim or 0
    shape = (0, dim) if port.tokens is None else (0, port.tokens, dim)
    mask = torch.zeros(shape[:2], dtype=torch.bool, device=device) if port.ragged else None
    return Embeddings(torch.zeros(shape, device=device), port, (), mask=mask)


def pooled(x: Embeddings) -> torch.Tensor:
    """One vector an item, (B, D): of sequences the mean of its tokens, else the vectors as they are. For looking at."""
    if x.port.tokens is None:
        return x.values
    if x.mask is None:
        return x.values.mean(dim=1)
    there = x.mask[..., None].to(x.values)
    return (x.values * there).sum(dim=1) / there.sum(dim=1)


def centre(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """n(n(x) - mean): unit vectors (B, D) seen from `mean` (D,), unit vectors again."""
    return unit(unit(x) - mean.to(x))


def to_text_frame(z: torch.Tensor, mean: torch.Tensor, radius: torch.Tensor | float) -> torch.Tensor:
    """n(radius n(z) + mean): centred vectors (B, D) put back among raw text vectors.

    `mean` (D,) and `radius` are those of the training texts (`Statistics`). Source: ours; the authors of C3 and
    Diffusion Bridge stay in the centred frame.
    """
    return unit(torch.as_tensor(radius).to(z) * unit(z) + mean.to(z))


@dataclass(frozen=True)
class Statistics:
    """Where a set of vectors lies once each has length 1.

    `mean`: float64 (D,), the mean of n(x). `radius`: float64 (), the mean length of n(x) - mean. `count`: how many.
    """

    mean: torch.Tensor
    radius: torch.Tensor
    count: int

    @classmethod
    def of(cls, x: torch.Tensor | Embeddings, *, chunk: int = CHUNK) -> Statistics:
        """The statistics of vectors (N, D) of any float type, in float64 on the CPU, `chunk` rows at a time: in one
        pass where their moments are known, else in two.

        Raises DataError if there are none.
        """
        known = None if isinstance(x, torch.Tensor) else x.moments
        x = x if isinstance(x, torch.Tensor) else x.values
        if len(x) == 0:
            raise DataError("statistics of 0 vectors: found an empty set, expected at least one vector.")
        if known is None:
            total = torch.zeros(x.shape[1], dtype=torch.float64)
            for start in range(0, len(x), chunk):
                total += unit(x[start : start + chunk].cpu().double()).sum(dim=0)
        mean = total / len(x) if known is None else known.mean
        length = torch.zeros((), dtype=torch.float64)
        for start in range(0, len(x), chunk):
            length += (unit(x[start : start + chunk].cpu().double()) - mean).norm(dim=1).sum()
        return cls(mean, length / len(x), len(x))
