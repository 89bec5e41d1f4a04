"""Config of the Diffusion Bridge: everything known of it without weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from modbridge.config.component import Affects, Part, Purpose
from modbridge.config.kinds import Augmentation, PriorConfig
from modbridge.spaces import Frame
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.one_space import OneSpaceConfig

Step = Annotated[int, Field(ge=0)]


class DiffusionBridgeConfig(OneSpaceConfig):
    """Config of Diffusion Bridge (CVPR 2025): a prior learnt from text vectors alone pulls source vectors over."""

    augmentation: ClassVar[Augmentation] = "diffusion"

    prior: Annotated[SerializeAsAny[PriorConfig], Part("prior")] = Field(
        default_factory=lambda: DDPMConfig(type="ddpm")
    )
    """What knows where text vectors lie."""
    start_step: Annotated[Step | Literal["auto"], Affects("cross")] = Field(default=600, validate_default=True)
    """M, the noise level that the sampler takes a source vector to be at (authors: 600 on COCO, 400 on Flickr30k). The
    first network call is at M - 1; 0 only centres. It is not the number of steps. `auto` (ours) chooses it from
    unpaired training vectors."""
    num_steps: Annotated[int, Affects("cross"), Affects("augment")] = Field(default=5, ge=1)
    """S, the network calls a vector (authors' code 5; the paper's supplement says 12)."""
    augment_step: Annotated[Step | Literal["auto"], Affects("augment")] = Field(default=400, validate_default=True)
    """A, the noise level that text vectors are put at and brought back from before a decoder learns from them (authors
    400, before October 2025 600); 0 only centres. `auto` (ours) chooses it from unpaired training vectors, for sources
    that this very bridge carries over from its own `start_step`."""
    eta: Annotated[float, Affects("cross"), Affects("augment")] = Field(default=0.0, ge=0.0, le=1.0)
    """DDIM's eta: 0 draws no noise in sampling (authors)."""
    centre: bool = True
    """Take each modality's training mean away first (authors). Off, fitting takes no source vectors unless a step is
    `auto`."""
    frame: Annotated[Literal["centred", "text"], Affects("cross"), Affects("augment")] = "centred"
    """"centred" gives unit vectors in the centred text space (authors); "text" (ours) maps them back among raw text
    vectors. Without `centre` the two are the same."""

    @field_validator("prior")
    @classmethod
    def _learns_from_text_alone(cls, prior: PriorConfig) -> PriorConfig:
        if "pairs" in prior.needs:
            raise ValueError(
                f"the prior {prior.type!r} needs pairs, and this bridge fits its prior on text vectors alone"
            )
        return prior

    @field_validator("start_step", "augment_step")
    @classmethod
    def _within_the_process(cls, step: int | str, info: ValidationInfo) -> int | str:
        prior = info.data.get("prior")
        timesteps = getattr(prior, "timesteps", None)
        if isinstance(step, str):
            if prior is not None and timesteps is None:
                raise ValueError(f"auto needs a prior with timesteps to choose from; {prior.type!r} has none")
        elif timesteps is not None:
            # A source vector enters at index M - 1, a text vector is noised at index A itself.
            last = timesteps if info.field_name == "start_step" else timesteps - 1
            if step > last:
                raise ValueError(f"expected at most {last}, since the prior has {timesteps} timesteps")
        return step

    @property
    def radius(self) -> float:
        """The norm that the prior's vectors have: the prior's own `radius`, or 1 for a prior that names none."""
        return float(getattr(self.prior, "radius", 1.0))

    @property
    def augments_by(self) -> Augmentation:
        """`augmentation`, but "none" at `augment_step` 0, where text vectors are only centred."""
        return "none" if self.augment_step == 0 else self.augmentation

    @property
    def chosen_by_fitting(self) -> tuple[str, ...]:
        """The fields that are `auto`."""
        return tuple(name for name in ("start_step", "augment_step") if getattr(self, name) == "auto")

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"} if self.centre or self.chosen_by_fitting else {"text"})

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but steps that fitting chooses rest on how the sampler walks."""
        fields = super().key_fields(*purposes)
        if self.chosen_by_fitting:
            fields |= {name: getattr(self, name) for name in ("start_step", "augment_step", "num_steps", "eta")}
        return fields

    @property
    def frame_out(self) -> Frame:
        return "centred" if self.centre and self.frame == "centred" else "raw"
