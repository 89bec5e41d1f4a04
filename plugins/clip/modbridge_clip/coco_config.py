"""The config of the `coco_captions` source."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modbridge.config.kinds import SourceConfig


class CocoCaptionsConfig(SourceConfig):
    """Photographs with captions: COCO or Flickr30k."""

    type: Literal["coco_captions"] = "coco_captions"
    captions: str = Field(description="the captions file, plain or .gz")
    images: str | None = Field(default=None, description="the folder of images; without it the source has only texts")
    split: str | None = Field(
        default=None, description="for files that hold several splits; Karpathy's training set is train+restval"
    )
    layout: Literal["auto", "karpathy", "official", "jsonl"] = Field(
        default="auto",
        description="karpathy: dataset_coco.json or dataset_flickr30k.json; official: captions_*.json; "
        "jsonl: one {image, captions} a line",
    )
    limit: int | None = Field(default=None, ge=1, description="only the first so many items")
    missing: Literal["error", "skip"] = Field(default="error", description="what to do about images that are not there")
