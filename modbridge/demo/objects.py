"""Share of captions with every object right: at least one named, and each named one really there (ours)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from modbridge.demo.config import ObjectsExactConfig
from modbridge.demo.kinds import KINDS, MORE
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score

_KNOWN = {kind for kinds in (*KINDS.values(), MORE) for kind in kinds}


def named_objects(text: str) -> set[tuple[str, str]]:
    """The objects that a caption names: a colour right before a shape, a pitch right before a timbre."""
    return set(pairwise(text.lower().split())) & _KNOWN


class ObjectsExact(Metric[ObjectsExactConfig]):
    """1 for a caption that names at least one object and none that is not there, else 0."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        items = []
        for prediction, reference in zip(predictions, references, strict=True):
            if "objects" not in reference.facts:
                raise DataError(
                    f"objects_exact: nothing says which objects are in {reference.key!r}; it works on drawn_scenes and "
                    f"synthesised_sounds only."
                )
            there = {(a, b) for a, b in reference.facts["objects"]}
            named = named_objects(prediction.text)
            items.append(float(bool(named) and named <= there))
        return {"objects_exact": Score(fmean(items), tuple(items))}
