"""What the diffusion priors have in common: noise process, denoiser, sampler, and the checks before training.

They differ in what they learn from and in their loss: `ddpm` (texts alone) and `link_ddpm` (texts and pairs).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import TypeVar

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modbridge import room
from modbridge.errors import ConfigError, DataError
from modbridge.interfaces import BuildContext, Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.training import derived_seed
from modbridge_diffusion.closed_form import Empirical
from modbridge_diffusion.compiling import compile_in_place, compiled_call
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.denoisers import build_denoiser
from modbridge_diffusion.link_ddpm_config import LinkDDPMConfig
from modbridge_diffusion.sampler import ddim
from modbridge_diffusion.schedule import NoiseSchedule

EMA_EVERY = 10  # as the authors of Diffusion Bridge update theirs

DiffusionConfigT = TypeVar("DiffusionConfigT", bound=DDPMConfig | LinkDDPMConfig)


class DiffusionPrior(Prior[DiffusionConfigT]):
    """A denoiser over vectors (B, D) and the sampler that walks by it. `radius`: the norm that the denoiser's inputs
    are put at; None leaves them as the noise process gives them."""

    def __init__(self, config: DiffusionConfigT, context: BuildContext, radius: float | None) -> None:
        super().__init__(config, context)
        self.radius = radius
        self.schedule = NoiseSchedule.named(config.schedule, config.timesteps, context.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed(config.type, context.seed))
            self.network = self.built()
        self.network.to(context.device).eval()
        if config.compile:
            compile_in_place(self.network)

    def built(self) -> torch.nn.Module:
        """The denoiser, at its first weights."""
        return build_denoiser(self.config.denoiser, self.context.dim("text"), self.schedule, self.radius)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"network": self.network}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if isinstance(self.network, Empirical):  # its size is that of the training set
            self.network.hold(len(tensors.get("network.vectors", ())))
        super().load_tensors(tensors)

    @property
    def trainable(self) -> bool:
        return any(parameter.requires_grad for parameter in self.network.parameters())

    def estimate(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The denoiser's x_0 (B, D) for vectors (B, D) at the time steps `t`, int64 (B,) or (1,)."""
        with compiled_call() if self.config.compile else nullcontext():
            found: torch.Tensor = self.network(x, t)
        return found

    def estimate_in_training(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """`estimate` in the precision of training, float32 (B, D)."""
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            estimate = self.estimate(x, t)
        return estimate.float()

    def time_steps(self, draw: Draw) -> torch.Tensor:
        """A time step for each item, uniform over all: int64 (B,)."""
        last = self.config.timesteps - 1
        return (draw.named("time step").uniform(1)[:, 0] * self.config.timesteps).long().clamp_max(last)

    def average(self) -> AveragedModel | None:
        """The moving average that `ema_decay` asks for."""
        if self.config.ema_decay is None:
            return None
        return AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.config.ema_decay))  # type: ignore[no-untyped-call]

    def take_average(self, averaged: AveragedModel | None) -> None:
        """Put the moving average in the network's place, if there is one."""
        if averaged is not None and int(averaged.n_averaged) > 0:
            self.network.load_state_dict(averaged.module.state_dict())

    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw, eta: float = 0.0) -> torch.Tensor:
        """Vectors (B, D) walked from the noise level `start_step` to clean ones in `num_steps` network calls; 0 changes
        nothing. The result has the network's own norm. See `modbridge_diffusion.sampler.ddim`."""
        for _, state in self.trajectory(x, start_step=start_step, num_steps=num_steps, draw=draw, eta=eta):
            x = state
        return x

    def trajectory(
        self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw, eta: float = 0.0
    ) -> Iterator[tuple[int, torch.Tensor]]:
        """The states that `refine` goes through: (time step arrived at, vectors (B, D)), the last at -1."""
        return ddim(
            self.estimate,
            self.schedule,
            x,
            start_step=start_step,
            num_steps=num_steps,
            radius=self.radius,
            draw=draw,
            eta=eta,
        )

    def diffuse(self, x: torch.Tensor, *, step: int, draw: Draw) -> torch.Tensor:
        """Clean vectors (B, D) with the noise of time step `step`; 0 changes nothing.

        The index is `step` itself, although `refine(start_step=step)` begins one below: so it is in the code of
        Diffusion Bridge's authors. Raises ConfigError beyond the last time step.
        """
        if not 0 <= step < self.config.timesteps:
            raise ConfigError(
                f"cannot put noise at step {step}: expected 0 to {self.config.timesteps - 1}, the last time step."
            )
        if step == 0:
            return x
        noise = draw.named(f"{draw.purpose}/diffuse").normal(x.shape[1])
        return self.schedule.diffused(x, torch.tensor([step], device=x.device), noise)

    def checked(self, clean: Embeddings) -> torch.Tensor:
        """The training vectors (N, D), float32, on the device where there is room for them. Raises DataError for fewer
        than two, for another dimension, and for NaN or infinity."""
        self.config.check(clean.port)
        if len(clean) < 2:
            raise DataError(f"the prior {self.config.type!r} learns from at least two vectors; found {len(clean)}.")
        return self.whole(clean)

    def whole(self, vectors: Embeddings) -> torch.Tensor:
        """Vectors (N, D), float32, on the device where there is room for them. Raises DataError for another dimension,
        and for NaN or infinity."""
        x = vectors.values.to(torch.float32)
        if room.on_device(x.nbytes, self.device):
            x = x.to(self.device)
        if x.shape[1] != self.context.dim("text"):
            raise DataError(f"the prior was built for {self.context.dim('text')} dimensions; found {x.shape[1]}.")
        whole = torch.isfinite(torch.linalg.vector_norm(x, dim=1))
        if not whole.all():
            bad = [vectors.keys[i] for i in torch.nonzero(~whole)[:, 0].tolist()]
            raise DataError(
                f"the vectors of {', '.join(bad[:3])} hold NaN or infinity ({len(bad)} of {len(vectors)}). "
                f"Embed them anew."
            )
        return x

    def require_norm(self, x: torch.Tensor, expected: float, name: str, otherwise: str = "") -> None:
        """Raise DataError for vectors (N, D) that were not scaled as this prior's config says."""
        norms = torch.linalg.vector_norm(x, dim=1)
        if ((norms - expected).abs() > 1e-2 * expected).any():
            raise DataError(
                f"this prior lives on the sphere of radius {expected:g}, and its bridge scales vectors to it; found "
                f"norms from {norms.min():.3g} to {norms.max():.3g}. Scale to prior.{name}{otherwise}."
            )
