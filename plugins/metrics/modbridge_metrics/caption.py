"""What the five caption metrics share: checking the items, tokenising, and saying why a score is missing."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_metrics.config import CaptionMetricConfig
from modbridge_metrics.java import JavaFailed
from modbridge_metrics.tokenizers import NAMES, tokenize

CaptionConfigT = TypeVar("CaptionConfigT", bound=CaptionMetricConfig)


class CaptionMetric(Metric[CaptionConfigT], Generic[CaptionConfigT]):
    """A metric on tokenised captions. Scores are fractions as the scorers give them (papers print 100 times them).

    An empty prediction is an item like any other and scores what the measure gives it: 0.
    """

    @abstractmethod
    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        """The scores of tokenised candidates (N) against tokenised references (N, at least one each)."""
        ...

    @property
    def tokenizer(self) -> str:
        return NAMES[self.config.tokenizer]

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """A score for each of `config.columns`; corpus None and a note where Java or a file is missing or fails.

        Raises DataError if there are no items, if the rows do not belong together, or if an item has no reference.
        """
        check_items(predictions, references)
        problem = self.config.missing()
        if problem:
            return self._unavailable(problem)
        flat = [prediction.text for prediction in predictions] + [t for r in references for t in r.texts]
        try:
            tokens = iter(tokenize(flat, self.config.tokenizer))
            candidates = [next(tokens) for _ in predictions]
            grouped = [[next(tokens) for _ in reference.texts] for reference in references]
            for reference, texts in zip(references, grouped, strict=True):
                if not any(texts):
                    raise DataError(
                        f"the references of {reference.key!r} hold no word under the tokenizer {self.tokenizer}: found "
                        f"{list(reference.texts)!r}, expected a caption. Leave the item out or mend its data."
                    )
            return self.measure(candidates, grouped)
        except JavaFailed as error:
            return self._unavailable(str(error))

    def _unavailable(self, note: str) -> dict[str, Score]:
        return {column: Score(None, note=note) for column in self.config.columns}


def by_row(texts: Sequence[list[str]]) -> dict[int, list[str]]:
    """The form pycocoevalcap takes, with rows for ids: a key that occurs twice stays two items."""
    return dict(enumerate(texts))


def check_items(predictions: Sequence[Decoded], references: Sequence[Reference]) -> None:
    """Raises DataError unless there are items, row by row the same, each with a reference."""
    if not predictions:
        raise DataError("there are no predictions to score; expected at least one.")
    if len(predictions) != len(references):
        raise DataError(f"found {len(predictions)} predictions for {len(references)} items; expected one for each.")
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        if prediction.key != reference.key:
            raise DataError(
                f"row {row} predicts {prediction.key!r} but its references are of {reference.key!r}; "
                f"give both in one order."
            )
        if not reference.texts:
            raise DataError(
                f"the item {reference.key!r} has no references, so its prediction cannot be scored. Leave it out, or "
                f"give the source its captions."
            )
