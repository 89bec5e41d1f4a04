"""CIDEr-D by aac-metrics."""

from __future__ import annotations

from aac_metrics.functional.cider_d import cider_d

from modbridge.interfaces.metric import Score
from modbridge_metrics.aac_config import CiderDConfig
from modbridge_metrics.caption import CaptionMetric


class CiderD(CaptionMetric[CiderDConfig]):
    """CIDEr-D as aac-metrics 0.5.4 computes it (n 4, sigma 6, times 10), on our tokens.

    The same measure as `cider`, by other code, to be set beside figures of audio papers. Both take the idf from the
    references of the items scored.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        return {"cider_d": cider_d_score(candidates, references)}


def cider_d_score(candidates: list[str], references: list[list[str]]) -> Score:
    """The score of tokenised captions; None with a note where every idf would be 0, as for one item."""
    if len({frozenset(texts) for texts in references}) < 2:
        note = (
            "CIDEr-D weighs words by how few items use them, which takes at least two items with different "
            f"references; found {len(references)} item(s) with one set of references"
        )
        return Score(None, note=note)
    corpus, items = cider_d(candidates, references)
    return Score(float(corpus["cider_d"]), tuple(map(float, items["cider_d"])))
