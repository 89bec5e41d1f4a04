"""The authors' denoiser: a 1-D U-Net that reads the vector as a sequence of length D with one channel.

Source: mongeoroo/diffusion-bridge 46f4e64, whose net is `Unet1D` of denoising_diffusion_pytorch 2.0.17 (MIT) with two
changes: levels have `init_dim` times `dim_mults` channels, and the time embedding has 4 times `init_dim` (the library
takes both from `dim`, which here sets the sinusoid alone). Submodules carry the library's names, so that the authors'
checkpoints load.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

AT_ONCE = 16  # vectors on a CPU, without gradients: what more of them keep is larger than the caches, and slower


class RMSNorm(nn.Module):
    """(B, C, L): every position's channels at the norm sqrt(C), times a gain for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # Not F.normalize: its norm over a dimension that is not the last is many times slower on a CPU.
        length = x.square().sum(dim=1, keepdim=True).sqrt().clamp_min(1e-12)
        return x * (self.g * math.sqrt(x.shape[1])) / length


class Sinusoid(nn.Module):
    """Time steps (B,) -> (B, size): sines, then cosines, of rates from 1 down to 1/10000."""

    def __init__(self, size: int) -> None:
        super().__init__()
        half = size // 2
        rates = torch.exp(torch.arange(half, dtype=torch.float64) * (-math.log(10_000) / (half - 1)))
        self.register_buffer("rates", rates.float(), persistent=False)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        assert isinstance(self.rates, torch.Tensor)
        angles = t[:, None].float() * self.rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class Block(nn.Module):
    """Convolution, norm, FiLM by (scale, shift) where given, SiLU."""

    def __init__(self, channels: int, out: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.proj = nn.Conv1d(channels, out, 3, padding=1)
        self.norm = RMSNorm(out)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: torch.Tensor, film: tuple[torch.Tensor, ...] | None = None) -> torch.Tensor:
        x = self.norm(self.proj(x))
        if film is not None:
            scale, shift = film
            x = x * (scale + 1) + shift
        dropped: torch.Tensor = self.dropout(F.silu(x))
        return dropped


class ResnetBlock(nn.Module):
    """Two blocks beside a skip connection; the time step acts on the first."""

    def __init__(self, channels: int, out: int, time_width: int, dropout: float) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(time_width, 2 * out))
        self.block1 = Block(channels, out, dropout)
        self.block2 = Block(out, out)
        self.res_conv = nn.Conv1d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        film = self.mlp(temb)[:, :, None].chunk(2, dim=1)
        refined: torch.Tensor = self.block2(self.block1(x, film)) + self.res_conv(x)
        return refined


