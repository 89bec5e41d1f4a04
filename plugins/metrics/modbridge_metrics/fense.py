"""FENSE: likeness of sentences, less a penalty for captions that are not fluent."""

from __future__ import annotations

from collections.abc import Sequence

from aac_metrics.functional.sbert_sim import sbert_sim

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_metrics.aac_config import FenseConfig
from modbridge_metrics.caption import check_items
from modbridge_metrics.fluency import PENALTY, errors_of, sentence_model


class Fense(Metric[FenseConfig]):
    """FENSE = SBERT-sim x (1 - 0.9 x flag) of each item (Zhou et al. 2022), with SBERT-sim, the mean cosine to the
    references, and FER, the share of captions with an error flag (lower is better).

    Captions go in as they are, which is what FENSE's authors do; aac-metrics' `evaluate` tokenises them by PTB first.
    An empty prediction is a sentence like any other and scores what the models give it, which need not be 0.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """A score for each column; None with a note where a model is missing. Raises DataError as caption metrics do,
        SetupError for a model that is damaged."""
        check_items(predictions, references)
        problem = self.config.missing()
        if problem:
            return {column: Score(None, note=problem) for column in self.config.columns}
        candidates = [prediction.text for prediction in predictions]
        flags = errors_of(candidates, self.config.echecker, self.config.device)
        model = sentence_model(self.config.sbert, self.config.device)
        _, found = sbert_sim(
            candidates,
            [list(reference.texts) for reference in references],
            sbert_model=model,
            device=self.config.device,
        )
        similar = [float(value) for value in found["sbert_sim"]]
        fense = [value * (1 - PENALTY * flag) for value, flag in zip(similar, flags, strict=True)]
        count = len(fense)
        return {
            "fense": Score(sum(fense) / count, tuple(fense)),
            "sbert_sim": Score(sum(similar) / count, tuple(similar)),
            "fer": Score(sum(flags) / count, tuple(flags), higher_is_better=False),
        }
