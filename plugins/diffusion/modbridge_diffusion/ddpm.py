"""The DDPM prior of Diffusion Bridge (CVPR 2025): where text vectors lie, learnt by denoising them.

Facts are those of the authors' code (`GaussianDiffusion1D_norm`, mongeoroo/diffusion-bridge 46f4e64), which differs
from the paper's equations: x_0 is predicted, and x_t is renormalised before the network sees it.
"""

from __future__ import annotations

import torch

from modbridge.interfaces import BuildContext, Fitting
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.training import Batches, train, warmup_then
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.denoisers import closed_forms
from modbridge_diffusion.diffusion_prior import EMA_EVERY, DiffusionPrior
from modbridge_diffusion.sampler import on_sphere


class DDPM(DiffusionPrior[DDPMConfig]):
    """A diffusion model over vectors (B, D) of norm `config.radius`."""

    def __init__(self, config: DDPMConfig, context: BuildContext) -> None:
        super().__init__(config, context, config.radius if config.renormalise else None)
        snr = self.schedule.snr
        self.loss_weight = snr if config.min_snr_gamma is None else snr.clamp_max(config.min_snr_gamma)

    def loss(self, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Batch mean of SNR(t) * mean squared error of the estimate, for x0 and noise (B, D), t int64 (B,).

        The network is given x_t at norm `radius`; the target stays x_0 itself. For one and the same input this
        weighting makes the loss that of predicting the noise (eq. 5 of the paper).
        """
        x = self.schedule.diffused(x0, t, noise)
        if self.config.renormalise:
            x = on_sphere(x, self.config.radius)
        errors = (self.estimate_in_training(x, t) - x0).square().mean(dim=1)
        return (errors * self.loss_weight[t]).mean()

    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        """Learn from clean vectors (N, D) of norm `radius`; `observed` is not looked at.

        Closed forms are computed at once, also where a network builds on one; then the network is trained.
        Raises DataError for fewer than two vectors, for NaN or infinity, and for another norm (where `renormalise` is
        on).
        """
        config = self.config
        x0 = self.checked(clean)
        if config.renormalise:
            self.require_norm(x0, config.radius, "radius", ", or set renormalise: false")
        for part in closed_forms(self.network):
            part.fit(x0)
        if not self.trainable:
            return
        hashes = Draw.of(clean.keys, fitting.seed, device=self.device).hashes
        averaged = self.average()

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            x = x0[rows.to(x0.device)].to(self.device)
            draw = Draw(hashes[rows.to(self.device)], fitting.seed, epoch)
            return self.loss(x, self.time_steps(draw), draw.named("noise").normal(x0.shape[1]))

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
            split=True,
        )
        self.take_average(averaged)
