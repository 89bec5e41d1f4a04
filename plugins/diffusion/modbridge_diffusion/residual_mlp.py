"""The residual-MLP denoiser: SEED's network (kaistmm/seed-pytorch, 0b00262), on which Diffusion-Link builds."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import nn

LayerT = TypeVar("LayerT", bound=nn.Linear | nn.Conv1d)


class ResidualBlock(nn.Module):
    """x + second(first(x) + time(temb)), each linear layer behind a SiLU; the last one starts at zero."""

    def __init__(self, width: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.SiLU(), nn.Linear(width, width))
        self.time = nn.Sequential(nn.SiLU(), nn.Linear(time_width, width))
        self.second = nn.Sequential(
            nn.LayerNorm(width, eps=1e-6), nn.SiLU(), nn.Dropout(dropout), zero(nn.Linear(width, width))
        )

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        refined: torch.Tensor = x + self.second(self.first(x) + self.time(temb))
        return refined


class ResidualMLP(nn.Module):
    """(x_t (B, D), t int64 (B,) or (1,)) -> estimate of x_0 (B, D). Gives exactly 0 before it is trained.

    `width`: of the blocks, even (None: 2 D). The time embedding has width D, its sinusoid has the blocks' width.
    9.7 million parameters at D = 512.
    """

    def __init__(self, dim: int, width: int | None = None, num_blocks: int = 3, dropout: float = 0.0) -> None:
        super().__init__()
        width = width or 2 * dim
        rates = torch.exp(torch.arange(width // 2, dtype=torch.float64) * (-math.log(10_000) / (width // 2)))
        self.register_buffer("rates", rates.float(), persistent=False)
        self.enter = nn.Linear(dim, width)
        self.time = nn.Sequential(nn.Linear(width, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.blocks = nn.ModuleList(ResidualBlock(width, dim, dropout) for _ in range(num_blocks))
        self.leave = nn.Sequential(nn.LayerNorm(width, eps=1e-6), nn.SiLU(), zero(nn.Linear(width, dim)))

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        layer = self.leave[-1]
        assert isinstance(layer, nn.Linear)
        return layer

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.rates, torch.Tensor)
        angles = t[:, None].float() * self.rates
        temb = self.time(torch.cat([angles.cos(), angles.sin()], dim=1))
        hidden = self.enter(x)
        for block in self.blocks:
            hidden = block(hidden, temb)
        estimate: torch.Tensor = self.leave(hidden)
        return estimate


def zero(layer: LayerT) -> LayerT:
    """The layer with weights and bias at zero, so that it gives zero."""
    assert layer.bias is not None
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
