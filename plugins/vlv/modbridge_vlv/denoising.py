"""The loss of a diffusion model: latents noised, and what its scheduler says is to be predicted of them.

The three targets, with x = a z + s e (z the latents, e the noise, a^2 + s^2 = 1): epsilon is e, sample is z, and
v_prediction is a e - s z (Salimans and Ho 2022).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DDPMScheduler

from modbridge.noise import Draw
from modbridge_vlv.bundle import Bundle


@dataclass(frozen=True)
class Task:
    """Noised latents (B, C, h, w), their time steps (B,), and what the U-Net is to say of them."""

    noised: torch.Tensor
    steps: torch.Tensor
    target: torch.Tensor


class Noising:
    """Makes tasks of latents, as a model's own scheduler prescribes. `favour`: "uniform" or "high" noise."""

    def __init__(self, scheduler: Any, favour: str) -> None:
        # Whatever solver a repository names for sampling, noise is added and targets are made by the same schedule.
        schedule: Any = DDPMScheduler
        self._schedule: Any = schedule.from_config(scheduler.config)
        self._favour = favour

    def task(self, latents: torch.Tensor, draw: Draw) -> Task:
        """One task an item; its step and noise are drawn from `draw`."""
        schedule = self._schedule
        total = int(schedule.config.num_train_timesteps)
        u = draw.named("time step").uniform(1)[:, 0]
        steps = ((u.sqrt() if self._favour == "high" else u) * total).long().clamp(max=total - 1)
        noise = draw.named("noise").normal(latents[0].numel()).view_as(latents)
        kind = schedule.config.prediction_type
        if kind == "epsilon":
            target = noise
        else:
            target = latents if kind == "sample" else schedule.get_velocity(latents, noise, steps)
        return Task(schedule.add_noise(latents, noise, steps), steps, target)


def denoising_loss(bundle: Bundle, task: Task, context: torch.Tensor) -> torch.Tensor:
    """The mean square error (B,) of each item's prediction, told of it by `context` (B, n, D)."""
    found = bundle.unet(task.noised, task.steps, encoder_hidden_states=context).sample
    loss: torch.Tensor = (found.float() - task.target).square().flatten(1).mean(dim=1)
    return loss
