"""The configs of the placed shapes and of their metrics. Loads neither torch nor numpy."""

from __future__ import annotations

from typing import Literal

from modbridge.config.kinds import MetricConfig
from modbridge.demo.config import WorldConfig


class PlacedShapesConfig(WorldConfig):
    """A made-up world (ours): 32-pixel pictures of one large coloured shape in one of four corners of a dark ground,
    48 kinds in all. Captions name all that tells them apart: "a large red circle at the top left".

    `seed` and `split` choose the stream of pictures; the splits of one seed share none, though each shows every kind:
    where in its corner a shape stands, how large it is and its shade are drawn anew. `count`: pictures. `captions`: how
    many each has, all alike.
    """

    modality: Literal["image"] = "image"


class PlacedWordsConfig(MetricConfig):
    """Needs items whose facts hold one of `objects` and its `place`, as the source `placed_shapes` gives them."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("colour_named", "shape_named", "place_named", "all_named")


class PlacedPicturesConfig(MetricConfig):
    """Judges pictures that decoders painted. Needs items whose facts hold one of `objects` and its `place`, as the
    source `placed_shapes` gives them."""

    @property
    def judges(self) -> Literal["text", "image"]:
        return "image"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("colour", "shape", "place", "all")
