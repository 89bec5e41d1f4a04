"""SPIDEr and SPIDEr-FL: n-grams and scene graphs together, and a penalty for captions that are not fluent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Reference, Score
from modbridge_metrics.aac_config import SpiderConfig, SpiderFlConfig
from modbridge_metrics.caption import CaptionMetric, check_items
from modbridge_metrics.cider_d import cider_d_score
from modbridge_metrics.config import SpiceConfig
from modbridge_metrics.fluency import PENALTY, errors_of
from modbridge_metrics.spice import Spice

SpiderT = TypeVar("SpiderT", bound=SpiderConfig)


class _Spider(CaptionMetric[SpiderT]):
    def spider(self, candidates: list[str], references: list[list[str]]) -> Score:
        cider = cider_d_score(candidates, references)
        if cider.corpus is None:
            return cider
        spice = Spice(SpiceConfig(tokenizer=self.config.tokenizer)).measure(candidates, references)["spice"]
        if spice.corpus is None:
            return spice
        items = tuple((a + b) / 2 for a, b in zip(cider.items, spice.items, strict=True))
        return Score(_mean(items), items, note=spice.note)


class Spider(_Spider[SpiderConfig]):
    """SPIDEr = (CIDEr-D + SPICE) / 2 (Liu et al. 2017), CIDEr-D by aac-metrics, SPICE by our own run of its program.

    An item without a SPICE number has none here: it is left out of the mean, and the note counts them.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        return {"spider": self.spider(candidates, references)}


class SpiderFl(_Spider[SpiderFlConfig]):
    """SPIDEr-FL = SPIDEr x (1 - 0.9 x flag) of each item (DCASE 2023), flag 1 where FENSE's detector says "error"
    with p > 0.9. The detector reads the captions as they were predicted, SPIDEr their tokens."""

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        return {"spider_fl": self.spider(candidates, references)}

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        check_items(predictions, references)
        problem = self.config.missing()
        if problem:
            return self._unavailable(problem)
        # The detector first: one that is damaged is told before SPICE's minutes.
        flags = errors_of([p.text for p in predictions], self.config.echecker, self.config.device)
        plain = super().score(predictions, references)["spider_fl"]
        if plain.corpus is None:
            return {"spider_fl": plain}
        items = tuple(s * (1 - PENALTY * flag) for s, flag in zip(plain.items, flags, strict=True))
        return {"spider_fl": replace(plain, corpus=_mean(items), items=items)}


def _mean(items: Sequence[float]) -> float:
    known = [item for item in items if not math.isnan(item)]
    return sum(known) / len(known)
