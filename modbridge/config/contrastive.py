"""Configs of a dual encoder that the run itself trains, whatever its modalities: how, and on which words."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator


class WordsConfig(BaseModel):
    """A word-level vocabulary, learned from the training captions: lower-cased words, no punctuation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["words"]
    min_count: int = Field(default=1, ge=1, description="rarer words become the unknown word")


class TrainConfig(BaseModel):
    """How the run trains the dual encoder. Defaults: those of CLIP (Radford et al. 2021, appendix F) where they do not
    depend on its scale; epochs, batch size and warm-up are ours.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=30, ge=1, description="passes over the items, each with one of its captions")
    batch_size: int = Field(default=256, ge=2, description="pairs that are told apart at once")
    lr: float = Field(default=5e-4, gt=0, description="AdamW's learning rate after the warm-up")
    weight_decay: float = Field(default=0.2, ge=0, description="AdamW's, of matrices only")
    warmup: int = Field(default=100, ge=0, description="steps of linear warm-up, before the cosine down to zero")
    logit_scale: float | Literal["learned"] = Field(
        default="learned",
        description="the factor on cosines in the loss; a high fixed one (100) keeps the modality gap open, a learned "
        "one lets it close",
    )

    seed: int | None = Field(
        default=None,
        ge=0,
        description="decides the encoder's random numbers in place of the run's seed, so that runs of all seeds share "
        "one encoder, as they would a published one",
    )

    @field_validator("logit_scale")
    @classmethod
    def _positive(cls, value: float | str) -> float | str:
        if not isinstance(value, str) and value <= 0:
            raise ValueError("the logit scale must be above 0, or the word 'learned'")
        return value
