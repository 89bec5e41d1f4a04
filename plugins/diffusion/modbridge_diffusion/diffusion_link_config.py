"""Config of Diffusion-Link: everything known of it without weights."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, ValidationInfo, field_validator

from modbridge.config.component import Affects, Part, Purpose
from modbridge.config.kinds import Augmentation, PriorConfig
from modbridge.spaces import Frame
from modbridge_diffusion.diffusion_bridge_config import Step
from modbridge_diffusion.link_ddpm_config import LinkDDPMConfig
from modbridge_diffusion.one_space import OneSpaceConfig


class DiffusionLinkConfig(OneSpaceConfig):
    """Config of Diffusion-Link (arXiv 2510.11330, ICASSP 2026): noised source vectors are denoised to text vectors by
    a small network that was trained on pairs. [SEED]: as in the first author's precursor, kaistmm/seed-pytorch."""

    augmentation: ClassVar[Augmentation] = "diffusion"

    prior: Annotated[SerializeAsAny[PriorConfig], Part("prior")] = Field(
        default_factory=lambda: LinkDDPMConfig(type="link_ddpm")
    )
    """What denoises, and how it is trained: `link_ddpm`."""
    start_step: Annotated[Step | Literal["auto"], Affects("cross"), Affects("augment")] = Field(
        default=200, validate_default=True
    )
    """The noise level that vectors of either side are put at (200 is ours; SEED: index 50, here 51, to be searched).
    The noise and the first network call are at index `start_step` - 1 (at index 0 none is drawn); 0 does neither.
    `auto` (ours) takes the level with the highest cosine between held-out source vectors and their texts."""
    num_steps: Annotated[int, Affects("cross"), Affects("augment")] = Field(default=1, ge=1)
    """Network calls a vector [SEED: 1, whose one guess is the result]. More walk down by DDIM with eta 0."""
    add_noise: Annotated[bool, Affects("cross"), Affects("augment")] = True
    """Draw the noise of `start_step`, by item and seed [SEED]. Off (ours), a vector is only shrunk as the noise process
    shrinks it, to the mean of its noised copies, so that crossing is the same for every seed."""
    centre: bool = False
    """Take each modality's training mean away first (ours, after Diffusion Bridge)."""
    frame: Annotated[Literal["centred", "text"], Affects("cross"), Affects("augment")] = "text"
    """With `centre`: "text" maps unit vectors back among raw text vectors, "centred" leaves them in the centred text
    space (ours). Without it the two are the same."""
    holdout: float = Field(default=0.1, gt=0.0, lt=1.0)
    """With `start_step: auto`: the share of paired source vectors that the level is chosen on; they and their texts are
    left out of training (ours)."""

    @field_validator("start_step")
    @classmethod
    def _within_the_process(cls, step: int | str, info: ValidationInfo) -> int | str:
        prior = info.data.get("prior")
        timesteps = getattr(prior, "timesteps", None)
        if prior is not None and timesteps is None and step == "auto":
            raise ValueError(f"auto needs a prior with timesteps to choose from; {prior.type!r} has none")
        if isinstance(step, int) and timesteps is not None and step > timesteps:
            raise ValueError(f"expected at most {timesteps}, since the prior has {timesteps} timesteps")
        return step

    def scale(self, dim: int) -> float:
        """The norm that vectors of `dim` numbers are brought to: the prior's `scale`, or its `radius`."""
        if isinstance(self.prior, LinkDDPMConfig):
            return self.prior.norm(dim)
        return float(getattr(self.prior, "radius", 1.0))

    @property
    def title(self) -> str:
        """Its type, and whether it was trained on text alone."""
        return self.type if "pairs" in self.prior.needs else f"{self.type} (text-only)"

    @property
    def augments_by(self) -> Augmentation:
        """`augmentation`, but "none" at `start_step` 0, where text vectors are only normalised."""
        return "none" if self.start_step == 0 else self.augmentation

    @property
    def chosen_by_fitting(self) -> tuple[str, ...]:
        """`start_step`, where it is `auto`."""
        return ("start_step",) if self.start_step == "auto" else ()

    @property
    def needs(self) -> frozenset[str]:
        paired = "pairs" in self.prior.needs or bool(self.chosen_by_fitting)
        return frozenset({"text"} | ({"source", "pairs"} if paired else {"source"} if self.centre else set()))

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a step that fitting chooses rests on how it samples."""
        fields = super().key_fields(*purposes)
        if self.chosen_by_fitting:
            fields |= {name: getattr(self, name) for name in ("start_step", "num_steps", "add_noise")}
        else:
            del fields["holdout"]
        return fields

    @property
    def frame_out(self) -> Frame:
        return "centred" if self.centre and self.frame == "centred" else "raw"
