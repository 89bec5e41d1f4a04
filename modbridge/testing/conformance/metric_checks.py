"""What metrics promise: the columns that their config names, the same numbers in every order, the right direction."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Reference, Score
from modbridge.media import load_image
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.compare import content_hash
from modbridge.testing.conformance.outcome import Check, Failed, NotRun
from modbridge.testing.conformance.state import other_randomness
from modbridge.testing.conformance.subject import Subject

COUNT = 8
CLOSE = 1e-6
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")

Judged = tuple[list[Decoded], list[Reference]]
JUDGES = ("text", "image")


def columns(subject: Subject) -> None:
    found = subject.config.columns
    if not isinstance(found, tuple) or not found or len(set(found)) != len(found):
        raise Failed(f"`columns` is {found!r}", "a tuple of at least one name, each once", "give such a tuple")
    for name in found:
        if not isinstance(name, str) or not _COLUMN.fullmatch(name):
            raise Failed(f"a column is called {name!r}", "snake_case, such as bleu_4", "rename it")
    if subject.config.judges not in JUDGES:
        raise Failed(f"`judges` is {subject.config.judges!r}", '"text" or "image"', "give one of the two")


def scores(subject: Subject) -> None:
    for most in (1, COUNT):
        predictions, references = _toys(subject, most)
        count = len(references)
        found = _scored(subject, predictions, references)
        if not isinstance(found, dict) or set(found) != set(subject.config.columns):
            names = sorted(found) if isinstance(found, dict) else found
            raise Failed(
                f"score gave the columns {names}", f"{sorted(subject.config.columns)}, as its config says", "give those"
            )
        for name, score in found.items():
            _check_score(name, score, count)


def _check_score(name: str, score: Any, count: int) -> None:
    if not isinstance(score, Score):
        raise Failed(f"{name} is a {type(score).__name__}", "a Score", "wrap the number: Score(corpus, items)")
    if score.corpus is None:
        if not score.note.strip():
            raise Failed(f"{name} has no number and no note", "why there is none", "say it in Score(note=...)")
    elif not isinstance(score.corpus, int | float) or math.isnan(score.corpus):
        raise Failed(f"{name} is {score.corpus!r} for {count} items", "a number, or None with a note", "mind 0 / 0")
    if len(score.items) not in (0, count):
        raise Failed(
            f"{name} has {len(score.items)} scores of items for {count} items",
            "one for each item, in their order, or none",
            "give a score for every item",
        )


def order(subject: Subject) -> None:
    told = _order_trouble(subject)
    if told:
        raise Failed(told, "that score i is that of item i, whatever its place", "keep the order of `predictions`")


def _order_trouble(subject: Subject) -> str | None:
    """How the scores change when the items come the other way round, under another state of the global generators."""
    predictions, references = _toys(subject, COUNT)
    one = _scored(subject, predictions, references)
    with other_randomness(2):
        other = _scored(subject, predictions[::-1], references[::-1])
    for name in one:
        if not _near(one[name].corpus, other[name].corpus):
            return f"{name} is {one[name].corpus}, and {other[name].corpus} with the items in another order"
        if not all(_near(a, b) for a, b in zip(one[name].items, other[name].items[::-1], strict=True)):
            return f"the items' scores of {name} do not follow the items when their order changes"
    return None


def seeded_scores(subject: Subject) -> None:
    if _order_trouble(subject) is None:
        return  # the same numbers under another state of the generators; some metrics start a program each time
    before = _scored(subject, *_toys(subject, COUNT))
    with other_randomness(3):
        again = _fresh(subject, *_toys(subject, COUNT)).scores
    if content_hash(before) != content_hash(again):
        raise Failed(
            "the same predictions were scored otherwise the second time",
            "one number, whatever torch's, numpy's or Python's own generators do",
            "draw from a generator of a fixed seed",
        )


def inputs_kept(subject: Subject) -> None:
    if not _kept(subject, *_toys(subject, COUNT)).inputs_kept:
        raise Failed(
            "score changed the predictions or references that it was given",
            "that they stay as they are, since other metrics are given them too",
            "work on copies",
        )


def direction(subject: Subject) -> None:
    """Captions that are their item's own reference, or images that are the items, are no worse than where every third
    is another item's."""
    mixed, references = _toys(subject, COUNT)
    right = [_made(subject, one, one) for one in references]
    good, bad = _scored(subject, right, references), _scored(subject, mixed, references)
    for name in good:
        one, other = good[name].corpus, bad[name].corpus
        if one is None or other is None:
            continue
        worse = one < other - CLOSE if good[name].higher_is_better else one > other + CLOSE
        if worse:
            raise Failed(
                f"{name} is {one:.4g} for captions that say what the references say (or images that are the items), "
                f"and {other:.4g} where some are of other items, with higher_is_better={good[name].higher_is_better}",
                "that what is right is scored no worse than what is wrong",
                "set higher_is_better in its Score, or look at the sign",
            )


