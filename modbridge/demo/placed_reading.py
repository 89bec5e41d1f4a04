"""What a picture of a placed shape shows, read by rules: no network, so that painted pictures can be judged by it.

The ground is the picture's median colour; what differs from it is the shape. The direction in which it differs names
the colour, its centre of mass the corner, and the form that covers it best, moved and scaled, the shape. Ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modbridge.demo.placed import GROUND, PLACED_COLOURS, PLACED_SHAPES, place_of
from modbridge.demo.scenes import BACKGROUNDS, COLOURS, FORMS, SIDE

FAINTEST = 40.0  # least distance from the ground, of a colour's numbers from 0 to 255, that is taken for a shape
# The direction from the ground to a colour, which a faint shape keeps.
_AWAY = {name: np.array(COLOURS[name], float) - BACKGROUNDS[GROUND] for name in PLACED_COLOURS}
_HUES = {name: away / np.linalg.norm(away) for name, away in _AWAY.items()}
_RADII = np.arange(5.0, 8.01, 0.5, dtype=np.float32)
_SHIFTS = np.arange(-2.0, 2.01, 0.5, dtype=np.float32)  # of a form's middle from the centre of mass


@dataclass(frozen=True)
class Seen:
    """What is to be seen: "red", "circle", "top left"."""

    colour: str
    shape: str
    place: str


def read_placed(picture: NDArray[np.uint8]) -> Seen | None:
    """What a picture (32, 32, 3) shows; None where nothing stands out from its ground."""
    pixels = picture.astype(np.float32)
    away = pixels - np.median(pixels.reshape(-1, 3), axis=0)
    distance = np.sqrt((away**2).sum(axis=2))
    clearest = float(np.quantile(distance, 0.97))
    if clearest < FAINTEST:
        return None
    there = distance > clearest / 2
    shade = away[there].mean(axis=0)
    colour = max(_HUES, key=lambda name: float(shade @ _HUES[name]))
    weight = np.clip(distance / clearest, 0, 1) * there
    yy, xx = np.mgrid[0:SIDE, 0:SIDE]
    x, y = (float((weight * at).sum() / weight.sum()) for at in (xx, yy))
    return Seen(colour, _shape(weight, x, y), place_of(x, y))


def _shape(weight: NDArray[np.floating[Any]], x: float, y: float) -> str:
    """The shape whose form differs least from the weights (32, 32) of pixels around their centre of mass."""
    column, row = round(x), round(y)
    reach = SIDE // 2
    around = np.pad(weight, reach)[row : row + 2 * reach + 1, column : column + 2 * reach + 1].astype(np.float32)
    least = {shape: float(((forms - around) ** 2).sum(axis=(1, 2)).min()) for shape, forms in _forms().items()}
    return min(least, key=least.__getitem__)


@cache
def _forms() -> dict[str, NDArray[np.float32]]:
    """Of each shape the pixels inside (K, 33, 33), around the middle, at all radii and shifts."""
    reach = SIDE // 2
    yy, xx = np.mgrid[-reach : reach + 1, -reach : reach + 1].astype(np.float32)
    radius, across, down = (part.reshape(-1, 1, 1) for part in np.meshgrid(_RADII, _SHIFTS, _SHIFTS))
    return {
        shape: np.clip(0.5 - FORMS[shape](np.abs(xx - across), yy - down, np.broadcast_to(radius, across.shape)), 0, 1)
        for shape in PLACED_SHAPES
    }
