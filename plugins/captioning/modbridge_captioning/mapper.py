"""Mappers: a vector into the prefix that a language model writes on from."""

from __future__ import annotations

import torch

from modbridge_captioning.config import MlpMapper


class TanhMapper(torch.nn.Module):
    """Linear, Tanh, Linear (ClipCap; unchanged in C3 and Diffusion Bridge).

    (B, `dim`) -> (B, `length`, `width`): `length` input embeddings of a language model of that width.
    """

    def __init__(self, dim: int, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(dim, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, length * width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prefix: torch.Tensor = self.layers(x)
        return prefix.view(-1, self.length, self.width)


def build_mapper(config: MlpMapper, *, dim: int, length: int, width: int) -> torch.nn.Module:
    """The mapper that `config` describes, with weights from torch's current random state."""
    return TanhMapper(dim, length, width, config.hidden or max(1, length * width // 2))
