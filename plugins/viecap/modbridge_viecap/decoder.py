"""The entity-prompt decoder: what is found in the item as words, beside the soft prompt from the bridged vector.

ViECap (Fei et al., ICCV 2023): in training the names come out of the captions, filtered and masked at random, so that
the language model learns to use but not to trust them; at test time they come from the item's vector. The soft prompt
comes from the bridged vector, the names from the raw one, because the two repair different things: a bridge takes the
gap away, names bring in what the training texts never said together. The language model itself is a decoder of its own
(`writer`), which reads words and vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modbridge.errors import ArtefactError
from modbridge.interfaces import BuildContext, Decoded, Decoder, Fitting, Hints, TextVectors, Vocabulary
from modbridge.store.keys import stable_hash
from modbridge_viecap.config import ENTITIES, ViecapConfig
from modbridge_viecap.finder import Finder
from modbridge_viecap.naming import Naming
from modbridge_viecap.retrievers import Candidate


class ViecapDecoder(Decoder[ViecapConfig]):
    """Finds entities, puts them into words, and lets its writer read words and vectors (B, D)."""

    def __init__(self, config: ViecapConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        writer, vocabulary = context.parts["writer"], context.parts["vocabulary"]
        training = context.parts.get("training_vocabulary", vocabulary)
        assert isinstance(writer, Decoder)
        assert isinstance(vocabulary, Vocabulary)
        assert isinstance(training, Vocabulary)
        self.writer: Decoder[Any] = writer
        self.naming = Naming(config.entities, training, context.seed)
        self.finder = Finder(config, context, vocabulary, self.naming)
        source = context.ports.get("source", context.ports["text"])
        self.sentence = config.prompt.sentence(source.modality)

    @property
    def batch_size(self) -> int:
        return self.writer.batch_size

    @property
    def pool_size(self) -> int:
        return self.writer.pool_size

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Embed the vocabulary, keep what retrieval is calibrated on, and let the writer learn to write `targets`
        from text vectors (N, D) and the names that the targets say, masked at random.

        Raises what the vocabulary, the extractor and the writer raise, and DataError where retrieval is to be
        calibrated and no caption says any name.
        """
        if self.config.alone:
            fitting.fit_decoder(self.writer, vectors, targets)
            return
        self.finder.fit(vectors, targets, fitting)
        named = self.naming.of(targets)
        fitting.log(
            fit="viecap",
            names=len(self.finder.vocabulary.listed),
            entities=sum(map(len, named)) / max(1, len(named)),
            without=sum(not names for names in named),
        )
        fitting.fit_decoder(self.writer, self._hinted(vectors, named), targets)

    def text_loss(self, vectors: TextVectors, targets: Sequence[str]) -> float:
        """The writer's loss of `targets` (N texts), given the names that they say, masked as in the first epoch."""
        if not self.config.alone:
            vectors = self._hinted(vectors, self.naming.of(targets))
        return self.writer.text_loss(vectors, targets)

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        """Captions of vectors (B, D). Details: `entities`, what was found with scores, and what of it came through;
        `prompt`, the words that the writer read."""
        if self.config.alone:
            return self.writer.decode_batch(bridged, source, keys, seed)
        found = self.finder.find(bridged, source, keys, seed)
        prompts = [self.words([one.name for one in candidates if one.kept]) for candidates in found]
        written = self.writer.decode_hinted(bridged, source, prompts, keys, seed)
        return [
            Decoded(one.key, one.text, one.score, {**one.details, "entities": _plain(candidates), "prompt": prompt})
            for one, candidates, prompt in zip(written, found, prompts, strict=True)
        ]

    def tell(self, references: Mapping[str, Sequence[str]]) -> None:
        self.finder.tell(references)

    def project(self, x: torch.Tensor) -> torch.Tensor | None:
        return self.writer.project(x)

    def words(self, names: Sequence[str]) -> str:
        """The hard prompt that gives `names`."""
        prompt = self.config.prompt
        return self.sentence.replace(ENTITIES, prompt.joiner.join(names) or prompt.empty)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.config.alone else self.finder.tensors()

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if not self.config.alone:
            self.finder.load_tensors(tensors)

    def save_extra(self, folder: Path) -> None:
        if not self.config.alone:
            self.finder.save(folder, self.sentence)

    def load_extra(self, folder: Path) -> None:
        if self.config.alone:
            return
        kept = self.finder.load(folder)
        if kept != self.sentence:
            raise ArtefactError(
                f"the decoder in {folder} learnt to read {kept!r}, and is to be given {self.sentence!r}: set "
                f"prompt.template to the first, or fit it anew."
            )

    def _hinted(self, vectors: TextVectors, named: Sequence[Sequence[str]]) -> TextVectors:
        """The vectors with the names that each caption says, as words."""
        keys = vectors.embeddings.keys

        def batch(rows: Sequence[int], epoch: int) -> list[str]:
            masked = self.naming.masked([named[i] for i in rows], [keys[i] for i in rows], epoch)
            return [self.words(names) for names in masked]

        every = dict.fromkeys([*self.naming.vocabulary.listed, *self.finder.vocabulary.listed])
        every |= dict.fromkeys(name for names in named for name in names)
        key = stable_hash([self.sentence, self.config.prompt.model_dump(), self.config.entities.model_dump(), named])
        hints = Hints(
            batch=batch,
            words=[self.words([name]) for name in every] + [self.words([])],
            longest=max((self.words(names) for names in [[], *named]), key=len),  # all may be masked
            key=key,
        )
        return TextVectors(vectors.embeddings, vectors.batch, hints)


def _plain(candidates: Sequence[Candidate]) -> list[dict[str, Any]]:
    return [{"name": one.name, "score": one.score, "kept": one.kept} for one in candidates]
