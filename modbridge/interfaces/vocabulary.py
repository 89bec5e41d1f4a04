"""Vocabulary: named entities that an embedding can be compared with."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.nn.functional import normalize

from modbridge.config.kinds import VocabularyConfig
from modbridge.errors import ArtefactError, DataError
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.fitting import Fitting
from modbridge.spaces import Embeddings

VocabularyConfigT = TypeVar("VocabularyConfigT", bound=VocabularyConfig)
NAMES = "names.json"


@dataclass(frozen=True)
class Entity:
    """A name and how near an embedding lies to it, higher is nearer."""

    name: str
    score: float


class Vocabulary(Component[VocabularyConfigT]):
    """Names with their embeddings. Authors write `names`, and `prompts` where a name is embedded by other texts than
    itself; the core embeds, keeps and compares.

    Its port "text" is that of clean text vectors. Before `index` or loading there are names, but no vectors.
    """

    def __init__(self, config: VocabularyConfigT, context: BuildContext) -> None:
        super().__init__(config, context)
        self._vectors: torch.Tensor | None = None
        self._listed: list[str] | None = None

    @abstractmethod
    def names(self) -> list[str]:
        """The names, in a fixed order, all different."""
        ...

    def prompts(self) -> list[list[str]]:
        """For each name the texts that stand for it (at least one each); the name itself by default."""
        return [[name] for name in self.names()]

    def synonyms(self) -> Mapping[str, Sequence[str]]:
        """Other words for names, by name, for finding them in texts."""
        return {}

    def parents(self) -> Mapping[str, frozenset[str]]:
        """Broader names among the names, by name ("male speech": {"speech"}), where the vocabulary knows them."""
        return {}

    def index(self, fitting: Fitting) -> None:
        """Embed the names: of each the unit mean of the unit vectors of its prompts (CLIP's ensembling).

        Raises DataError for names that are none or double, or whose prompts cancel each other out.
        """
        names, prompts = self.listed, self.prompts()
        flat = [text for texts in prompts for text in texts]
        found = normalize(fitting.embed_texts(flat).values.to(self.device, torch.float32), dim=1)
        owner = torch.tensor([i for i, texts in enumerate(prompts) for _ in texts], device=found.device)
        sums = torch.zeros(len(names), found.shape[1], device=found.device).index_add_(0, owner, found)
        if not (sums.norm(dim=1) > 1e-6).all():
            raise DataError(f"the prompts of a name of the vocabulary {self.config.type!r} have no mean direction.")
        self._vectors = normalize(sums, dim=1)

    @property
    def listed(self) -> list[str]:
        """The names that `vectors` belong to, row by row: those of `names`, or those that were stored, whose file need
        not be here."""
        if self._listed is None:
            self._listed = checked_names(self.names(), self.config.type)
        return self._listed

    @property
    def vectors(self) -> torch.Tensor:
        """The names' unit vectors (V, D), float32, on the device."""
        if self._vectors is None:
            raise ArtefactError(
                f"the vocabulary {self.config.type!r} has no vectors yet: they are made when the decoder is fitted."
            )
        return self._vectors

    def nearest(self, embeddings: Embeddings, k: int) -> list[list[Entity]]:
        """For each embedding the k nearest names by cosine, nearest first. Raises PortError for another space or
        frame."""
        port = self.context.ports["text"]
        port.require(embeddings.port, what=f"the vocabulary {self.config.type!r} knows its names by other vectors")
        x = normalize(embeddings.values.to(self.device, torch.float32), dim=1)
        names = self.listed
        top = (x @ self.vectors.T).topk(min(k, len(names)), dim=1)
        return [
            [Entity(names[i], score) for i, score in zip(row, scores, strict=True)]
            for row, scores in zip(top.indices.tolist(), top.values.tolist(), strict=True)
        ]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self._vectors is None else {"vectors": self._vectors}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if not tensors:
            return  # it was stored before its names were embedded: only they were asked for
        found = tensors.get("vectors")
        wanted = (len(self.listed), self.context.dim())
        if found is None or tuple(found.shape) != wanted:
            shape = None if found is None else tuple(found.shape)
            raise ArtefactError(f"the vocabulary's vectors are {shape}; expected {wanted}. Fit the decoder anew.")
        self._vectors = found.to(self.device, torch.float32)

    def save_extra(self, folder: Path) -> None:
        text = json.dumps({"names": self.listed}, indent=1, ensure_ascii=False)
        (folder / NAMES).write_text(text + "\n", encoding="utf-8")

    def load_extra(self, folder: Path) -> None:
        try:
            kept = list(map(str, json.loads((folder / NAMES).read_text(encoding="utf-8"))["names"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"{folder / NAMES} cannot be read ({error}); fit the decoder anew.") from error
        try:
            now = self.names()
        except DataError:
            now = kept  # its file stayed on the machine that made the vectors
        if kept != now:
            raise ArtefactError(
                f"the vocabulary {self.config.type!r} has other names now ({len(now)}) than when its vectors were made "
                f"({len(kept)}, in {folder}). Give that vocabulary, or fit the decoder anew."
            )
        self._listed = kept


def checked_names(names: list[str], where: str) -> list[str]:
    """The names, or a DataError if there are none or two are the same."""
    if not names:
        raise DataError(f"the vocabulary {where!r} is empty: found no names, expected at least one.")
    doubles = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if doubles:
        raise DataError(
            f"the vocabulary {where!r} holds {len(doubles)} names twice, the first {doubles[0]!r}; expected each once."
        )
    return names
