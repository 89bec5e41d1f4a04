"""Config of the DDPM prior: everything known of it without weights."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from modbridge.config.kinds import PriorConfig
from modbridge.errors import PortError
from modbridge.spaces import Port


class ResidualMLPConfig(BaseModel):
    """The residual MLP of SEED (kaistmm/seed-pytorch), the precursor of Diffusion-Link: its width, depth and dropout.

    `width`: of the blocks; None means twice the vectors' dimension, as in SEED. `num_blocks` 3 and `dropout` 0 are
    SEED's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["residual_mlp"]
    width: int | None = Field(default=None, ge=2, multiple_of=2)
    num_blocks: int = Field(default=3, ge=1)
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)


class DDPMConfig(PriorConfig):
    """Config of the DDPM prior over vectors (Diffusion Bridge, CVPR 2025).

    The noise process, the objective and the sampler are those of the authors' code: `timesteps`, the cosine `schedule`
    (s = .008), x0 prediction weighted by SNR, and `renormalise`: whatever the network is given is first put back on the
    sphere of `radius`, in training and in sampling alike. `radius` is the norm of the vectors that the prior lives on;
    the bridge reads it here and scales to it.

    `min_snr_gamma` (ours; authors: none) bounds the weight SNR from above, by Hang et al. 2023. `ema_decay` (ours):
    None fits and uses the raw weights, which is what the authors infer with; a number keeps a moving average, updated
    every 10 steps, and uses that (the authors track one of .995 and never use it). `steps`, `batch_size`, `lr` and
    `lr_decay` are ours, for the residual MLP; the authors train their U-Net for 3,000,000 steps of 64 at a constant
    8e-5. Adam's betas (.9, .99) and `grad_clip` are the authors'.
    """

    denoiser: ResidualMLPConfig = Field(default_factory=lambda: ResidualMLPConfig(type="residual_mlp"))
    timesteps: int = Field(default=1000, ge=2)
    schedule: Literal["cosine", "linear", "scaled_linear"] = "cosine"
    radius: float = Field(default=5.0, gt=0.0)
    renormalise: bool = True
    min_snr_gamma: float | None = Field(default=None, gt=0.0)
    steps: int = Field(default=50_000, ge=1)
    batch_size: int = Field(default=256, ge=1)
    lr: float = Field(default=3e-4, gt=0.0)
    lr_decay: Literal["constant", "linear", "cosine"] = "cosine"
    grad_clip: float | None = Field(default=1.0, gt=0.0)
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)

    @field_validator("denoiser", mode="before")
    @classmethod
    def _word_alone(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value

    def check(self, clean: Port) -> None:
        """Raise PortError for sequences: this prior models single vectors."""
        if clean.tokens is not None:
            raise PortError(
                f"the prior {self.type!r} models single vectors (B, D); found {clean}. "
                f"Use an encoder with pooled vectors."
            )
