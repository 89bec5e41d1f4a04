"""The configs of the sources of captioned photographs: `coco_captions` and `flickr30k`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from modbridge.config.kinds import SourceConfig

Layout = Literal["auto", "karpathy", "official", "jsonl"]


class PhotographsConfig(SourceConfig):
    """What both sources share: a captions file, and the folder of its images."""

    captions: str = Field(description="the captions file, plain or .gz")
    images: str | None = Field(default=None, description="the folder of images; without it the source has only texts")
    limit: int | None = Field(default=None, ge=1, description="only the first so many items")
    missing: Literal["error", "skip"] = Field(default="error", description="what to do about images that are not there")

    def reading(self) -> tuple[Layout, str | None, str | None]:
        """The layout of the captions file, the split wanted of it, and the dataset that it must say it holds."""
        raise TypeError(f"{type(self).__name__} does not say how its captions are read")


class CocoCaptionsConfig(PhotographsConfig):
    """Photographs with captions: COCO, or whatever comes in one of its layouts."""

    type: Literal["coco_captions"] = "coco_captions"
    split: str | None = Field(
        default=None, description="for files that hold several splits; Karpathy's training set is train+restval"
    )
    layout: Layout = Field(
        default="auto",
        description="karpathy: dataset_coco.json or dataset_flickr30k.json; official: captions_*.json; "
        "jsonl: one {image, captions} a line",
    )

    def reading(self) -> tuple[Layout, str | None, str | None]:
        return self.layout, self.split, None


class Flickr30kConfig(PhotographsConfig):
    """Flickr30k by Karpathy's dataset_flickr30k.json: 29,000 images to train on, 1,014 to validate, 1,000 to test."""

    type: Literal["flickr30k"] = "flickr30k"
    split: Literal["train", "val", "test"] = Field(
        description="one of Karpathy's splits; there is no restval as in COCO"
    )

    def reading(self) -> tuple[Layout, str | None, str | None]:
        return "karpathy", self.split, "flickr30k"
