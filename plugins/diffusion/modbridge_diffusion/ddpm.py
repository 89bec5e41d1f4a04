"""The DDPM prior of Diffusion Bridge (CVPR 2025): where text vectors lie, learnt by denoising them.

Facts are those of the authors' code (`GaussianDiffusion1D_norm`, mongeoroo/diffusion-bridge 46f4e64), which differs
from the paper's equations: x_0 is predicted, and x_t is renormalised before the network sees it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modbridge.errors import ConfigError, DataError
from modbridge.interfaces import BuildContext, Fitting, Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.training import Batches, derived_seed, train, warmup_then
from modbridge_diffusion.closed_form import Empirical
from modbridge_diffusion.compiling import compile_in_place, compiled_call
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.denoisers import build_denoiser, closed_forms
from modbridge_diffusion.sampler import ddim, on_sphere
from modbridge_diffusion.schedule import NoiseSchedule

EMA_EVERY = 10  # as the authors update theirs


class DDPM(Prior[DDPMConfig]):
    """A diffusion model over vectors (B, D) of norm `config.radius`."""

    def __init__(self, config: DDPMConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.schedule = NoiseSchedule.named(config.schedule, config.timesteps, context.device)
        snr = self.schedule.snr
        self.loss_weight = snr if config.min_snr_gamma is None else snr.clamp_max(config.min_snr_gamma)
        radius = config.radius if config.renormalise else None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("ddpm", context.seed))
            self.network = build_denoiser(config.denoiser, context.dim("text"), self.schedule, radius)
        self.network.to(context.device).eval()
        if config.compile:
            compile_in_place(self.network)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"network": self.network}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if isinstance(self.network, Empirical):  # its size is that of the training set
            self.network.hold(len(tensors.get("network.vectors", ())))
        super().load_tensors(tensors)

    def estimate(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The denoiser's x_0 (B, D) for vectors (B, D) at the time steps `t`, int64 (B,) or (1,)."""
        with compiled_call() if self.config.compile else nullcontext():
            found: torch.Tensor = self.network(x, t)
        return found

    def loss(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Batch mean of SNR(t) * mean squared error of the estimate, for x0 and noise (B, D), t int64 (B,).

        The network is given x_t at norm `radius`; the target stays x_0 itself. For one and the same input this
        weighting makes the loss that of predicting the noise (eq. 5 of the paper).
        """
        x = self.schedule.diffused(x0, t, noise)
        if self.config.renormalise:
            x = on_sphere(x, self.config.radius)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            estimate = self.estimate(x, t)
        errors = (estimate.float() - x0).square().mean(dim=1)
        return (errors * self.loss_weight[t]).mean()

    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        """Learn from clean vectors (N, D) of norm `radius`; `observed` is not looked at.

        Closed forms are computed at once, also where a network builds on one; then the network is trained.
        Raises DataError for fewer than two vectors, for NaN or infinity, and for another norm (where `renormalise` is
        on).
        """
        config = self.config
        x0 = self._checked(clean)
        for part in closed_forms(self.network):
            part.fit(x0)
        if not any(parameter.requires_grad for parameter in self.network.parameters()):
            return
        hashes = Draw.of(clean.keys, fitting.seed, device=self.device).hashes
        averaged = None
        if config.ema_decay is not None:
            averaged = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))  # type: ignore[no-untyped-call]

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            rows = rows.to(self.device)
            draw = Draw(hashes[rows], fitting.seed, epoch)
            t = (draw.named("time step").uniform(1)[:, 0] * config.timesteps).long().clamp_max(config.timesteps - 1)
            return self.loss(x0[rows], t, draw.named("noise").normal(x0.shape[1]))

        train(
            "prior",
            modules=self.modules(),
            optimiser=torch.optim.Adam(self.network.parameters(), lr=config.lr, betas=(0.9, 0.99)),
            batches=Batches(len(clean), config.batch_size, fitting.seed),
            steps=config.steps,
            loss=loss,
            fitting=fitting,
            schedule=warmup_then(config.lr_decay, 0, config.steps),
            clip=config.grad_clip,
            averaged=averaged,
            average_every=EMA_EVERY,
        )
        if averaged is not None and int(averaged.n_averaged) > 0:
            self.network.load_state_dict(averaged.module.state_dict())

    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw, eta: float = 0.0) -> torch.Tensor:
        """Vectors (B, D) walked from the noise level `start_step` to clean ones in `num_steps` network calls; 0 changes
        nothing. The result has the network's own norm, near `radius`. See `modbridge_diffusion.sampler.ddim`."""
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
            radius=self.config.radius if self.config.renormalise else None,
            draw=draw,
            eta=eta,
        )

    def diffuse(self, x: torch.Tensor, *, step: int, draw: Draw) -> torch.Tensor:
        """Clean vectors (B, D) with the noise of time step `step`; 0 changes nothing.

        The index is `step` itself, although `refine(start_step=step)` begins one below: so it is in the authors' code.
        Raises ConfigError beyond the last time step.
        """
        if not 0 <= step < self.config.timesteps:
            raise ConfigError(
                f"cannot put noise at step {step}: expected 0 to {self.config.timesteps - 1}, the last time step."
            )
        if step == 0:
            return x
        noise = draw.named(f"{draw.purpose}/diffuse").normal(x.shape[1])
        return self.schedule.diffused(x, torch.tensor([step], device=x.device), noise)

    def _checked(self, clean: Embeddings) -> torch.Tensor:
        """The training vectors, float32 on the device."""
        self.config.check(clean.port)
        if len(clean) < 2:
            raise DataError(f"the prior {self.config.type!r} learns from at least two vectors; found {len(clean)}.")
        x0 = clean.values.to(self.device, torch.float32)
        if x0.shape[1] != self.context.dim("text"):
            raise DataError(f"the prior was built for {self.context.dim('text')} dimensions; found {x0.shape[1]}.")
        norms = torch.linalg.vector_norm(x0, dim=1)
        whole = torch.isfinite(norms)
        if not whole.all():
            bad = [clean.keys[i] for i in torch.nonzero(~whole)[:, 0].tolist()]
            raise DataError(
                f"the vectors of {', '.join(bad[:3])} hold NaN or infinity ({len(bad)} of {len(clean)}). "
                f"Embed them anew."
            )
        radius = self.config.radius
        if self.config.renormalise and ((norms - radius).abs() > 1e-2 * radius).any():
            raise DataError(
                f"this prior lives on the sphere of radius {radius:g}, and its bridge scales vectors to it; found "
                f"norms from {norms.min():.3g} to {norms.max():.3g}. Scale to prior.radius, or set renormalise: false."
            )
        return x0
