"""What configs of encoders of sounds in windows of fixed length have in common."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import EncoderConfig


class ClipEncoderConfig(EncoderConfig):
    """Sounds and texts through a dual encoder that hears windows of one length."""

    long_clips: Literal["crop", "mean", "fusion"] | None = Field(
        default=None,
        description="what becomes of clips longer than the model's window. crop: one window of it (`crop` says "
        "which); mean: the mean of the vectors of windows side by side, the last one moved back to the clip's end; "
        "fusion: the whole, shrunken, and a window of each third (fused models only). By default fusion for fused "
        "models, crop for others (ours; the weights were trained with random crops)",
    )
    crop: Literal["centre", "start", "random"] = Field(
        default="centre",
        description="which window `long_clips: crop` takes. random: drawn from `crop_seed` and the clip's samples, so "
        "the same in any batch and run. Default ours",
    )
    crop_seed: int = Field(
        default=0, description="decides, with the clip's samples, on random crops and on fusion's windows. Default ours"
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the matrix products")
    batch_size: Annotated[int, Affects("nothing")] = Field(
        default=32, ge=1, description="items (of sounds: windows) embedded at once. Default ours"
    )
    workers: Annotated[int, Affects("nothing")] = Field(
        default=0, ge=0, description="processes that read and prepare sounds; 0: none but the main one"
    )
