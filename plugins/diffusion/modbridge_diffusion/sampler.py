"""The sampler of Diffusion Bridge: DDIM over a coarse grid, put back on the sphere before every network call.

Source: the authors' `ddim_sample_with_img` (mongeoroo/diffusion-bridge, 46f4e64). The state is deliberately not a valid
x_t of the noise process (its norm is the radius, not about sqrt(D)), so this walks directions; the numbers are pinned
by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch

from modbridge.errors import ConfigError
from modbridge.noise import Draw
from modbridge_diffusion.schedule import NoiseSchedule

Denoiser = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(x_t float (B, D), t int64 (1,) or (B,)) -> estimate of x_0 (B, D)."""


def time_grid(start_step: int, num_steps: int) -> list[int]:
    """The time steps visited, from `start_step` - 1 down to -1: `num_steps` + 1 numbers, the first `num_steps` of which
    are network calls. (600, 5) gives 599, 479, 359, 239, 119, -1.

    float32 spacing cut to integers, as the authors do it. Steps may repeat where `num_steps` exceeds `start_step`.
    """
    points: list[int] = torch.linspace(-1, start_step - 1, num_steps + 1).int().tolist()
    return points[::-1]


def on_sphere(x: torch.Tensor, radius: float) -> torch.Tensor:
    """Vectors (B, D) at the norm `radius`."""
    return torch.nn.functional.normalize(x, dim=-1) * radius


def ddim(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x: torch.Tensor,
    *,
    start_step: int,
    num_steps: int,
    radius: float | None,
    draw: Draw,
    eta: float = 0.0,
) -> Iterator[tuple[int, torch.Tensor]]:
    """(time step arrived at, state (B, D)) after each of `num_steps` steps; the last is (-1, estimate of x_0).

    `x` is taken as it is, without added noise, as if it stood at time step `start_step` - 1; a `start_step` of 0 gives
    nothing. `radius`: the norm that the state gets before each network call; None leaves it. `eta` > 0 adds DDIM's
    noise (Song et al. 2021, eq. 16), drawn per item from `draw`; the authors' code has it at 0. Raises ConfigError for
    numbers of steps that the noise process does not have.
    """
    if not 0 <= start_step <= len(schedule):
        raise ConfigError(f"start_step {start_step}: expected 0 to {len(schedule)}, the prior's number of timesteps.")
    if num_steps < 1:
        raise ConfigError(f"num_steps {num_steps}: expected at least 1 (start_step: 0 switches refining off).")
    if start_step == 0:
        return
    grid = time_grid(start_step, num_steps)
    for now, after in pairwise(grid):
        if radius is not None:
            x = on_sphere(x, radius)
        x0 = denoiser(x, torch.tensor([now], device=x.device))
        if after < 0:
            yield after, x0
            return
        noise = (x - schedule.signal[now] * x0) / schedule.noise[now]
        left, left_after = schedule.alpha_bar[now], schedule.alpha_bar[after]
        if eta > 0:
            sigma = eta * ((1 - left / left_after) * (1 - left_after) / (1 - left)).sqrt()
            fresh = draw.named(f"{draw.purpose}/ddim {now}").normal(x.shape[1])
            x = schedule.signal[after] * x0 + (1 - left_after - sigma**2).clamp_min(0).sqrt() * noise + sigma * fresh
        else:
            x = schedule.signal[after] * x0 + schedule.noise[after] * noise
        yield after, x