class LinearAttention(nn.Module):
    """Attention whose cost grows with L, not L^2: keys and values are summed up into one (head_dim, head_dim) table."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, head_dim**-0.5
        self.to_qkv = nn.Conv1d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv1d(heads * head_dim, channels, 1), RMSNorm(channels))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (part.unflatten(1, (self.heads, -1)) for part in self.to_qkv(x).chunk(3, dim=1))  # (B, h, d, L)
        table = k.softmax(dim=-1) @ v.transpose(-2, -1)
        read = table.transpose(-2, -1) @ (q.softmax(dim=-2) * self.scale)
        out: torch.Tensor = self.to_out(read.flatten(1, 2))
        return out


class Attention(nn.Module):
    """Plain attention over the L positions, without a norm at its end."""

    def __init__(self, channels: int, heads: int, head_dim: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Conv1d(channels, 3 * heads * head_dim, 1, bias=False)
        self.to_out = nn.Conv1d(heads * head_dim, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(1, (self.heads, -1)).transpose(-2, -1) for part in self.to_qkv(x).chunk(3, dim=1)
        )  # (B, h, L, d)
        read = F.scaled_dot_product_attention(q, k, v)
        out: torch.Tensor = self.to_out(read.transpose(-2, -1).flatten(1, 2))
        return out


class PreNorm(nn.Module):
    """fn(norm(x))."""

    def __init__(self, channels: int, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn
        self.norm = RMSNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fn(self.norm(x))
        return found


class Residual(nn.Module):
    """x + fn(x)."""

    def __init__(self, fn: nn.Module) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.fn(x) + x
        return found


class UNet1D(nn.Module):
    """(x_t (B, D), t int64 (B,) or (1,)) -> estimate of x_0 (B, D).

    D must divide by 2^(levels - 1) (the config checks it). Down: each level has two residual blocks and linear
    attention, then halves the length and widens (the last only widens). Up: the mirror image, each residual block also
    reading what its counterpart gave. `time_dim`: size of the sinusoid, even. 342.6 million multiply-adds a vector at
    D = 512.
    """

    def __init__(
        self,
        init_dim: int = 32,
        dim_mults: tuple[int, ...] = (1, 2, 4, 8),
        time_dim: int = 512,
        heads: int = 4,
        head_dim: int = 32,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        time_width = 4 * init_dim
        widths = [init_dim, *(init_dim * mult for mult in dim_mults)]
        levels = list(pairwise(widths))

        def resnet(channels: int, out: int) -> ResnetBlock:
            return ResnetBlock(channels, out, time_width, dropout)

        def linear_attention(channels: int) -> Residual:
            return Residual(PreNorm(channels, LinearAttention(channels, heads, head_dim)))

        self.init_conv = nn.Conv1d(1, init_dim, 7, padding=3)
        self.time_mlp = nn.Sequential(
            Sinusoid(time_dim), nn.Linear(time_dim, time_width), nn.GELU(), nn.Linear(time_width, time_width)
        )
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (channels, out) in enumerate(levels):
            last = level == len(levels) - 1
            narrower = nn.Conv1d(channels, out, 3, padding=1) if last else nn.Conv1d(channels, out, 4, 2, padding=1)
            parts = [resnet(channels, channels), resnet(channels, channels), linear_attention(channels), narrower]
            self.downs.append(nn.ModuleList(parts))
        bottom = widths[-1]
        self.mid_block1 = resnet(bottom, bottom)
        self.mid_attn = Residual(PreNorm(bottom, Attention(bottom, heads, head_dim)))
        self.mid_block2 = resnet(bottom, bottom)
        for level, (channels, out) in enumerate(reversed(levels)):
            wider: nn.Module = nn.Conv1d(out, channels, 3, padding=1)
            if level < len(levels) - 1:
                wider = nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), wider)
            both = out + channels
            self.ups.append(nn.ModuleList([resnet(both, out), resnet(both, out), linear_attention(out), wider]))
        self.final_res_block = resnet(2 * init_dim, init_dim)
        self.final_conv = nn.Conv1d(init_dim, 1, 1)

    @property
    def output(self) -> nn.Conv1d:
        """The last layer."""
        return self.final_conv

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        if x.device.type != "cpu" or torch.is_grad_enabled() or len(x) <= AT_ONCE:
            return self._estimate(x, t)
        parts = zip(torch.split(x, AT_ONCE), torch.split(t.expand(len(x)), AT_ONCE), strict=True)
        return torch.cat([self._estimate(*part) for part in parts])

    def _estimate(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        temb = self.time_mlp(t)
        hidden = stem = self.init_conv(x[:, None])
        skips: list[torch.Tensor] = []
        for level in self.downs:
            first, second, attention, narrower = level.children()
            hidden = first(hidden, temb)
            skips.append(hidden)
            hidden = attention(second(hidden, temb))
            skips.append(hidden)
            hidden = narrower(hidden)
        hidden = self.mid_block2(self.mid_attn(self.mid_block1(hidden, temb)), temb)
        for level in self.ups:
            first, second, attention, wider = level.children()
            hidden = first(torch.cat([hidden, skips.pop()], dim=1), temb)
            hidden = attention(second(torch.cat([hidden, skips.pop()], dim=1), temb))
            hidden = wider(hidden)
        hidden = self.final_res_block(torch.cat([hidden, stem], dim=1), temb)
        estimate: torch.Tensor = self.final_conv(hidden)[:, 0]
        return estimate
