"""Share of captions with every object right: at least one named, and each named one really there (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from modbridge.demo.config import ObjectsExactConfig
from modbridge.demo.scenes import COLOURS, SHAPES
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score


def named_objects(text: str) -> set[tuple[str, str]]:
    """The (colour, shape) pairs that a caption names: a colour right before a shape."""
    words = text.lower().split()
    return {(a, b) for a, b in pairwise(words) if a in COLOURS and b in SHAPES}


class ObjectsExact(Metric[ObjectsExactConfig]):
    """1 for a caption that names at least one object and none that is not there, else 0."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        items = []
        for prediction, reference in zip(predictions, references, strict=True):
            if "objects" not in reference.facts:
                raise DataError(
                    f"objects_exact: nothing says which objects {reference.key!r} shows; it works on drawn_scenes only."
                )
            there = {(colour, shape) for colour, shape in reference.facts["objects"]}
            named = named_objects(prediction.text)
            items.append(float(bool(named) and named <= there))
        return {"objects_exact": Score(fmean(items), tuple(items))}
