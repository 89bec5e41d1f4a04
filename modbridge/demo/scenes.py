"""The demo's world: scenes drawn from a seed, with captions that mention only part of what is to be seen.

Everything is made up (ours). Objects are a shape, a colour, a size and a place; captions name some of it, so that an
image's vector holds what no caption says, as with real photographs.

The wide world holds more colours and shapes, so that an encoder can know names that the plain world never shows. Some
kinds of the plain world can be held out, so that captions never speak of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from modbridge.demo.config import DrawnScenesConfig, WorldConfig
from modbridge.demo.world import MadeUp

WorldT = TypeVar("WorldT", bound=WorldConfig)

SIDE = 32
SHAPES = ("circle", "square", "triangle", "cross")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
}
WIDE_SHAPES = (*SHAPES, "ring", "diamond", "bar", "pillar", "frame", "dome")
WIDE_COLOURS = COLOURS | {
    "coral": (250, 130, 75),
    "pink": (245, 165, 205),
    "white": (246, 246, 246),
    "lime": (160, 240, 50),
    "navy": (20, 25, 115),
    "teal": (0, 125, 130),
    "magenta": (230, 25, 145),
}
PLAIN = 0.5  # share of a wide scene's objects that are drawn from the plain kinds, the rest from all
# One shape of each colour: every colour and every shape is seen with others.
HELD_OUT = frozenset((colour, SHAPES[i % len(SHAPES)]) for i, colour in enumerate(COLOURS))
BACKGROUNDS = {"black": (18, 18, 22), "brown": (110, 75, 45), "grey": (125, 125, 130), "cyan": (110, 200, 205)}


@dataclass(frozen=True, slots=True)
class Thing:
    """One object. `x`, `y`: its centre, `radius`: half its width, in pixels."""

    shape: str
    colour: str
    big: bool
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Scene:
    """What is to be seen. `relation`: how the first of two things stands to the second, "left of" or "above"."""

    things: tuple[Thing, ...]
    background: str
    relation: str | None


def draw_scene(random: Generator, config: DrawnScenesConfig) -> Scene:
    """One scene of the world that `config` describes."""
    count = 2 if random.random() < config.two else 1
    background = str(random.choice(list(BACKGROUNDS)))
    kinds = _draw_kinds(random, count, config)
    big = random.random(count) < 0.5
    radii = np.where(big, random.uniform(6.8, 7.6, count), random.uniform(4.8, 5.4, count))
    relation = None
    if count == 2:
        beside = random.random() < 0.5
        relation = "left of" if beside else "above"
        along = np.array([random.uniform(7.0, 9.5), random.uniform(22.5, 25.0)])
        across = random.uniform(9.0, 23.0) + random.uniform(-2.5, 2.5, 2)
        xs, ys = (along, across) if beside else (across, along)
    else:
        xs, ys = random.uniform(8.0, 24.0, 1), random.uniform(8.0, 24.0, 1)
    things = tuple(
        Thing(shape, colour, bool(big[i]), float(xs[i]), float(ys[i]), float(radii[i]))
        for i, (colour, shape) in enumerate(kinds)
    )
    return Scene(things, background, relation)


def _draw_kinds(random: Generator, count: int, config: DrawnScenesConfig) -> list[tuple[str, str]]:
    """(colour, shape) of each of `count` objects of different colours, drawn until they are what `config.kinds` asks
    for: the shares of everything else in the world stay as they are."""
    while True:
        if config.world == "plain":
            shapes = random.choice(SHAPES, count)
            colours = random.choice(list(COLOURS), count, replace=False)
        else:
            plain = random.random(count) < PLAIN
            shapes = np.where(plain, random.choice(SHAPES, count), random.choice(WIDE_SHAPES, count))
            colours = np.where(plain, random.choice(list(COLOURS), count), random.choice(list(WIDE_COLOURS), count))
        kinds = [(str(colour), str(shape)) for colour, shape in zip(colours, shapes, strict=True)]
        wanted = config.kinds == "all" or (config.kinds == "seen") == HELD_OUT.isdisjoint(kinds)
        if wanted and len(set(colours)) == count:
            return kinds


def write_caption(scene: Scene, random: Generator, config: DrawnScenesConfig) -> str:
    """One caption, which mentions part of the scene."""

    def name(thing: Thing) -> str:
        size = ("big " if thing.big else "small ") if random.random() < config.name_size else ""
        return f"a {size}{thing.colour} {thing.shape}"

    things = list(scene.things)
    if len(things) == 1:
        text = name(things[0])
    else:
        choice = random.random()
        if choice < config.name_one:
            text = name(things[int(random.integers(2))])
        elif choice < config.name_one + config.name_relation:
            text = f"{name(things[0])} {scene.relation} {name(things[1])}"
        else:
            first = int(random.integers(2))
            text = f"{name(things[first])} and {name(things[1 - first])}"
    if random.random() < config.name_background:
        text += f" on {scene.background}"
    return text


def render(scenes: Sequence[Scene], random: Generator) -> NDArray[np.uint8]:
    """Pictures (N, 32, 32, 3): smooth shapes before a shaded background, colours and pixels a little noisy."""
    count = len(scenes)
    yy, xx = np.mgrid[0:SIDE, 0:SIDE].astype(np.float32)
    ground = np.array([BACKGROUNDS[scene.background] for scene in scenes], np.float32)
    slope = random.normal(0, 1, (count, 2, 1, 1))
    shade = 10 * (slope[:, 0] * (xx - SIDE / 2) + slope[:, 1] * (yy - SIDE / 2)) / (SIDE / 2)
    picture = ground[:, None, None] + random.normal(0, 3.5, (count, 1, 1, 3)) + shade[..., None]
    for layer in range(2):
        rows = [i for i, scene in enumerate(scenes) if len(scene.things) > layer]
        if not rows:
            continue
        things = [scenes[i].things[layer] for i in rows]
        place = np.array([(t.x, t.y, t.radius) for t in things], np.float32)[:, :, None, None]
        inside = np.clip(0.5 - _distance(np.abs(xx - place[:, 0]), yy - place[:, 1], place[:, 2], things), 0, 1)[
            ..., None
        ]
        paint = np.array([WIDE_COLOURS[t.colour] for t in things], np.float32) + random.normal(0, 7, (len(rows), 3))
        picture[rows] = picture[rows] * (1 - inside) + inside * paint[:, None, None]
    picture += random.normal(0, 4, picture.shape)
    pixels: NDArray[np.uint8] = np.clip(picture, 0, 255).astype(np.uint8)
    return pixels


Plane = NDArray[np.float32]


def _cross(x: Plane, y: Plane, radius: Plane) -> Plane:
    bar, arm = radius * 0.36, radius * 1.05
    cross: Plane = np.minimum(np.maximum(x - bar, np.abs(y) - arm), np.maximum(x - arm, np.abs(y) - bar))
    return cross


# Signed distance (N, 32, 32) of pixels to a shape's edge. `x`: to its upright axis, `y`: below its centre.
FORMS: dict[str, Callable[[Plane, Plane, Plane], Plane]] = {
    "circle": lambda x, y, r: np.hypot(x, y) - r,
    "square": lambda x, y, r: np.maximum(x, np.abs(y)) - r * 0.88,
    "triangle": lambda x, y, r: np.maximum(y - r * 0.85, (x * 1.75 - y - r * 0.95) / 2.0),
    "cross": _cross,
    "ring": lambda x, y, r: np.abs(np.hypot(x, y) - r * 0.8) - r * 0.25,
    "diamond": lambda x, y, r: (x + np.abs(y) - r * 1.2) / np.sqrt(np.float32(2)),
    "bar": lambda x, y, r: np.maximum(x - r * 1.1, np.abs(y) - r * 0.36),
    "pillar": lambda x, y, r: np.maximum(x - r * 0.36, np.abs(y) - r * 1.1),
    "frame": lambda x, y, r: np.abs(np.maximum(x, np.abs(y)) - r * 0.75) - r * 0.22,
    "dome": lambda x, y, r: np.maximum(np.hypot(x, y - r * 0.5) - r * 1.1, y - r * 0.5),
}


def _distance(x: Plane, y: Plane, radius: Plane, things: Sequence[Thing]) -> Plane:
    """Signed distance (N, 32, 32) of every pixel to each thing's edge; `x` is the distance to its upright axis."""
    distance = np.empty_like(x)
    for shape, form in FORMS.items():
        rows = [i for i, thing in enumerate(things) if thing.shape == shape]
        distance[rows] = form(x[rows], y[rows], radius[rows])
    return distance


class Drawn(MadeUp[WorldT, Scene]):
    """Scenes as pictures: arrays (32, 32, 3)."""

    @cached_property
    def _pictures(self) -> NDArray[np.uint8]:
        return render(self.items, self.stream(1))

    def media(self, row: int) -> NDArray[np.uint8]:
        picture: NDArray[np.uint8] = self._pictures[row]
        return picture


class DrawnScenes(Drawn[DrawnScenesConfig]):
    """The source: pictures as arrays (32, 32, 3), facts with what is really there: `objects` as [colour, shape],
    `relation` (how the first of two stands to the second, "left of" or "above"; None of one) and `background`."""

    def draw(self, random: Generator) -> Scene:
        return draw_scene(random, self.config)

    def caption(self, item: Scene, random: Generator) -> str:
        return write_caption(item, random, self.config)

    def facts(self, row: int) -> Mapping[str, Any]:
        scene = self.items[row]
        return {
            "objects": [[thing.colour, thing.shape] for thing in scene.things],
            "entities": [f"{thing.colour} {thing.shape}" for thing in scene.things],
            "relation": scene.relation,
            "background": scene.background,
        }
