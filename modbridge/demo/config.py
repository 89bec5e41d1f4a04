"""Configs of the demo's sources and metrics."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from modbridge.config.kinds import MetricConfig, SourceConfig

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class WorldConfig(SourceConfig):
    """What every made-up world has.

    `seed` and `split` choose the stream of items; the splits of one seed share none. `count`: items. `captions`: how
    many each has.
    """

    seed: int = 0
    split: Literal["train", "validation", "test"] = "train"
    count: Annotated[int, Field(ge=1)]
    captions: Annotated[int, Field(ge=1)] = 3


class MadeUpConfig(WorldConfig):
    """What the worlds of one or two objects share.

    `two`: share of items with two objects. What a caption mentions is drawn for each caption anew: `name_one`: of two
    objects only one; `name_background`: the background.
    """

    two: Share = 0.55
    name_one: Share = 0.3
    name_background: Share = 0.2

    def require_one_choice(self, other: str) -> None:
        """Raise ValueError where `name_one` and the share `other` of the same choice are more than all."""
        if self.name_one + getattr(self, other) > 1:
            raise ValueError(f"name_one and {other} are shares of one choice: together they cannot be more than 1")


class DrawnScenesConfig(MadeUpConfig):
    """A made-up world (ours): 32-pixel scenes of one or two coloured shapes before a background.

    `seed` and `split` choose the stream of scenes; the splits of one seed share none. `count`: scenes. `captions`: how
    many each has. `two`: share of scenes with two objects. What a caption mentions is drawn for each caption anew:
    `name_one`: of two objects only one; `name_relation`: of two objects both, with where they stand to each other (the
    rest are named side by side with "and"); `name_size`: an object's size; `name_background`: the background.

    `world`: "plain" holds 20 kinds of objects, 5 colours times 4 shapes. "wide" holds 120, 12 colours times 10 shapes,
    of which half of the objects are drawn from the plain 20, for an encoder that knows more than the captions speak of.
    `kinds`: a fixed choice of 5 of the plain kinds, one of each colour, is held out: "seen" scenes hold none of them,
    "unseen" scenes at least one.
    """

    modality: Literal["image"] = "image"
    world: Literal["plain", "wide"] = "plain"
    kinds: Literal["all", "seen", "unseen"] = "all"
    name_relation: Share = 0.4
    name_size: Share = 0.3

    @model_validator(mode="after")
    def _shares_of_one_choice(self) -> DrawnScenesConfig:
        self.require_one_choice("name_relation")
        return self


class SynthesisedSoundsConfig(MadeUpConfig):
    """A made-up world (ours): clips of 1.27 s at 8 kHz with one or two synthesised sounds after each other.

    `seed` and `split` choose the stream of clips; the splits of one seed share none. `count`: clips. `captions`: how
    many each has. `two`: share of clips with two sounds. What a caption mentions is drawn for each caption anew:
    `name_one`: of two sounds only one; `name_order`: of two sounds both, with which came first (the rest are named side
    by side with "and"); `name_loudness`, `name_rhythm`: of each sound; `name_background`: the background.
    """

    modality: Literal["audio"] = "audio"
    name_order: Share = 0.4
    name_loudness: Share = 0.3
    name_rhythm: Share = 0.3

    @model_validator(mode="after")
    def _shares_of_one_choice(self) -> SynthesisedSoundsConfig:
        self.require_one_choice("name_order")
        return self


class ObjectsExactConfig(MetricConfig):
    """Needs items whose facts hold `objects`: a list of [colour, shape] or of [pitch, timbre], as the sources
    `drawn_scenes` and `synthesised_sounds` give them."""


class SceneDetailsConfig(MetricConfig):
    """Needs items whose facts hold `objects`, `relation` and `background`, as the source `drawn_scenes` gives them."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("relation_right", "relation_named", "background_right", "background_named")
