"""Where things are in a painted image, beside where they were in the item: a judge says, of both."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from modbridge.interfaces import Decoded, Judge, Metric, Question, Reference, Score
from modbridge_metrics.spatial_boxes import Thing, centre_error, pairs, size_error, things
from modbridge_metrics.spatial_config import PROMPT, SpatialErrorConfig


class SpatialError(Metric[SpatialErrorConfig]):
    """Of the objects of an item that its painted image has too, by name: the L1 error of centres and of sizes, shares
    of the image's sides, the mean over objects, then over items; lower is better. And which share of the item's objects
    that is; higher is better.

    An item of which an answer cannot be read has no score; one without such objects has no errors, and one without
    objects no share. They are left out of the means, and the note counts them.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        problem = self.config.missing()
        if problem:
            return {name: self._column(name, [], problem) for name in self.config.columns}
        rows = self._rows([one.key for one in references])
        judge = self.parts["judge"]
        assert isinstance(judge, Judge)
        prompt = self.config.prompt or PROMPT
        answers = judge.ask(_Questions(prompt, predictions, references, rows))
        read = [things(answer) for answer in answers]
        nothing = (math.nan,) * len(self.config.columns)
        values = [nothing] * len(references)
        for row, was, now in zip(rows, read[: len(rows)], read[len(rows) :], strict=True):
            values[row] = nothing if was is None or now is None else compared(was, now)
        note = self._note(answers, read, [values[row] for row in rows], len(references))
        return {
            name: self._column(name, [each[number] for each in values], note)
            for number, name in enumerate(self.config.columns)
        }

    def _rows(self, keys: Sequence[str]) -> list[int]:
        """The rows that are compared: which depends on the keys alone, so that all decoders are judged on the same."""
        rows = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
        return sorted(rows[: self.config.items])

    def _column(self, name: str, items: Sequence[float], note: str) -> Score:
        known, better = [one for one in items if not math.isnan(one)], name == "spatial_found"
        if not known:
            return Score(None, higher_is_better=better, note=note or "there are no items")
        return Score(fmean(known), tuple(items), higher_is_better=better, note=note)

    def _note(
        self, answers: Sequence[str], read: Sequence[Any], scored: Sequence[tuple[float, ...]], count: int
    ) -> str:
        told = [f"{len(scored)} of {count} items compared"] if len(scored) < count else []
        unread = [answer for answer, found in zip(answers, read, strict=True) if found is None]
        if unread:
            first = " ".join(unread[0].split())[:80]
            which = f"{len(unread)} of {len(answers)} answers could not be read"
            told.append(f"{which}, and their items are left out (the first: {first!r})")
        halves = zip(read[: len(scored)], read[len(scored) :], strict=True)
        apart = sum(
            math.isnan(each[0]) for each, (was, now) in zip(scored, halves, strict=True) if None not in (was, now)
        )
        told += [f"{apart} items share no object with their image, and have no errors"] if apart else []
        return "; ".join(told)


def compared(was: Sequence[Thing], now: Sequence[Thing]) -> tuple[float, float, float]:
    """Centre error, size error and the share that was found; NaN where there is nothing to be compared."""
    both = pairs(was, now)
    found = len(both) / len(was) if was else math.nan
    if not both:
        return math.nan, math.nan, found
    return fmean(centre_error(a, b) for a, b in both), fmean(size_error(a, b) for a, b in both), found


@dataclass(frozen=True)
class _Questions(Sequence[Question]):
    """The same question on some rows' items, then on their painted images; an image is fetched when its question is
    asked for."""

    text: str
    predictions: Sequence[Decoded]
    references: Sequence[Reference]
    rows: Sequence[int]

    def __len__(self) -> int:
        return 2 * len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        painted, at = divmod(index % len(self), len(self.rows))
        row = self.rows[at]
        return Question(self.text, self.predictions[row].image if painted else self.references[row].media)
