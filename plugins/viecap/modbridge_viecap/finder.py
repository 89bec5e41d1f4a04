"""Finding names in items: which vectors are compared with which names, and what that is calibrated on.

Raw: the item's own vector beside the names' (ViECap's). Bridged: both without the mean of the training captions, and of
unit length again, which is where bridged vectors lie near texts (a text-text comparison, so another temperature and
threshold hold there). Mix: both scores, averaged. Everything is calibrated on training captions alone: their clean
vectors stand for raw ones, those that the writer is trained on for bridged ones, and the names that a caption says for
what is there (ours).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from modbridge.config.search import advice
from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError
from modbridge.interfaces import BuildContext, Fitting, TextVectors, Vocabulary
from modbridge.training import derived_seed, epoch_order
from modbridge_viecap.calibration import Calibrated, calibrate_mix
from modbridge_viecap.config import ViecapConfig
from modbridge_viecap.matcher import Matcher
from modbridge_viecap.naming import Naming
from modbridge_viecap.retrieval_config import Captions, Softmax
from modbridge_viecap.retrievers import Candidate, Retriever, Side, build_retriever

NOTE = "entities.json"
SAMPLE = 2000  # training captions that retrieval is calibrated on
_TENSORS = ("text_mean", "sample.clean", "sample.given")
_STORE = "memory.vectors"


class Finder:
    """Vocabulary and retriever of a `ViecapDecoder`, with what they keep of the training captions.

    `text_mean` (D,): of the captions' unit vectors. `clean`, `given`: vectors (n, D) of up to SAMPLE captions, as the
    encoder gives them and as the writer is trained on. `truth`: the numbers of the names that each of them says.
    """

    def __init__(
        self, config: ViecapConfig, context: BuildContext, vocabulary: Vocabulary[Any], naming: Naming
    ) -> None:
        self.config, self.context, self.vocabulary, self.naming = config, context, vocabulary, naming
        self.text_mean = self.clean = self.given = torch.empty(0)
        self.truth: list[list[int]] = []
        self.store: Datastore | None = None
        self.references: Mapping[str, Sequence[str]] = {}

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Embed the vocabulary, and keep a sample of the captions, drawn by the seed."""
        self.vocabulary.index(fitting)
        clean = normalize(vectors.embeddings.values.float(), dim=1)
        order = epoch_order(len(targets), derived_seed("entities", fitting.seed), 0)
        rows = sorted(order[:SAMPLE].tolist())
        device = self.context.device
        self.text_mean = clean.mean(0).to(device)
        self.clean = clean[rows].to(device, torch.float16)
        self.given = vectors.batch(rows, 0).to(device, torch.float16)
        numbers = {name: number for number, name in enumerate(self.vocabulary.listed)}
        matcher = Matcher(self.vocabulary.listed, self.vocabulary.synonyms())
        self.truth = [[numbers[name] for name in names] for names in matcher.find_all([targets[i] for i in rows])]
        self.store = Datastore.of(vectors.embeddings, targets, device) if self.config.remembers else None
        if self.store is not None and isinstance(self.config.retrieval, Captions):
            note = advice(self.config.retrieval.search, len(self.store.texts))
            if note is not None:
                fitting.log(note=f"{self.config.type}'s retrieval: {note}.")
        for kept in ("calibrated", "retriever"):
            self.__dict__.pop(kept, None)
        for side, found in zip(self.config.retrieval.sides, self.calibrated or (), strict=False):
            fitting.log(calibrated=side, **asdict(found))

    def find(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[tuple[Candidate, ...]]:
        """For each item what was found, the best first. Without `source` (texts that are decoded as they are) the raw
        vectors are the bridged ones."""
        return self.retriever.retrieve(self._sides(bridged, bridged if source is None else source), keys, seed)

    def tell(self, references: Mapping[str, Sequence[str]]) -> None:
        self.references = references
        self.__dict__.pop("retriever", None)

    @cached_property
    def calibrated(self) -> list[Calibrated] | None:
        """What is chosen on the sample of captions, for each side; None where the config leaves nothing open."""
        config = self.config.retrieval
        if not isinstance(config, Softmax) or not config.automatic:
            return None
        sides = self._sides(self.given.float(), self.clean.float())
        return calibrate_mix(
            sides,
            self.truth,
            top_k=config.top_k,
            temperature=None if config.temperature == "auto" else config.temperature,
            threshold=None if config.threshold == "auto" else config.threshold,
            standardise=config.standardise,
        )

    @cached_property
    def retriever(self) -> Retriever:
        found = build_retriever(
            self.config.retrieval,
            self.vocabulary,
            calibrated=self.calibrated,
            store=self._captions(),
            extract=self.naming.of,
        )
        found.tell(self.references)
        return found

    def _captions(self) -> Datastore | None:
        """The kept captions among vectors of the sides that the retrieval looks at."""
        if self.store is None:
            return None
        stores = {"raw": self.store, "bridged": self.store.centred(self.text_mean)}
        first, *others = (stores[side] for side in self.config.retrieval.sides)
        return first.beside(others[0]) if others else first

    def _sides(self, bridged: torch.Tensor, raw: torch.Tensor) -> list[Side]:
        """The comparisons that the retrieval looks at."""
        found = []
        names = self.vocabulary.vectors
        for side in self.config.retrieval.sides:
            if side == "raw":
                found.append(Side(normalize(raw, dim=1), names))
                continue
            x = normalize(bridged, dim=1)
            if self.context.ports["text"].frame != "centred":
                x = normalize(x - self.text_mean, dim=1)
            found.append(Side(x, normalize(names - self.text_mean, dim=1)))
        return found

    def tensors(self) -> dict[str, torch.Tensor]:
        found = dict(zip(_TENSORS, (self.text_mean, self.clean, self.given), strict=True))
        return found if self.store is None else {**found, _STORE: self.store.vectors}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up what `tensors` gave. Raises ArtefactError if something is missing or of another size, or names are
        said that the vocabulary lacks."""
        dim, device = self.context.dim(), self.context.device
        wanted = {name: (dim,) if name == _TENSORS[0] else (len(self.truth), dim) for name in _TENSORS}
        found = {name: tuple(tensors[name].shape) for name in wanted if name in tensors}
        if found != wanted:
            raise ArtefactError(f"the decoder's own vectors are {found}; expected {wanted}. Fit the decoder anew.")
        count = len(self.vocabulary.listed)
        if not all(0 <= number < count for names in self.truth for number in names):
            raise ArtefactError(f"{NOTE} speaks of other names than the vocabulary's {count}. Fit the decoder anew.")
        self.text_mean, self.clean, self.given = (tensors[name].to(device) for name in _TENSORS)
        if self.store is not None:
            self.store = self.store.with_vectors(tensors.get(_STORE))

    def save(self, folder: Path, sentence: str) -> None:
        """Write what is no tensor. `sentence`: the template that the writer learnt to read."""
        text = json.dumps({"template": sentence, "truth": self.truth}, ensure_ascii=False)
        (folder / NOTE).write_text(text + "\n", encoding="utf-8")
        if self.store is not None:
            self.store.save(folder)

    def load(self, folder: Path) -> str:
        """Read what `save` wrote; gives the template."""
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            self.truth = [[int(number) for number in names] for names in note["truth"]]
            sentence = str(note["template"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{folder / NOTE} cannot be read ({error}); expected what the decoder knows of its training captions. "
                f"Copy the artefact again, whole, or fit the decoder anew."
            ) from error
        if self.config.remembers:
            self.store = Datastore.load(folder, self.context.dim(), self.context.device)
        return sentence
