"""ROUGE-L: the longest common subsequence."""

from __future__ import annotations

from pycocoevalcap.rouge.rouge import Rouge

from modbridge.interfaces.metric import Score
from modbridge_metrics.caption import CaptionMetric
from modbridge_metrics.config import RougeLConfig


class RougeL(CaptionMetric[RougeLConfig]):
    """ROUGE-L F-measure with beta 1.2, mean over items (Lin 2004; pycocoevalcap's scorer).

    Precision and recall are each the best over the references, perhaps of two different ones.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        scorer = Rouge()
        # For the scorer "" is one word, which equals a blank reference; an empty prediction has nothing in common.
        items = [
            float(scorer.calc_score([candidate], texts)) if candidate else 0.0
            for candidate, texts in zip(candidates, references, strict=True)
        ]
        return {"rouge_l": Score(sum(items) / len(items), tuple(items))}
