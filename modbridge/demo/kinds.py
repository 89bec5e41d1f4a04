"""What kinds of objects each made-up world has, by modality: pairs of words that captions say one after the other."""

from __future__ import annotations

from itertools import product

from modbridge.demo.scenes import COLOURS, SHAPES
from modbridge.demo.sounds import PITCHES, TIMBRES

WORLDS = {"image": (tuple(COLOURS), SHAPES), "audio": (tuple(PITCHES), TIMBRES)}
NAMES = {"image": ("colours", "shapes"), "audio": ("pitches", "timbres")}
KINDS = {modality: list(product(*words)) for modality, words in WORLDS.items()}
