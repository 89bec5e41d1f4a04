"""Config of CLOSE and of its adapters, told apart by their word `type`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from modbridge.builtin.bridges.config import Noise, VectorBridgeConfig
from modbridge.config.kinds import Augmentation
from modbridge.spaces import Frame

Finite = Annotated[float, Field(allow_inf_nan=False)]


class AdapterConfig(BaseModel):
    """What all adapters have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    needs: ClassVar[frozenset[str]] = frozenset()
    frame: ClassVar[Frame] = "source"
    """Where the text vectors lie that it gives."""

    type: str
    """The word that names it."""

    @property
    def noisy(self) -> bool:
        """Whether it draws noise of its own."""
        return False


class NoAdapter(AdapterConfig):
    """Noise alone, the authors' main method."""

    frame = "raw"

    type: Literal["none"]


class MeanAdapter(AdapterConfig):
    """x + scale (mean_v - mean_t): texts moved by the way from the text mean to the source mean."""

    needs = frozenset({"text", "source"})

    type: Literal["mean"]
    scale: Finite = 1.0
    """How much of the way; the authors have no default, 1 is ours. -1 moves away from the source vectors."""
    renormalise: bool = False
    """Bring the moved vector to length 1 before the noise too (authors: off)."""


class RandomAdapter(AdapterConfig):
    """x + scale d, d one random direction for all texts: the authors' test that the direction hardly matters."""

    frame = "raw"

    type: Literal["random"]
    scale: Finite = 1.0
    """The length of the move; the authors have no default, 1 is ours."""
    seed: int = 0
    """Chooses the direction."""
    renormalise: bool = False
    """Bring the moved vector to length 1 before the noise too (authors: off)."""


class LinearAdapter(AdapterConfig):
    """n(A x + b), A and b by least squares on pairs."""

    needs = frozenset({"text", "source", "pairs"})

    type: Literal["linear"]
    ridge: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] | None = None
    """Added to the diagonal of X'X (X the pairs' texts less their mean) in units of its mean eigenvalue. null: 0, plain
    least squares, where the pairs determine A; else 1 (ours; the authors had far more pairs than dimensions)."""


class CovarianceAdapter(AdapterConfig):
    """x + mean(v - t) + factor N(0, cov(v - t)): the way of a random pair."""

    needs = frozenset({"text", "source", "pairs"})

    type: Literal["covariance"]
    factor: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 3.0
    """Multiplies the random part (authors: 3)."""

    @property
    def noisy(self) -> bool:
        return self.factor > 0


TYPES = ("none", "mean", "random", "linear", "covariance")


def _known(value: Any) -> Any:
    """The block (a bare word stands for the block that holds nothing else), after saying what is wrong with its
    `type`."""
    block = {"type": value} if isinstance(value, str) else value
    if not isinstance(block, AdapterConfig) and (not isinstance(block, dict) or block.get("type") not in TYPES):
        raise ValueError(f"expected an adapter of type {', '.join(TYPES[:-1])} or {TYPES[-1]}")
    return block


_Block = Annotated[
    NoAdapter | MeanAdapter | RandomAdapter | LinearAdapter | CovarianceAdapter, Field(discriminator="type")
]
_Word = Literal["none", "mean", "random", "linear", "covariance"]
AnyAdapter = Annotated[_Block, BeforeValidator(_known, json_schema_input_type=_Block | _Word)]


class CloseConfig(VectorBridgeConfig):
    """CLOSE: noise on texts in training, after an adapter that may move them towards the source vectors."""

    augmentation: ClassVar[Augmentation] = "noise"

    noise_multiplier: Noise = 0.12
    """w, the standard deviation of the noise per dimension (not divided by sqrt(D)). The authors': 0.12 where a decoder
    learns each caption from that caption's own vector, which is how decoders are trained here; 0.08 for visual
    entailment; 0.04 for questions, and where it learns the other captions of the same image."""
    adapter: AnyAdapter = NoAdapter(type="none")
    """What is done to the unit text vector before the noise; the word alone will do."""

    @property
    def needs(self) -> frozenset[str]:
        return self.adapter.needs

    @property
    def ends_in(self) -> Frame:
        return self.adapter.frame

    @property
    def keeps_frame(self) -> bool:
        return self.adapter.frame == "raw"

    @property
    def cross_keeps_frame(self) -> bool:
        return self.adapter.frame == "raw"

    @property
    def augments_by(self) -> Augmentation:
        if self.noise_multiplier > 0 or self.adapter.noisy:
            return "noise"
        return "none" if self.adapter.type == "none" else "shift"
