"""What the configs of encoders have in common that a teacher teaches. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import EncoderConfig
from modbridge.errors import PortError
from modbridge.spaces import Port
from modbridge_vlv.teacher_config import DiffusionTeacherConfig, TeacherPart
from modbridge_vlv.training_config import TrainConfig

MODALITIES = ("image", "text")


class TaughtEncoderConfig(EncoderConfig):
    """An encoder of images into soft tokens of a teacher's text encoder. Texts are their own token embeddings."""

    objective: TeacherPart = Field(
        description="the diffusion_teacher that teaches it, and whose text encoder reads what it gives"
    )
    queries: int = Field(
        default=77, ge=1, description="soft tokens of an image; the text encoder takes so many at most"
    )
    train: TrainConfig = Field(default=TrainConfig(), description="how it is trained, on images alone")
    batch_size: Annotated[int, Affects("nothing")] = Field(default=64, ge=1, description="items embedded at once")
    workers: Annotated[int, Affects("nothing")] = Field(
        default=0,
        ge=0,
        description="processes that read and prepare images, in training too; 0: none but the main one",
    )

    @property
    def teacher(self) -> DiffusionTeacherConfig:
        assert isinstance(self.objective, DiffusionTeacherConfig)
        return self.objective

    @property
    def modalities(self) -> tuple[str, ...]:
        return MODALITIES

    @property
    def needs_fit(self) -> bool:
        return True

    def emits(self, modality: str) -> Port:
        """Sequences before the text encoder: of an image as many as there are queries, of a text as many as the text
        encoder takes. Raises PortError where queries are more than that."""
        if modality not in MODALITIES:
            raise PortError(f"the encoder {self.type!r} takes {', '.join(MODALITIES)}; found {modality!r}.")
        tokens = self.queries if modality == "image" else self.teacher.longest
        return self.teacher.port("tokens", modality, tokens)
