"""What kinds of objects each made-up world has, by modality: pairs of words that captions say one after the other."""

from __future__ import annotations

from itertools import product

from modbridge.demo.scenes import COLOURS, SHAPES, WIDE_COLOURS, WIDE_SHAPES
from modbridge.demo.sounds import PITCHES, TIMBRES

WORLDS = {"image": (tuple(COLOURS), SHAPES), "audio": (tuple(PITCHES), TIMBRES)}
NAMES = {"image": ("colours", "shapes"), "audio": ("pitches", "timbres")}
KINDS = {modality: list(product(*words)) for modality, words in WORLDS.items()}
# Those that only the wide world of images shows, for encoders.
MORE = [kind for kind in product(WIDE_COLOURS, WIDE_SHAPES) if kind not in KINDS["image"]]


def vocabulary_names() -> list[str]:
    """The names of all kinds of the wide world of images: first the 20 of the plain world, then 100 that an encoder may
    know but that no plain scene shows."""
    return [" ".join(kind) for kind in (*KINDS["image"], *MORE)]
