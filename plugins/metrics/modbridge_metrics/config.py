"""Configs of the caption metrics: their columns, their tokenizer, and what the environment lacks for them."""

from __future__ import annotations

from typing import Literal

from modbridge.config.kinds import MetricConfig
from modbridge_metrics.environment import METEOR_FILES, PTB_FILES, lacking, spice_lacking

Tokenizer = Literal["simple", "ptb", "whitespace"]


class CaptionMetricConfig(MetricConfig):
    """What the five metrics share.

    `tokenizer`: how captions become words.
    "simple" (default, ours, no Java): lower case, punctuation off, clitics apart (see `tokenizers.simple_words`).
    "ptb": the Stanford PTBTokenizer that pycocoevalcap bundles (needs Java), as published numbers are computed.
    "whitespace": split at white space and nothing else, for captions that are tokenised already.
    """

    tokenizer: Tokenizer = "simple"

    def missing(self) -> str | None:
        """Why the metric cannot be computed here and what to do; downloads nothing."""
        return lacking("the ptb tokenizer", PTB_FILES) if self.tokenizer == "ptb" else None


class BleuConfig(CaptionMetricConfig):
    """Config of BLEU-1 to BLEU-4."""

    type: Literal["bleu"] = "bleu"

    @property
    def columns(self) -> tuple[str, ...]:
        return ("bleu_1", "bleu_2", "bleu_3", "bleu_4")


class RougeLConfig(CaptionMetricConfig):
    """Config of ROUGE-L."""

    type: Literal["rouge_l"] = "rouge_l"


class CiderConfig(CaptionMetricConfig):
    """Config of CIDEr (CIDEr-D)."""

    type: Literal["cider"] = "cider"


class MeteorConfig(CaptionMetricConfig):
    """Config of METEOR 1.5. Needs Java under any tokenizer."""

    type: Literal["meteor"] = "meteor"

    def missing(self) -> str | None:
        return lacking("METEOR", METEOR_FILES) or super().missing()


class SpiceConfig(CaptionMetricConfig):
    """Config of SPICE 1.0. Needs Java 8 to 14 and the CoreNLP files under any tokenizer."""

    type: Literal["spice"] = "spice"

    def missing(self) -> str | None:
        return spice_lacking() or super().missing()
