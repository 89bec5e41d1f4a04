"""Names from the training captions that an item is near to: IFCap's frequency, MeaCap's memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from modbridge.datastore import Datastore
from modbridge_viecap.retrieval_config import Frequency, Memory
from modbridge_viecap.scoring import Candidate, Retriever, Side, unit

Extract = Callable[[Sequence[str]], list[list[str]]]


@dataclass(frozen=True)
class Concept:
    """An entity of retrieved captions: how many of them say it, and the mean similarity of these to the item."""

    name: str
    count: int
    similarity: float


class CaptionRetriever(Retriever):
    """What both have in common: captions looked up as `config` says, their entities counted.

    `store`: the training captions, whose vectors are those that the sides' queries are compared with, one side's behind
    the other's (`Datastore.beside`) where there are two.
    """

    def __init__(self, config: Frequency | Memory, store: Datastore, extract: Extract) -> None:
        self.captions, self.search, self.store, self.extract = config.captions, config.search, store, extract

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        # Unit vectors one behind the other have as their cosine the mean of both sides' cosines.
        queries = torch.cat([unit(side.queries) for side in sides], dim=1)
        found = self.store.nearest_scored(queries, self.captions, self.search)
        texts = list(dict.fromkeys(text for row in found for text, _ in row))
        entities = dict(zip(texts, self.extract(texts), strict=True))
        return [self.chosen(concepts(row, entities), len(row)) for row in found]

    @abstractmethod
    def chosen(self, found: list[Concept], captions: int) -> tuple[Candidate, ...]:
        """The candidates of one item from its concepts, the best of which come first, in so many captions."""
        ...


def concepts(captions: Sequence[tuple[str, float]], entities: Mapping[str, Sequence[str]]) -> list[Concept]:
    """The entities of captions with their similarities, those that most of them say first; where level the more
    similar, then in the order of the alphabet. A caption that says one twice counts once."""
    said: dict[str, list[float]] = {}
    for text, similarity in captions:
        for name in dict.fromkeys(entities[text]):
            said.setdefault(name, []).append(similarity)
    found = [Concept(name, len(of), round(sum(of) / len(of), 9)) for name, of in said.items()]
    return sorted(found, key=lambda one: (-one.count, -one.similarity, one.name))


class FrequencyRetriever(CaptionRetriever):
    """IFCap's: names that enough of the captions say. The score is the share of the captions that do."""

    def __init__(self, config: Frequency, store: Datastore, extract: Extract) -> None:
        super().__init__(config, store, extract)
        self.config = config

    def chosen(self, found: list[Concept], captions: int) -> tuple[Candidate, ...]:
        most = len(found) if self.config.most is None else self.config.most
        enough = self._enough([one.count for one in found])
        return tuple(
            Candidate(one.name, one.count / captions, is_enough and place < most)
            for place, (one, is_enough) in enumerate(zip(found, enough, strict=True))
        )

    def _enough(self, counts: list[int]) -> list[bool]:
        if self.config.alpha is None or not counts:
            return [count >= self.config.needed for count in counts]
        mean = sum(counts) / len(counts)
        spread = (sum((count - mean) ** 2 for count in counts) / len(counts)) ** 0.5
        return [count > mean + self.config.alpha * spread for count in counts]


class MemoryRetriever(CaptionRetriever):
    """MeaCap's without its scene graphs: the concepts of the captions, like ones merged. The score is the share of the
    captions that say it.

    `names`, `vectors`: the vocabulary's, whose unit vectors (V, D) say what is alike; a concept that is no name of it
    is like no other.
    """

    def __init__(
        self, config: Memory, names: Sequence[str], vectors: torch.Tensor, store: Datastore, extract: Extract
    ) -> None:
        super().__init__(config, store, extract)
        self.config = config
        self.row = {name: row for row, name in enumerate(names)}
        whole = unit(vectors)
        self.directions = unit(whole - whole.mean(dim=0))

    def chosen(self, found: list[Concept], captions: int) -> tuple[Candidate, ...]:
        kept: list[Concept] = []
        candidates = []
        for one in found:
            stays = len(kept) < self.config.most and not any(self._alike(one.name, other.name) for other in kept)
            if stays:
                kept.append(one)
            candidates.append(Candidate(one.name, one.count / captions, stays))
        return tuple(candidates)

    def _alike(self, name: str, other: str) -> bool:
        if name not in self.row or other not in self.row:
            return False
        cosine = self.directions[self.row[name]] @ self.directions[self.row[other]]
        return round(float(cosine), 9) > self.config.merge
