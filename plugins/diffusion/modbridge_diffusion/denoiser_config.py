"""Configs of the denoisers: what guesses the clean vector from a noisy one.

Three are networks and are trained; two are closed forms and are computed from the vectors at once.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from modbridge.errors import PortError


class DenoiserConfig(BaseModel):
    """What all denoisers have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    """The word that names it."""

    def check_dim(self, dim: int) -> None:
        """Raise PortError where vectors of `dim` numbers cannot be denoised by it."""


class GaussianConfig(DenoiserConfig):
    """The posterior mean E[x_0 | x_t] under the normal law fitted to the clean vectors: closed form, no training."""

    type: Literal["gaussian"]
    rank: int | None = Field(default=None, ge=1)
    """How many principal directions keep a variance of their own; the rest share one, so that the total stays (as in
    probabilistic PCA, Tipping and Bishop 1999). null keeps all."""
    shrinkage: float = Field(default=0.0, ge=0.0, le=1.0)
    """How far every variance is drawn to their common mean (ours): 0 fits the vectors as they are, 1 gives a round
    law."""

    def check_dim(self, dim: int) -> None:
        if self.rank is not None and self.rank > dim:
            raise PortError(f"the denoiser 'gaussian' has rank {self.rank}, but the vectors have {dim} dimensions.")


class EmpiricalConfig(DenoiserConfig):
    """The posterior mean E[x_0 | x_t] where x_0 is one of the training vectors: a softmax over them, closed form.

    The artefact keeps every training vector (float32): as large as the training set, and as private.
    """

    type: Literal["empirical"]


def named(word: Any) -> Any:
    """A bare word stands for the block that holds nothing else."""
    return {"type": word} if isinstance(word, str) else word


class NetworkConfig(DenoiserConfig):
    """What the trained denoisers have in common."""

    base: Annotated[
        GaussianConfig | None,
        BeforeValidator(named, json_schema_input_type=GaussianConfig | Literal["gaussian"] | None),
    ] = None
    """`gaussian`: the network learns only what the closed-form Gaussian leaves over, and starts at zero, hence exactly
    at the Gaussian (ours). null: it learns the whole (authors)."""

    def check_dim(self, dim: int) -> None:
        if self.base is not None:
            self.base.check_dim(dim)


class UNet1DConfig(NetworkConfig):
    """The authors' 1-D U-Net over the vector as a sequence with one channel; 4,037,313 parameters at D = 512.

    Defaults are the authors'. The dimension must divide by 2 for every level but the last.
    """

    type: Literal["unet1d"]
    init_dim: int = Field(default=32, ge=1)
    """Channels of the stem, and the unit of `dim_mults`."""
    dim_mults: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(1, 2, 4, 8), min_length=1)
    """Channels of each level, in units of `init_dim`."""
    time_dim: int | None = Field(default=None, ge=4, multiple_of=2)
    """Size of the time step's sinusoid; null means the vectors' dimension (authors: 512)."""
    heads: int = Field(default=4, ge=1)
    """Attention heads, at every level."""
    head_dim: int = Field(default=32, ge=1)
    """Channels of one head."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """After the first convolution of every residual block."""

    def check_dim(self, dim: int) -> None:
        super().check_dim(dim)
        divisor = 2 ** (len(self.dim_mults) - 1)
        if dim % divisor:
            raise PortError(
                f"the denoiser 'unet1d' halves the vectors {len(self.dim_mults) - 1} times, so their dimension must "
                f"divide by {divisor}; found {dim}. Give fewer dim_mults, or use residual_mlp."
            )
        if self.time_dim is None and (dim < 4 or dim % 2):
            raise PortError(
                f"the denoiser 'unet1d' needs an even time_dim of 4 or more; the vectors' dimension is {dim}."
            )


class ResidualMLPConfig(NetworkConfig):
    """The residual MLP of SEED (kaistmm/seed-pytorch), the precursor of Diffusion-Link.

    9.7 million parameters at D = 512, and a thirty-fifth of the U-Net's computation.
    """

    type: Literal["residual_mlp"]
    width: int | None = Field(default=None, ge=2, multiple_of=2)
    """Of the blocks; null means twice the vectors' dimension, as in SEED."""
    num_blocks: int = Field(default=3, ge=1)
    """Residual blocks (SEED: 3)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Inside every block (SEED: 0)."""


class PriorTransformerConfig(NetworkConfig):
    """unCLIP's prior as diffusers has it (`PriorTransformer`), without a text to condition on. The sizes are ours;
    unCLIP's own has 20 layers of 32 heads of 64."""

    type: Literal["prior_transformer"]
    num_layers: int = Field(default=4, ge=1)
    """Transformer blocks."""
    heads: int = Field(default=8, ge=1)
    """Attention heads."""
    head_dim: int = Field(default=64, ge=2, multiple_of=2)
    """Channels of one head; `heads` times this is the width."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """In attention and feed-forward layers."""


CLOSED_FORMS = ("gaussian", "empirical")
TYPES = ("unet1d", "residual_mlp", "prior_transformer", *CLOSED_FORMS)


def _known(value: Any) -> Any:
    """The block, after saying in words what is wrong with its `type`."""
    block = named(value)
    if not isinstance(block, DenoiserConfig) and (not isinstance(block, dict) or block.get("type") not in TYPES):
        raise ValueError(f"expected a denoiser of type {', '.join(TYPES[:-1])} or {TYPES[-1]}")
    return block


_Block = Annotated[
    UNet1DConfig | ResidualMLPConfig | PriorTransformerConfig | GaussianConfig | EmpiricalConfig,
    Field(discriminator="type"),
]
_Word = Literal["unet1d", "residual_mlp", "prior_transformer", "gaussian", "empirical"]
AnyDenoiser = Annotated[_Block, BeforeValidator(_known, json_schema_input_type=_Block | _Word)]
"""The config of a denoiser, told apart by `type`; the word alone will do."""
