"""Configs of the metrics of entities and objects."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import SerializeAsAny

from modbridge.config.component import Part
from modbridge.config.kinds import MetricConfig, VocabularyConfig
from modbridge_viecap.vocabulary_config import CocoConfig


class NamedMetricConfig(MetricConfig):
    """What both metrics share.

    `vocabulary`: the names that are looked for in texts, with their other words. An item's true names are its known
    facts, where the source gives some (`entities`, a list of names); else all that any of its references says.
    """

    vocabulary: Annotated[SerializeAsAny[VocabularyConfig], Part("vocabulary")] = CocoConfig()

    def missing(self) -> str | None:
        return self.vocabulary.missing()


class EntitiesConfig(NamedMetricConfig):
    """Config of precision, recall and F1 of the entities that came through into the prompt, summed up over all items.

    Names are compared as they are, capitals aside; another word for a name of `vocabulary` counts as that name. A
    decoder that finds no entities has no score.
    """

    type: Literal["entities"] = "entities"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("entity_precision", "entity_recall", "entity_f1")


class ChairConfig(NamedMetricConfig):
    """Config of CHAIR (Rohrbach et al., EMNLP 2018): `chair_i`, of the objects that captions name the share that is not
    there; `chair_s`, the share of captions that name one such; both lower is better. `object_recall`: of the objects
    that are there the share that is named.

    A caption that names an object twice names it once here; the paper counts each mention, and takes as true what
    COCO's instance annotations say beside the references.
    """

    type: Literal["chair"] = "chair"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("chair_i", "chair_s", "object_recall")
