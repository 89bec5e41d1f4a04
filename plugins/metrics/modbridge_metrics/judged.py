"""Captions rated by a judge: coverage, hallucination, layout."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from modbridge.interfaces import Decoded, Judge, Metric, Question, Reference, Score
from modbridge_metrics.caption import check_items
from modbridge_metrics.judge_config import AXES, HIGHEST, RATING_PROMPT, SEEN, UNSEEN, JudgedConfig


class Judged(Metric[JudgedConfig]):
    """Ratings from 0 to 6, the mean over the items that were rated. An item whose answer cannot be read has none: it is
    left out of the mean, and the note counts them and shows the first."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        check_items(predictions, references)
        problem = self.config.missing()
        if problem:
            return {column: Score(None, note=problem) for column in self.config.columns}
        rows = self._rows([one.key for one in predictions])
        judge = self.parts["judge"]
        assert isinstance(judge, Judge)
        answers = dict(zip(rows, judge.ask(_Questions(self, predictions, references, rows)), strict=True))
        rated = {row: ratings(answer) for row, answer in answers.items()}
        known = {row: (*found, fmean(found)) for row, found in rated.items() if found is not None}
        note = _note(answers, [row for row in rows if row not in known], len(predictions))
        nothing = (math.nan,) * len(self.config.columns)
        items = [known.get(row, nothing) for row in range(len(predictions))]
        return {
            column: Score(
                fmean(found[number] for found in known.values()) if known else None,
                tuple(each[number] for each in items) if known else (),
                note=note,
            )
            for number, column in enumerate(self.config.columns)
        }

    def _rows(self, keys: Sequence[str]) -> list[int]:
        """The rows that are rated: which depends on the keys alone, so that all captioners are rated on the same."""
        rows = sorted(range(len(keys)), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
        return sorted(rows[: self.config.items])

    def question(self, prediction: Decoded, reference: Reference) -> Question:
        """What the judge is asked of one caption."""
        told = {
            "view": SEEN if self.config.judge.sees_images else UNSEEN,
            "references": "\n".join(f"- {' '.join(text.split())}" for text in reference.texts),
            "caption": " ".join(prediction.text.split()) or "(nothing)",
        }
        # In one pass: a caption may hold such words itself.
        prompt = self.config.prompt or RATING_PROMPT
        text = re.sub(r"\{(view|references|caption)\}", lambda found: told[found[1]], prompt)
        return Question(text, reference.media if self.config.judge.sees_images else None)


@dataclass(frozen=True)
class _Questions(Sequence[Question]):
    """The questions on some rows; an image is fetched when its question is asked for."""

    metric: Judged
    predictions: Sequence[Decoded]
    references: Sequence[Reference]
    rows: Sequence[int]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row = self.rows[index]
        return self.metric.question(self.predictions[row], self.references[row])


def ratings(answer: str) -> tuple[float, ...] | None:
    """The ratings in an answer, in the order of `AXES`; None unless each stands there once, on a line of its own, and
    within the scale."""
    found = []
    for axis in AXES:
        lines = re.findall(rf"^[\s*_#>-]*{axis}[\s*_]*[:=](.*)$", answer, re.IGNORECASE | re.MULTILINE)
        said = lines[0] if len(lines) == 1 else ""
        number = re.fullmatch(rf"[\s*_]*(\d+(?:\.\d+)?)(?:\s*/\s*{HIGHEST})?[\s*_.]*", said)
        if number is None or float(number[1]) > HIGHEST:
            return None
        found.append(float(number[1]))
    return tuple(found)


def _note(answers: Mapping[int, str], unread: Sequence[int], count: int) -> str:
    told = [f"{len(answers)} of {count} items rated"] if len(answers) < count else []
    if unread:
        first = " ".join(answers[unread[0]].split())[:80]
        which = f"{len(unread)} of {len(answers)} answers could not be read and are left out"
        told.append(f"{which} (the first: {first!r})")
    return "; ".join(told)
