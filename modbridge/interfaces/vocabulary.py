"""Vocabulary: named entities that an embedding can be compared with."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TypeVar

from modbridge.config.kinds import VocabularyConfig
from modbridge.interfaces.component import Component
from modbridge.spaces import Embeddings

VocabularyConfigT = TypeVar("VocabularyConfigT", bound=VocabularyConfig)


@dataclass(frozen=True)
class Entity:
    """A name and how near an embedding lies to it, higher is nearer."""

    name: str
    score: float


class Vocabulary(Component[VocabularyConfigT]):
    """Names with their embeddings."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names, in a fixed order, all different."""
        ...

    @abstractmethod
    def nearest(self, embeddings: Embeddings, k: int) -> list[list[Entity]]:
        """For each embedding the k nearest names, nearest first. Raises PortError for another space."""
        ...
