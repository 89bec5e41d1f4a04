"""Config of the metric that compares where things are in two images, and what it asks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from modbridge_metrics.judge_config import AskingConfig

MOST = 10
SIDE = 1000

# Ours, as is the measure: VLV's appendix asks for boxes and angles in three dimensions.
PROMPT = """\
Which are the main objects of this image, and where are they? Name at most ten, the largest first.

Answer with a JSON list and nothing else:
[{"name": "dog", "box": [left, top, right, bottom]}]

name: one plain noun in the singular, in lower case. List several objects of one kind one by one, each under that name.
box: the smallest box around the object, in whole numbers from 0 to 1000: left and right in thousandths of the image's
width, counted from its left side, top and bottom in thousandths of its height, counted from its upper side."""


class SpatialErrorConfig(AskingConfig):
    """How far things are from where they were, in the images that decoders paint (ours, after VLV's spatial
    evaluation, which compares boxes and angles in three dimensions; its figures are of another measure).

    A judge that sees images is asked for the main objects and their boxes, of each item and of its painted image.
    Objects of one name are paired so that boxes differ least. Centre and size are shares of the image's sides.

    `judge`: one that sees images, `{type: chat_judge, images: true, ...}`.
    `items`: how many of the items are compared, the same for every decoder; None is all.
    `prompt`: the question; None is our own. The answer must be a JSON list of `{"name": text, "box": [left, top, right,
    bottom]}`, in thousandths of the image's sides.
    """

    type: Literal["spatial_error"] = "spatial_error"
    items: Annotated[int, Field(ge=1)] | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _by_a_judge_that_sees(self) -> SpatialErrorConfig:
        if not self.judge.sees_images:
            raise ValueError(
                f"the judge {self.judge.type!r} sees no images as it is configured, and is asked where things are in "
                f"them: choose one that does ({{type: chat_judge, images: true, ...}})"
            )
        return self

    @property
    def judges(self) -> Literal["text", "image"]:
        return "image"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("spatial_centre_error", "spatial_size_error", "spatial_found")
