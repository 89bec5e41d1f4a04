"""Metrics of placed shapes: what captions name, and what painted pictures show, each held against what is there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

import numpy as np

from modbridge.demo.placed import PLACED_COLOURS, PLACED_SHAPES, PLACES
from modbridge.demo.placed_config import PlacedPicturesConfig, PlacedWordsConfig
from modbridge.demo.placed_reading import read_placed
from modbridge.demo.scenes import SIDE
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge.media import load_image

Told = tuple[str | None, str | None, str | None]  # a colour, a shape and a place; None where none is told


def named(caption: str) -> Told:
    """What a caption names; None where it names none, or several."""
    words = re.findall(r"\w+", caption.lower())
    text = " ".join(words)
    return (
        _only(c for c in PLACED_COLOURS if c in words),
        _only(s for s in PLACED_SHAPES if s in words),
        _only(p for p in PLACES if f" {p} " in f" {text} "),
    )


def _only(found: Iterable[str]) -> str | None:
    each = list(found)
    return each[0] if len(each) == 1 else None


class PlacedWords(Metric[PlacedWordsConfig]):
    """1 where a caption names the colour, the shape, the place that is there, and no other; and where it names all."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        told = [named(prediction.text) for prediction in predictions]
        return _scores(self.config.columns, told, references)


class PlacedPictures(Metric[PlacedPicturesConfig]):
    """1 where a picture shows the colour, the shape, the place that is there, as rules read it; and where it shows all.

    A picture of another size is resized to that of the world's.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        return _scores(self.config.columns, [_seen(prediction) for prediction in predictions], references)


def _seen(prediction: Decoded) -> Told:
    image = load_image(prediction.image)
    seen = read_placed(np.asarray(image if image.size == (SIDE, SIDE) else image.resize((SIDE, SIDE))))
    return (None, None, None) if seen is None else (seen.colour, seen.shape, seen.place)


def _scores(columns: Sequence[str], told: Sequence[Told], references: Sequence[Reference]) -> dict[str, Score]:
    right = [
        [float(said == true) for said, true in zip(item, _there(reference.key, reference.facts), strict=True)]
        for item, reference in zip(told, references, strict=True)
    ]
    each = [(*item, min(item)) for item in right]
    values = zip(*each, strict=True) if each else [()] * len(columns)
    return {
        name: Score(fmean(items) if items else None, tuple(items)) for name, items in zip(columns, values, strict=True)
    }


def _there(key: str, facts: Mapping[str, Any]) -> tuple[str, str, str]:
    """The colour, the shape and the place of an item."""
    if "place" not in facts or len(facts.get("objects", ())) != 1:
        raise DataError(f"nothing says which shape stands where in {key!r}; this works on placed_shapes only.")
    ((colour, shape),) = facts["objects"]
    return str(colour), str(shape), str(facts["place"])
