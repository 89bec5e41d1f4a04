"""Ways to find names for an item among those of a vocabulary, and which one a config asks for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch

from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError, DataError
from modbridge.interfaces.vocabulary import Vocabulary
from modbridge.noise import Draw
from modbridge_viecap import retrieval_config as blocks
from modbridge_viecap.calibration import Calibrated, mixed
from modbridge_viecap.concepts import Extract, FrequencyRetriever, MemoryRetriever
from modbridge_viecap.scoring import Candidate, Retriever, Side, cosines, ranked, standardised

__all__ = ["Candidate", "Retriever", "Side", "build_retriever"]

T = TypeVar("T")
STORE, EXTRACT = "the training captions", "a way to find the entities of texts"


def build_retriever(
    config: blocks.RetrievalChoice,
    vocabulary: Vocabulary[Any],
    *,
    calibrated: Sequence[Calibrated] | None = None,
    store: Datastore | None = None,
    extract: Extract | None = None,
) -> Retriever:
    """The retriever that `config` asks for.

    `calibrated`: one for each of the config's sides, where it is `automatic`. `store`: the training captions, where it
    `reads_captions`, with vectors for its sides (`Datastore.beside` joins two). `extract(texts)` -> the entities of
    each text, where it `reads_captions` and for oracles.
    """
    match config:
        case blocks.Softmax():
            return SoftmaxRetriever(config, vocabulary.listed, calibrated)
        case blocks.Cosine():
            parents = vocabulary.parents() if config.suppress_parents else {}
            return CosineRetriever(config, vocabulary.listed, parents)
        case blocks.Frequency():
            return FrequencyRetriever(config, _given(store, STORE), _given(extract, EXTRACT))
        case blocks.Memory():
            alike = (vocabulary.listed, vocabulary.vectors)
            return MemoryRetriever(config, *alike, _given(store, STORE), _given(extract, EXTRACT))
        case blocks.Oracle():
            return OracleRetriever(_given(extract, EXTRACT))
        case blocks.Random():
            return RandomRetriever(config, vocabulary.listed)
        case _:
            return NoRetriever()


class SoftmaxRetriever(Retriever):
    """ViECap's: the likeliest `top_k` names by a softmax over the vocabulary; those below the threshold came close."""

    def __init__(
        self, config: blocks.Softmax, names: Sequence[str], calibrated: Sequence[Calibrated] | None = None
    ) -> None:
        if config.automatic and (calibrated is None or len(calibrated) != len(config.sides)):
            raise ArtefactError(
                f"temperature or threshold is 'auto', and {len(calibrated or ())} of {len(config.sides)} are chosen; "
                f"they are chosen when the decoder is fitted. Fit it anew."
            )
        found = calibrated if calibrated is not None and config.automatic else ()
        self.config, self.names = config, names
        self.temperatures = (
            [one.temperature for one in found]
            if config.temperature == "auto"
            else [float(config.temperature)] * len(config.sides)
        )
        self.threshold = found[0].threshold if config.threshold == "auto" else float(config.threshold)

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        each = [cosines(side) for side in sides]
        if self.config.standardise:
            each = [standardised(values) for values in each]
        scores, level = mixed(each, self.temperatures)
        top = ranked(scores, self.config.top_k, level)
        return [
            tuple(Candidate(self.names[i], score, score >= self.threshold) for i, score in zip(row, of, strict=True))
            for row, of in zip(top.tolist(), scores.gather(1, top).tolist(), strict=True)
        ]


class CosineRetriever(Retriever):
    """ZerAuCap's: the nearest `top_k` names. `parents`: broader names by name, of those that may be suppressed."""

    def __init__(
        self, config: blocks.Cosine, names: Sequence[str], parents: Mapping[str, frozenset[str]] | None = None
    ) -> None:
        self.config, self.names = config, names
        self.parents = (parents or {}) if config.suppress_parents else {}

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        scores = torch.stack([cosines(side) for side in sides]).mean(dim=0)
        top = ranked(scores, self.config.top_k)
        found = []
        for row, of in zip(top.tolist(), scores.gather(1, top).tolist(), strict=True):
            names = [self.names[i] for i in row]
            broader: frozenset[str] = frozenset().union(*(self.parents.get(name, ()) for name in names))
            found.append(tuple(Candidate(n, score, n not in broader) for n, score in zip(names, of, strict=True)))
        return found


class OracleRetriever(Retriever):
    """The entities of the item's own references, those that most of them say first; each with the score 1."""

    def __init__(self, extract: Extract) -> None:
        self.extract = extract
        self.references: dict[str, tuple[str, ...]] = {}

    def tell(self, references: Mapping[str, Sequence[str]]) -> None:
        self.references = {key: tuple(texts) for key, texts in references.items()}

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        unknown = [key for key in keys if key not in self.references]
        if unknown:
            raise DataError(
                f"an oracle names what an item's captions say, and knows none of {len(unknown)} items, the first "
                f"{unknown[0]!r}. Give test data with captions, or another retrieval."
            )
        texts = [text for key in keys for text in self.references[key]]
        entities = iter(self.extract(texts))
        found = []
        for key in keys:
            counts = Counter(name for _ in self.references[key] for name in dict.fromkeys(next(entities)))
            found.append(tuple(Candidate(name, 1.0, True) for name, _ in counts.most_common()))
        return found


class RandomRetriever(Retriever):
    """Different names drawn from (seed, key), all alike; each with the chance of being drawn as its score."""

    def __init__(self, config: blocks.Random, names: Sequence[str]) -> None:
        self.names, self.count = names, min(config.count, len(names))

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        bits = Draw.of(keys, seed).named("random names").bits(len(self.names))
        chance = self.count / len(self.names)
        rows = bits.argsort(dim=1, stable=True)[:, : self.count].tolist()
        return [tuple(Candidate(self.names[i], chance, True) for i in row) for row in rows]


class NoRetriever(Retriever):
    """Finds nothing."""

    def retrieve(self, sides: Sequence[Side], keys: Sequence[str], seed: int) -> list[tuple[Candidate, ...]]:
        return [()] * len(keys)


def _given(value: T | None, what: str) -> T:
    if value is None:
        raise ValueError(f"this retrieval needs {what}")
    return value