def _toys(subject: Subject, count: int) -> Judged:
    """Captions (or images, where it judges these) of which every third is another item's, and what they are judged
    by."""
    references = list(subject.trial.references or toys.references(COUNT))[:count]
    if subject.config.reads_media:
        references = [one if one.read else toys.with_image(one, row) for row, one in enumerate(references)]
    others = references[1:] + references[:1]
    pairs = enumerate(zip(references, others, strict=True))
    return [_made(subject, one, one if row % 3 else other) for row, (one, other) in pairs], references


def _made(subject: Subject, item: Reference, what: Reference) -> Decoded:
    """A prediction for an item: what another, or the same, is."""
    if subject.config.judges == "text":
        return Decoded(item.key, what.texts[-1])
    return Decoded(item.key, "", image=np.asarray(load_image(what.media)))


@dataclass(frozen=True)
class _Judgement:
    """What a metric said, and whether it left its inputs as they were."""

    scores: dict[str, Score]
    inputs_kept: bool


def _scored(subject: Subject, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
    return _kept(subject, predictions, references).scores


def _kept(subject: Subject, predictions: Sequence[Decoded], references: Sequence[Reference]) -> _Judgement:
    """As `_fresh`, but asked only once for the same captions: some metrics start a program each time."""
    name = f"{subject.id} {content_hash([predictions, references])}"
    found: _Judgement = subject.trial.remember(name, lambda: _fresh(subject, predictions, references))
    return found


def _fresh(subject: Subject, predictions: Sequence[Decoded], references: Sequence[Reference]) -> _Judgement:
    lacks = subject.config.missing()
    if lacks:
        raise NotRun(f"the environment lacks something: {lacks}")
    before = content_hash([predictions, references])
    try:
        found: dict[str, Score] = subject.component.score(predictions, references)
    except DataError as error:
        raise Failed(
            f"it refuses the references that it is tried on: {error}",
            "that it judges references with two texts and facts such as those of drawn_scenes",
            "give references that it can judge by, at least four: conformance(..., references=[Reference(...), ...])",
        ) from error
    return _Judgement(found, content_hash([predictions, references]) == before)


def _near(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= CLOSE * max(1.0, abs(one)) or (math.isnan(one) and math.isnan(other))


METRIC = ("metric",)
CHECKS = (
    Check("columns", METRIC, "its columns are known beforehand, in snake_case", columns),
    Check("scores", METRIC, "it fills its columns with a number, or None and why", scores),
    Check("order_invariance", METRIC, "the order of items changes nothing", order),
    Check("seeded", METRIC, "the same predictions have the same score", seeded_scores),
    Check("inputs_unchanged", METRIC, "what it is given stays as it is", inputs_kept),
    Check("direction", METRIC, "what is right is scored no worse than what is wrong", direction),
)
