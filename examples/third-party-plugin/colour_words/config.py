"""The configs of the parts: all that can be known of them without weights. Neither torch nor numpy is imported here."""

from __future__ import annotations

from typing import Annotated

from modbridge.config.component import Affects
from modbridge.config.kinds import BridgeConfig, EncoderConfig
from modbridge.spaces import Port, Space
from pydantic import Field


class ColourWordsConfig(EncoderConfig):
    """Colour histograms of images and words of texts, joined by the canonical correlations of training pairs."""

    grid: Annotated[int, Field(ge=1)] = 4
    """An image is cut into grid x grid regions, with a histogram for each."""
    bins: Annotated[int, Field(ge=2)] = 3
    """Bins of each of red, green and blue; a region's histogram has bins ** 3 numbers."""
    buckets: Annotated[int, Field(ge=2)] = 512
    """Words, and pairs of neighbours, are counted in so many buckets by a hash."""
    dim: Annotated[int, Field(ge=1)] = 32
    """How many canonical directions are kept, the strongest first."""
    ridge: Annotated[float, Field(gt=0)] = 0.1
    """What is added to the variances before they are inverted, as a share of their mean: more for fewer pairs."""
    power: Annotated[float, Field(ge=0)] = 2.0
    """Directions are weighted by their correlation to this power, so that weak ones do not drown the strong."""
    batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 256
    """How many items are encoded at once."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    @property
    def needs_fit(self) -> bool:
        return True

    def emits(self, modality: str) -> Port:
        # The core adds what it was trained on to the id: vectors of two trainings are never compared.
        return Port(
            space=Space(id=f"colour_words/{self.grid}-{self.bins}-{self.buckets}", dim=self.dim), modality=modality
        )


class QuantileMatchConfig(BridgeConfig):
    """Histogram matching: each dimension of source vectors is given the distribution that texts have there."""

    quantiles: Annotated[int, Field(ge=2)] = 101
    """How many quantiles of each distribution are kept, the smallest and the greatest value among them."""
    strength: Annotated[float, Field(ge=0, le=1), Affects("cross")] = 1.0
    """How far vectors go from what they are (0) to the matched ones (1)."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})

    def crosses(self, source: Port, text: Port) -> Port:
        text.require(source, what=f"the bridge {self.type!r} matches two modalities of one space")
        return source.changed(bridge=self.type)
