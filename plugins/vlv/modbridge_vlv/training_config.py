"""How networks are trained here: steps, batches, AdamW. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class TrainConfig(BaseModel):
    """How the encoder is trained. Defaults are those of VLV's stage 1; `steps` and `batch_size` are ours."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = Field(
        default=1000,
        ge=0,
        description="optimiser steps; the paper's are 200,000. 0: it stays as it is drawn or fetched",
    )
    batch_size: int = Field(default=32, ge=1, description="images a step; the paper's are 512")
    lr: float = Field(default=5e-5, gt=0, description="AdamW's highest learning rate")
    betas: tuple[Rate, Rate] = Field(default=(0.9, 0.99), description="AdamW's")
    weight_decay: float = Field(default=0.01, ge=0, description="AdamW's")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warmup: int = Field(default=0, ge=0, description="steps of linear warm-up")
    clip: float | None = Field(default=1.0, gt=0, description="largest gradient norm; null: none")


class TeacherTrainConfig(TrainConfig):
    """How a teacher is trained from nothing on captioned images. Ours."""

    steps: int = Field(default=1000, ge=1, description="optimiser steps")
    batch_size: int = Field(default=32, ge=1, description="images a step")
    lr: float = Field(default=1e-3, gt=0, description="AdamW's highest learning rate")
    caption_dropout: Rate = Field(
        default=0.1, description="share of images whose caption is left out, so that the empty prompt is learnt too"
    )
