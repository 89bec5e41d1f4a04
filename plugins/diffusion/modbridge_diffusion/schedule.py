"""The forward noise process: how much of a clean vector is left at each time step."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch


def betas(name: str, timesteps: int) -> torch.Tensor:
    """The noise added at each step, float64 (T,), clipped to [0, .999].

    "cosine": Nichol and Dhariwal 2021, eq. 17, s = .008. "linear": Ho et al. 2020, 1e-4 to .02. "scaled_linear": linear
    in the square root (latent diffusion). The latter two are stretched by 1000 / T, so that fewer steps end as noisy.
    """
    if name == "cosine":
        t = torch.linspace(0, 1, timesteps + 1, dtype=torch.float64)
        left = torch.cos((t + 0.008) / 1.008 * (math.pi / 2)) ** 2
        found = 1 - left[1:] / left[:-1]
    else:
        first, last = 1e-4, 0.02
        if name == "linear":
            found = torch.linspace(first, last, timesteps, dtype=torch.float64)
        else:
            found = torch.linspace(first**0.5, last**0.5, timesteps, dtype=torch.float64) ** 2
        found = found * (1000 / timesteps)
    return found.clamp(0, 0.999)


@dataclass(frozen=True, slots=True)
class NoiseSchedule:
    """q(x_t | x_0) = N(signal_t x_0, noise_t^2 I), with signal^2 + noise^2 = 1. Tensors float32 (T,); `alpha_bar` is
    signal^2, `snr` is signal^2 / noise^2 (computed in float64)."""

    alpha_bar: torch.Tensor
    signal: torch.Tensor
    noise: torch.Tensor
    snr: torch.Tensor

    @classmethod
    def named(cls, name: str, timesteps: int, device: torch.device | str = "cpu") -> NoiseSchedule:
        alpha_bar = torch.cumprod(1 - betas(name, timesteps), dim=0)
        exact = (alpha_bar, alpha_bar.sqrt(), (1 - alpha_bar).sqrt(), alpha_bar / (1 - alpha_bar))
        return cls(*(values.to(device, torch.float32) for values in exact))

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def diffused(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """x_t of clean vectors (B, D), for time steps int64 (B,) or (1,) and standard normal noise (B, D)."""
        return self.signal[t, None] * x0 + self.noise[t, None] * noise
