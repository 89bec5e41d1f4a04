"""CIDEr: agreement with the consensus of the references."""

from __future__ import annotations

from pycocoevalcap.cider.cider import Cider as CocoCider

from modbridge.interfaces.metric import Score
from modbridge_metrics.caption import CaptionMetric, by_row
from modbridge_metrics.config import CiderConfig


class Cider(CaptionMetric[CiderConfig]):
    """What papers print as CIDEr: tf-idf cosine over 1- to 4-grams, times 10 (Vedantam et al. 2015).

    It is CIDEr-D: clipped counts, a Gaussian length penalty (sigma 6), no stemming. The same measure as
    `cider_d` of aac-metrics. The idf comes from the references of the very items scored, so scores of different
    test sets, or of a subset and its whole, are not comparable; and where all items have the same references (one item,
    for instance) every idf is 0 and there is no score: None with a note.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        if len({frozenset(texts) for texts in references}) < 2:
            note = (
                "CIDEr weighs words by how few items use them, which takes at least two items with different "
                f"references; found {len(references)} item(s) with one set of references"
            )
            return {"cider": Score(None, note=note)}
        corpus, items = CocoCider().compute_score(by_row(references), by_row([[c] for c in candidates]))
        return {"cider": Score(float(corpus), tuple(map(float, items)))}
