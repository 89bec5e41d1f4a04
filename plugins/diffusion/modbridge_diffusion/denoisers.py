"""From a denoiser's config to the module: (x_t (B, D), t int64 (B,) or (1,)) -> estimate of x_0 (B, D)."""

from __future__ import annotations

import torch
from torch import nn

from modbridge_diffusion.closed_form import ClosedForm, Empirical, Gaussian
from modbridge_diffusion.denoiser_config import (
    AnyDenoiser,
    EmpiricalConfig,
    GaussianConfig,
    PriorTransformerConfig,
    ResidualMLPConfig,
    UNet1DConfig,
)
from modbridge_diffusion.residual_mlp import ResidualMLP, zero
from modbridge_diffusion.schedule import NoiseSchedule
from modbridge_diffusion.unet1d import UNet1D


class OnClosedForm(nn.Module):
    """A closed form plus a network that learns what it leaves over (ours). The network's last layer starts at zero, so
    the whole starts at the closed form."""

    def __init__(self, base: ClosedForm, network: nn.Module) -> None:
        super().__init__()
        self.base, self.network = base, network
        output = network.output
        assert isinstance(output, nn.Linear | nn.Conv1d)
        zero(output)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):  # a closed form is exact, or of no use
            base = self.base(x, t)
        estimate: torch.Tensor = base + self.network(x, t)
        return estimate


def build_denoiser(config: AnyDenoiser, dim: int, schedule: NoiseSchedule, radius: float | None) -> nn.Module:
    """The denoiser of vectors of `dim` numbers. `radius`: the norm that its inputs are put at; None leaves them.

    Raises PortError where it cannot work at this dimension.
    """
    config.check_dim(dim)
    if isinstance(config, EmpiricalConfig):
        return Empirical(dim, schedule, radius)
    if isinstance(config, GaussianConfig):
        return Gaussian(dim, schedule, radius, config.rank, config.shrinkage)
    network = _network(config, dim)
    if config.base is None:
        return network
    return OnClosedForm(Gaussian(dim, schedule, radius, config.base.rank, config.base.shrinkage), network)


def _network(config: UNet1DConfig | ResidualMLPConfig | PriorTransformerConfig, dim: int) -> nn.Module:
    if isinstance(config, UNet1DConfig):
        return UNet1D(
            config.init_dim, config.dim_mults, config.time_dim or dim, config.heads, config.head_dim, config.dropout
        )
    if isinstance(config, ResidualMLPConfig):
        return ResidualMLP(dim, config.width, config.num_blocks, config.dropout)
    from modbridge_diffusion.prior_transformer import TransformerDenoiser  # loads diffusers

    return TransformerDenoiser(dim, config.num_layers, config.heads, config.head_dim, config.dropout)


def closed_forms(denoiser: nn.Module) -> list[ClosedForm]:
    """The parts of a denoiser that are computed from the clean vectors, not trained."""
    return [module for module in denoiser.modules() if isinstance(module, ClosedForm)]
