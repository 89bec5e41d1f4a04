"""Which names a training caption gives: extracted, filtered, masked at random. Each of the three can be turned off."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from modbridge.interfaces import Vocabulary
from modbridge_viecap.entities_config import Entities
from modbridge_viecap.extractors import Extractor, build_extractor
from modbridge_viecap.filters import EntityFilter, masked, shuffled


class Naming:
    """The names of captions, by those of `vocabulary`, whose file is read when the first caption comes."""

    def __init__(self, config: Entities, vocabulary: Vocabulary[Any], seed: int) -> None:
        self.config, self.vocabulary, self.seed = config, vocabulary, seed

    @cached_property
    def _extractor(self) -> Extractor:
        return build_extractor(self.config, self.vocabulary.listed, self.vocabulary.synonyms())

    @cached_property
    def _filter(self) -> EntityFilter:
        return EntityFilter(self.config, self.vocabulary.listed, self.vocabulary.synonyms())

    def of(self, texts: Sequence[str]) -> list[list[str]]:
        """The names that each text gives, in order, each once; not masked."""
        return self._filter.keep_all(self._extractor.extract(texts))

    def masked(self, named: Sequence[Sequence[str]], keys: Sequence[str], epoch: int) -> list[list[str]]:
        """The names of each caption that are left in an epoch, and in which order, whatever the batch."""
        left = masked(named, keys, prob=self.config.mask, seed=self.seed, epoch=epoch)
        return left if self.config.order == "caption" else shuffled(left, keys, seed=self.seed, epoch=epoch)
