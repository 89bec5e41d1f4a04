"""Config of Diffusion-Link's prior: everything known of it without weights."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import PriorConfig
from modbridge.spaces import Port
from modbridge_diffusion.denoiser_config import CLOSED_FORMS, AnyDenoiser, ResidualMLPConfig


class LinkDDPMConfig(PriorConfig):
    """Config of the diffusion model of Diffusion-Link (arXiv 2510.11330, ICASSP 2026): texts and their paired source
    vectors are both noised, and from either the text is to be guessed.

    The paper's structure (three residual MLP blocks, noise on both sides, a cross-sample and a topology loss) is known
    from its abstract and the authors' overview figure; its numbers are not. [SEED] marks those of the same first
    author's precursor (kaistmm/seed-pytorch), "ours" those that no source fixes.
    """

    training_fields: ClassVar[tuple[str, ...]] = (
        "loss", "cross_sample", "topology", "shared_noise", "mix", "steps", "batch_size", "lr", "weight_decay",
        "lr_decay", "grad_clip", "ema_decay", "precision",
    )  # fmt: skip

    train_on: Literal["pairs", "text"] = "pairs"
    """"pairs": from texts and from their source vectors to texts (Diffusion-Link). "text": from texts to texts alone,
    so that the two trainings can be compared (ours); takes no pairs."""
    denoiser: AnyDenoiser = Field(default_factory=lambda: ResidualMLPConfig(type="residual_mlp"))
    """What guesses the clean text vector: `residual_mlp` (three blocks, the paper; sizes [SEED]), `unet1d` or
    `prior_transformer`; with `train_on: text` also the closed forms `gaussian` and `empirical`. The word alone will
    do."""
    affine: bool = False
    """The network learns only what the best affine map at each noise level leaves over (ours). The map is computed at
    once, from the very halves that the network is trained on, and the network starts at zero, hence exactly at the map.
    With few pairs this is what helps most. A network over it soon learns few pairs by heart: lower `lr` and fewer
    `steps` with more `weight_decay` and dropout keep it near the map. Off, the network learns the whole [SEED]."""
    pair_weight: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    """With `affine`: how much all pairs together weigh against all texts in the affine map. `auto` (ours): the number
    of pairs over twice the dimension, so that the texts weigh as 2 D pairs would, and the less the more pairs there
    are."""
    timesteps: int = Field(default=1000, ge=2)
    """Noise levels T [SEED]."""
    schedule: Literal["cosine", "linear", "scaled_linear"] = "scaled_linear"
    """How fast noise grows with the time step [SEED]."""
    scale: float | None = Field(default=None, gt=0.0)
    """The norm that vectors are brought to, in training and in sampling alike; the bridge reads it here. null is the
    square root of their dimension [SEED], so that a coordinate is about as large as its noise at most."""
    loss: Literal["l1", "l2", "huber"] = "l1"
    """How a guess is compared with its text, coordinate by coordinate [SEED: l1]. huber: quadratic below 1."""
    cross_sample: float = Field(default=1.0, ge=0.0)
    """Weight of guessing a text from its noised source vector, beside guessing it from itself (weight ours); 0 leaves
    it out."""
    topology: float = Field(default=1.0, ge=0.0)
    """Weight of keeping the texts' cosines to each other (weight and formula ours: mean square of the differences
    between the batch's matrices of cosines, off the diagonal); 0 leaves it out."""
    shared_noise: bool = True
    """One noise for a text and the source vector beside it in a batch (ours; the paper leaves it open). Off, each has
    its own. They have one time step in either case."""
    mix: float = Field(default=0.0, ge=0.0)
    """Above 0, pairs are mixed two by two, text with text as source with source, in shares drawn from Beta(mix, mix)
    (ours, after mixup, Zhang et al. 2018), and brought to `scale` again. 0: not."""
    steps: int = Field(default=5_000, ge=0)
    """Training steps (ours). 0, with `affine`, leaves the closed form as it is."""
    batch_size: int = Field(default=300, ge=1)
    """Texts in a training step, and as many source vectors beside them [SEED]."""
    lr: float = Field(default=5e-4, gt=0.0)
    """AdamW's learning rate [SEED]."""
    weight_decay: float = Field(default=5e-5, ge=0.0)
    """AdamW's weight decay [SEED]."""
    lr_decay: Literal["constant", "linear", "cosine"] = "constant"
    """How the learning rate falls to zero over the training [SEED: constant]."""
    grad_clip: float | None = Field(default=None, gt=0.0)
    """Bound of the gradient's norm; null leaves it [SEED: 9999, which never bites]."""
    ema_decay: float | None = Field(default=None, gt=0.0, lt=1.0)
    """null uses the raw weights [SEED]; a number keeps a moving average, updated every 10 steps, and uses that."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """In which the network computes in training [SEED: float32]; weights, loss and inference stay float32."""
    compile: Annotated[bool, Affects("nothing")] = False
    """Run the network through torch.compile, in training and in sampling. Needs a C++ compiler, on a GPU Triton."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        closed = self.denoiser.type in CLOSED_FORMS
        if closed and self.train_on == "pairs":
            raise ValueError(
                f"denoiser: {self.denoiser.type!r} is computed from texts alone and would never see a pair; use a "
                f"network (residual_mlp), with affine: true and steps: 0 for a closed form of pairs, or train_on: text"
            )
        if self.affine and (closed or getattr(self.denoiser, "base", None) is not None):
            raise ValueError("affine: true is a base of its own; leave out denoiser.base, and use a network")
        if self.steps == 0 and not self.affine and not closed:
            raise ValueError("steps: 0 leaves the network at zero; expected 1 or more, or affine: true")
        return self

    @property
    def takes_pairs(self) -> bool:
        """Whether anything of it is learnt from pairs; without both losses and the affine map nothing is."""
        return self.train_on == "pairs" and bool(self.cross_sample or self.topology or self.affine)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "pairs"} if self.takes_pairs else {"text"})

    def norm(self, dim: int) -> float:
        """The norm that vectors of `dim` numbers are brought to."""
        return self.scale or float(dim) ** 0.5

    def check(self, clean: Port) -> None:
        """Raise PortError for sequences, and for a dimension that the denoiser cannot work at."""
        clean.require_vectors(f"the prior {self.type!r}")
        if clean.space.dim is not None:
            self.denoiser.check_dim(clean.space.dim)
