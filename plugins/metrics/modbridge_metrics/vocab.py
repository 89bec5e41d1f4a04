"""How many different words the predictions use."""

from __future__ import annotations

from aac_metrics.functional.vocab import vocab

from modbridge.interfaces.metric import Score
from modbridge_metrics.aac_config import VocabConfig
from modbridge_metrics.caption import CaptionMetric


class Vocab(CaptionMetric[VocabConfig]):
    """aac-metrics' vocabulary statistics: different words of all predictions; that over the different words of all
    references; that over the mean of one reference an item, drawn as often as the
    item with most references has some, with a fixed seed.

    They are facts of a set, so no item has a score of its own.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        corpus, _ = vocab(candidates, references)
        names = {"vocab": "cands", "vocab_ratio_full": "ratio_full", "vocab_ratio_avg": "ratio_avg"}
        return {column: Score(float(corpus[f"vocab.{name}"])) for column, name in names.items()}
