"""Config of the DDPM prior: everything known of it without weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import PriorConfig
from modbridge.spaces import Port
from modbridge_diffusion.denoiser_config import CLOSED_FORMS, AnyDenoiser, ResidualMLPConfig


class DDPMConfig(PriorConfig):
    """Config of the DDPM prior over vectors (Diffusion Bridge, CVPR 2025).

    The noise process, the objective (x_0 prediction weighted by SNR) and the sampler are those of the authors' code.
    The authors train `denoiser: unet1d` for `steps: 3000000` of `batch_size: 64` at `lr: 8e-5`, `lr_decay: constant`,
    `grad_clip: 1.0`, in float16; they track a moving average (decay .995, every 10 steps) but use the raw weights. The
    defaults here are ours, for the residual MLP.
    """

    training_fields: ClassVar[tuple[str, ...]] = (
        "min_snr_gamma", "steps", "batch_size", "lr", "lr_decay", "grad_clip", "ema_decay", "precision",
    )  # fmt: skip

    denoiser: AnyDenoiser = Field(default_factory=lambda: ResidualMLPConfig(type="residual_mlp"))
    """What guesses the clean vector: `unet1d` (authors), `residual_mlp`, `prior_transformer`, or without any training
    `gaussian` or `empirical`; with these, fields that only say how to train are passed over, so that the word alone
    can be changed. The word alone will do."""
    timesteps: int = Field(default=1000, ge=2)
    """Noise levels T (authors: 1000)."""
    schedule: Literal["cosine", "linear", "scaled_linear"] = "cosine"
    """How fast noise grows with the time step (authors: cosine, s = .008)."""
    radius: float = Field(default=5.0, gt=0.0)
    """The norm of the vectors that the prior lives on; the bridge reads it here and scales to it (authors: 5)."""
    renormalise: bool = True
    """Whatever the denoiser is given is first put back on the sphere of `radius`, in training and in sampling alike
    (authors). Off, the prior takes vectors of any norm."""
    min_snr_gamma: float | None = Field(default=None, gt=0.0)
    """Bounds the loss's SNR weight from above, by Hang et al. 2023 (ours); null leaves it unbounded (authors)."""
    steps: int = Field(default=50_000, ge=1)
    """Training steps (ours)."""
    batch_size: int = Field(default=256, ge=1)
    """Vectors in a training step (ours)."""
    lr: float = Field(default=3e-4, gt=0.0)
    """Adam's learning rate (ours), with betas .9 and .99 (authors)."""
    lr_decay: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls to zero over the training (ours)."""
    grad_clip: float | None = Field(default=1.0, gt=0.0)
    """Bound of the gradient's norm (authors: 1); null leaves it."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """null fits and uses the raw weights, as the authors do; a number keeps a moving average, updated every 10 steps,
    and uses that (ours)."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which the network computes in training (weights, loss and inference stay float32). bfloat16 pays on GPUs; the
    authors train in float16."""
    compile: Annotated[bool, Affects("nothing")] = False
    """Run the network through torch.compile, in training and in refining: the first steps take longer, the rest less.
    Needs a C++ compiler, on a GPU Triton."""

    @model_validator(mode="before")
    @classmethod
    def _nothing_to_train(cls, values: Any) -> Any:
        """With a closed form, what only says how to train is passed over: it decides nothing, so it enters no key."""
        given = values.get("denoiser") if isinstance(values, dict) else None
        word = given.get("type") if isinstance(given, dict) else getattr(given, "type", given)
        if word not in CLOSED_FORMS:
            return values
        idle = (*cls.training_fields, "compile")
        return {name: value for name, value in values.items() if name not in idle}

    def check(self, clean: Port) -> None:
        """Raise PortError for sequences (this prior models single vectors), and for a dimension that the denoiser
        cannot work at."""
        clean.require_vectors(f"the prior {self.type!r}")
        if clean.space.dim is not None:
            self.denoiser.check_dim(clean.space.dim)
