"""BLEU-1 to BLEU-4 of a corpus."""

from __future__ import annotations

from pycocoevalcap.bleu.bleu import Bleu as CocoBleu

from modbridge.interfaces.metric import Score
from modbridge_metrics.caption import CaptionMetric, by_row
from modbridge_metrics.config import BleuConfig


class Bleu(CaptionMetric[BleuConfig]):
    """BLEU with clipped counts summed over the corpus and the closest reference length (Papineni et al. 2002).

    pycocoevalcap's scorer: unsmoothed but for constants (1e-15 hits, 1e-9 guesses) that keep it defined, so a corpus
    without one matching 4-gram gets a tiny BLEU-4, not 0. Item scores are the same formula on one item, hence often
    near 0 for BLEU-4; their mean is not the corpus score.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        corpus, items = CocoBleu(4).compute_score(by_row(references), by_row([[c] for c in candidates]), verbose=0)
        return {
            column: Score(float(score), tuple(map(float, each)))
            for column, score, each in zip(self.config.columns, corpus, items, strict=True)
        }
