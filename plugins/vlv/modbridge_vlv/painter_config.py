"""The config of the `diffusion_painter` decoder. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import DecoderConfig
from modbridge.errors import PortError
from modbridge.spaces import Port
from modbridge_vlv.teacher_config import DiffusionTeacherConfig, TeacherPart


class DiffusionPainterConfig(DecoderConfig):
    """Images of what the teacher's text encoder says of soft tokens, painted by the teacher itself (VLV).

    Defaults: those of VLV's script. `guidance`: how far each prediction is led away from that of the empty prompt; 1
    is not at all.
    """

    type: Literal["diffusion_painter"] = "diffusion_painter"
    teacher: TeacherPart = Field(description="the diffusion_teacher of the encoder (a YAML anchor names it once)")
    steps: Annotated[int, Affects("decode")] = Field(default=50, ge=1, description="calls of the denoiser an image")
    guidance: Annotated[float, Affects("decode")] = Field(
        default=2.0, ge=1.0, description="factor of classifier-free guidance; 1: none"
    )
    scheduler: Annotated[str | None, Affects("decode")] = Field(
        default="DDPMScheduler",
        description="the class of diffusers that takes the steps (DDIMScheduler, EulerDiscreteScheduler ...); null: "
        "the model's own",
    )
    scheduler_settings: Annotated[dict[str, Any], Affects("decode")] = Field(
        default_factory=dict, description="settings of that class beyond the model's own, such as timestep_spacing"
    )
    decode_batch_size: Annotated[int, Affects("nothing")] = Field(
        default=16, ge=1, description="images painted at once"
    )

    @field_validator("scheduler_settings")
    @classmethod
    def _not_the_models_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "prediction_type" in value:
            raise ValueError("prediction_type is the model's own: what it predicts is not to be chosen")
        return value

    @model_validator(mode="after")
    def _steps_that_there_are(self) -> DiffusionPainterConfig:
        assert isinstance(self.teacher, DiffusionTeacherConfig)
        total = self.scheduler_settings.get("num_train_timesteps", self.teacher.total_steps)
        if isinstance(total, int) and self.steps > total:
            raise ValueError(f"steps: {self.steps}, but the teacher knows {total} time steps (num_train_timesteps)")
        return self

    @property
    def makes(self) -> Literal["text", "image"]:
        return "image"

    @property
    def needs_fit(self) -> bool:
        return False

    @property
    def port(self) -> Port:
        """What it takes: sequences of the text encoder's states, at most as many as these."""
        assert isinstance(self.teacher, DiffusionTeacherConfig)
        return self.teacher.port("context", "image", self.teacher.longest)

    def check(self, port: Port) -> None:
        """Raise PortError unless these are states of the teacher's own text encoder."""
        assert isinstance(self.teacher, DiffusionTeacherConfig)
        if port.tokens is None:
            raise PortError(
                f"the decoder 'diffusion_painter' takes sequences of a text encoder's states; found {port}."
            )
        port.require_one_length("the decoder 'diffusion_painter'")
        if self.teacher.behind("context", port) is None:
            expected = self.teacher.port("context", port.modality, port.tokens)
            raise PortError(
                f"the decoder 'diffusion_painter' paints what its teacher's text encoder says ({expected}); found "
                f"{port}. Put the bridge soft_context before it, with the same teacher."
            )
