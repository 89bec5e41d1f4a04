"""Configs of audio captioning's metrics, as aac-metrics 0.5.4 defines them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import MetricConfig
from modbridge_metrics.config import CaptionMetricConfig
from modbridge_metrics.environment import spice_lacking
from modbridge_metrics.fluency_files import echecker_lacking, sbert_lacking

ECHECKER = "echecker_clotho_audiocaps_base"
SBERT = "paraphrase-TinyBERT-L6-v2"


class CiderDConfig(CaptionMetricConfig):
    """Config of CIDEr-D by aac-metrics' code; the same measure as `cider`."""

    type: Literal["cider_d"] = "cider_d"


class SpiderConfig(CaptionMetricConfig):
    """Config of SPIDEr, the mean of CIDEr-D and SPICE. Needs what `spice` needs: Java 8 to 14 and CoreNLP files."""

    type: Literal["spider"] = "spider"

    def missing(self) -> str | None:
        return spice_lacking() or super().missing()


class SpiderFlConfig(SpiderConfig):
    """Config of SPIDEr-FL: SPIDEr, a tenth of it where the caption is not fluent."""

    type: Literal["spider_fl"] = "spider_fl"  # type: ignore[assignment]
    echecker: str = Field(default=ECHECKER, description="FENSE's error detector: its name, or the path of a .ckpt")
    device: Annotated[str, Affects("nothing")] = Field(default="cpu", description="where the detector runs")

    def missing(self) -> str | None:
        return super().missing() or echecker_lacking(self.echecker)


class FenseConfig(MetricConfig):
    """Config of FENSE and its two parts. It takes captions as they are, so there is no tokenizer to choose."""

    type: Literal["fense"] = "fense"
    sbert: str = Field(default=SBERT, description="the Sentence-BERT model: a hub name, or the path of its folder")
    echecker: str = Field(default=ECHECKER, description="the error detector: its name, or the path of a .ckpt")
    device: Annotated[str, Affects("nothing")] = Field(default="cpu", description="where both models run")

    @property
    def columns(self) -> tuple[str, ...]:
        return ("fense", "sbert_sim", "fer")

    def missing(self) -> str | None:
        return sbert_lacking(self.sbert) or echecker_lacking(self.echecker)


class VocabConfig(CaptionMetricConfig):
    """Config of how many different words the predictions use, and what part of the references' vocabulary that is."""

    type: Literal["vocab"] = "vocab"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("vocab", "vocab_ratio_full", "vocab_ratio_avg")
