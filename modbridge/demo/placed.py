"""Placed shapes: pictures of one large shape whose colour and place its caption names, for models that learn from
captions what to paint where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.random import Generator

from modbridge.demo.placed_config import PlacedShapesConfig
from modbridge.demo.scenes import COLOURS, SIDE, Drawn, Scene, Thing

PLACED_SHAPES = ("circle", "square", "triangle")
PLACED_COLOURS = tuple(COLOURS)[:4]
PLACES = {"top left": (8.0, 8.0), "top right": (24.0, 8.0), "bottom left": (8.0, 24.0), "bottom right": (24.0, 24.0)}
GROUND = "black"


def draw_placed(random: Generator) -> Scene:
    """One large shape, a little beside the middle of its corner."""
    shape, colour = str(random.choice(PLACED_SHAPES)), str(random.choice(PLACED_COLOURS))
    x, y = np.array(list(PLACES.values())[random.integers(len(PLACES))]) + random.uniform(-1.0, 1.0, 2)
    return Scene((Thing(shape, colour, True, float(x), float(y), float(random.uniform(6.0, 7.0))),), GROUND, None)


def place_of(x: float, y: float) -> str:
    """The corner that a point, in pixels, lies in."""
    return f"{'top' if y < SIDE / 2 else 'bottom'} {'left' if x < SIDE / 2 else 'right'}"


class PlacedShapes(Drawn[PlacedShapesConfig]):
    """The source: pictures as arrays (32, 32, 3), facts with what is really there: `objects` as [colour, shape], and
    `place`."""

    def draw(self, random: Generator) -> Scene:
        return draw_placed(random)

    def caption(self, item: Scene, random: Generator) -> str:
        (thing,) = item.things
        return f"a large {thing.colour} {thing.shape} at the {place_of(thing.x, thing.y)}"

    def facts(self, row: int) -> Mapping[str, Any]:
        (thing,) = self.items[row].things
        return {"objects": [[thing.colour, thing.shape]], "place": place_of(thing.x, thing.y)}
