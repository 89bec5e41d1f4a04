"""What captions of made-up scenes say beside objects' names: how two stand to each other, and the background (ours)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from modbridge.demo.config import SceneDetailsConfig
from modbridge.demo.kinds import KINDS, MORE
from modbridge.demo.scenes import BACKGROUNDS
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score

_OBJECT = "|".join(" ".join(kind) for kind in (*KINDS["image"], *MORE))
# The second object stands in a lookahead: in "a above b above c" it is also the first of the next relation.
_RELATION = re.compile(rf"\b({_OBJECT}) (left of|above) (?=(?:a )?(?:big |small )?({_OBJECT})\b)")
_BACKGROUND = re.compile(rf"\bon ({'|'.join(BACKGROUNDS)})\b")
_NEEDED = ("objects", "relation", "background")


def relations(text: str) -> list[tuple[str, str, str]]:
    """The relations between two named objects that a caption states: ("red circle", "left of", "blue cross")."""
    return [(first, relation, second) for first, relation, second in _RELATION.findall(_plain(text))]


def backgrounds(text: str) -> list[str]:
    """The backgrounds that a caption states: "on" right before the word."""
    return [str(word) for word in _BACKGROUND.findall(_plain(text))]


class SceneDetails(Metric[SceneDetailsConfig]):
    """`*_named`: the share of captions that state a relation (a background). `*_right`: of those captions, the share
    that state nothing false. A relation is true if both objects are there and the scene was laid out that way."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        for reference in references:
            lacking = [name for name in _NEEDED if name not in reference.facts]
            if lacking:
                raise DataError(
                    f"scene_details: the facts of {reference.key!r} hold no {' and no '.join(lacking)}; it works on "
                    f"drawn_scenes only."
                )
        pairs = list(zip(predictions, references, strict=True))
        return {
            **_scores("relation", [(relations(one.text), _relation(truth.facts)) for one, truth in pairs]),
            **_scores("background", [(backgrounds(one.text), truth.facts["background"]) for one, truth in pairs]),
        }


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _relation(facts: Mapping[str, Any]) -> object:
    """What `relations` gives for a caption that tells the truth; None where there is one object."""
    if facts["relation"] is None:
        return None
    first, second = (" ".join(kind) for kind in facts["objects"])
    return (first, facts["relation"], second)


def _scores(what: str, stated: Sequence[tuple[Sequence[object], object]]) -> dict[str, Score]:
    """Both columns. The share among the captions that state something has no score for every item."""
    named = tuple(float(bool(said)) for said, _ in stated)
    right = [float(all(one == truth for one in said)) for said, truth in stated if said]
    note = "" if right else f"no caption states a {what}"
    return {
        f"{what}_right": Score(fmean(right) if right else None, note=note),
        f"{what}_named": Score(fmean(named), named),
    }
