"""The prefix language-model decoder: a vector becomes the first embeddings of a causal LM, which writes the caption.

ClipCap's decoder as CapDec, C3 and Diffusion Bridge train it on text vectors alone (Diffusion Bridge,
image_captioning/src/models/decoder.py); with adapters, prompt and retrieved captions it is DRCap's, with adapters and
prompt Diffusion-Link's, with a transformer as mapper and words given with each vector ViECap's, with a mapper of tokens
VLV's. Unless asked otherwise (`end_of_sentence`) it teaches the end of a caption, and ignores padding by an index that
is no token's (the authors' is 0, GPT-2's "!", which their models never learn; in VLV's code, that of the end itself).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch

from modbridge.config.search import advice
from modbridge.datastore import Datastore
from modbridge.errors import DataError
from modbridge.interfaces import Decoded, Fitting, TextVectors
from modbridge.training import Batches, Share, train, warmup_then
from modbridge_captioning.blocks import FreshLm
from modbridge_captioning.config import WORDS
from modbridge_captioning.generation import write
from modbridge_captioning.hints import require_hints, require_one_each, require_room, require_training_room
from modbridge_captioning.language_model import positions
from modbridge_captioning.lead import Lead, token_losses
from modbridge_captioning.parts import PrefixLmParts
from modbridge_captioning.prompt import filled
from modbridge_captioning.targets import IGNORED, Captions
from modbridge_captioning.words import learn_words

_POOL = 8  # batches of items that are written in one go, in the order that suits them


class PrefixLmDecoder(PrefixLmParts):
    """Writes captions from vectors (B, D), or with the mapper `tokens` from sequences (B, n, D). Sequences may be of
    different lengths: of each only its own tokens are read. See `PrefixLmConfig` for what can be chosen,
    `PrefixLmParts` for what it raises when it is built."""

    _at_once: int | None = None  # captions written at once, where the device has no memory for `batch_size`

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Learn to write `targets` from N text vectors, by cross-entropy of each token given those before it.

        Raises DataError for captions that are empty, too long for the LM, or not as many as the vectors, and for
        sequences without tokens; ConfigError for hints that the prompt has no place for, or lacks, or that are too long
        for the LM.
        """
        config = self.config
        if len(vectors) != len(targets):
            raise DataError(f"{len(targets)} captions for {len(vectors)} text vectors; expected one each.")
        require_hints(config, vectors.hints)
        if isinstance(config.lm, FreshLm) and config.tokenizer == WORDS:
            sides = [] if config.prompt is None else config.prompt.sides(config.retrieval is not None)
            words = () if vectors.hints is None else vectors.hints.words
            self._begin_afresh(config.lm, learn_words([*targets, *(filled(side, " ", " ") for side in sides), *words]))
        _, tokenizer = self._ready()
        if config.retrieval is not None:
            self.store = Datastore.of(vectors.embeddings, targets, self.device)
            note = advice(config.retrieval.search, len(self.store.texts))
            if note is not None:
                fitting.log(note=f"{config.type}'s retrieval: {note}.")
        self._settle_vocabulary()
        captions = self._encoded(targets, vectors)
        found = self._retrieved(vectors, targets)
        losses = self._losses(vectors, captions, found)
        fitting.log(
            fit="prefix_lm",
            vocabulary=len(tokenizer),
            longest=int(captions.lengths.max()),
            cut=captions.cut,
            parameters=self.parameter_count(),
            trainable=self.trainable_count(),
            **({} if found is None else {"retrieved": sum(map(len, found)) / len(found)}),
        )

        batches = Batches(len(captions), config.batch_size, fitting.seed)
        steps = batches.steps(config.epochs) if config.steps is None else config.steps
        modules = self.modules()
        train(
            "prefix_lm",
            modules=modules,
            optimiser=torch.optim.AdamW(
                [p for module in modules.values() for p in module.parameters()],
                lr=config.lr,
                weight_decay=config.weight_decay,
            ),
            batches=batches,
            steps=steps,
            loss=lambda step, epoch, rows: losses(epoch, rows),
            fitting=fitting,
            schedule=warmup_then(config.schedule, min(config.warmup, steps // 10), steps),
            clip=config.clip,
            judge=fitting.judge,
            split=True,
        )

    def training_loss(self, vectors: TextVectors, targets: Sequence[str]) -> Callable[[int, torch.Tensor], Share]:
        """The cross-entropy that `fit` goes by, of all tokens that it asks for, with the vocabulary as it is. Raises
        DataError and ConfigError as `fit` does."""
        require_hints(self.config, vectors.hints)
        return self._losses(vectors, self._encoded(targets, vectors), self._retrieved(vectors, targets))

    def text_loss(self, vectors: TextVectors, targets: Sequence[str]) -> float:
        """The mean cross-entropy of the tokens of `targets` (N texts) given their N vectors, over all tokens that
        training asks for. Raises DataError and ConfigError as `fit` does."""
        require_hints(self.config, vectors.hints)
        captions, found = self._encoded(targets, vectors), self._retrieved(vectors, targets)
        sums = []
        with torch.no_grad():
            for start in range(0, len(captions), self.config.batch_size):
                rows = torch.arange(start, min(start + self.config.batch_size, len(captions)))
                each, asked = self._caption_losses(vectors, captions, found, rows, 0)
                sums.append(torch.stack([each.sum(), asked.float()]))
        loss, count = torch.stack(sums).cpu().double().sum(0).tolist()
        return float(loss / max(count, 1))

    def decode_batch(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        keys: Sequence[str],
        seed: int,
        mask: torch.Tensor | None = None,
    ) -> list[Decoded]:
        """Captions of B vectors or sequences; `mask`, bool (B, n): where these have a token. A score is the caption's
        log-probability, its end included, divided by its number of tokens (to the power `length_penalty` in beam
        search).

        Captions for the prompt are retrieved by `source` where the config says so and there is one; texts that are
        decoded as they are have none, and look for themselves. Where the prompt asks for a hint, it is empty."""
        hints = [""] * len(keys) if self.config.reads_hints else None
        return self._decode(bridged, source, hints, keys, mask)

    def decode_hinted(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        hints: Sequence[str],
        keys: Sequence[str],
        seed: int,
        mask: torch.Tensor | None = None,
    ) -> list[Decoded]:
        """As `decode_batch`, with the words `hints` (B texts) in their place in the prompt.

        Raises ConfigError if the prompt has no such place, DataError for a hint that is too long for the LM.
        """
        require_one_each(self.config, hints, keys)
        return self._decode(bridged, source, hints, keys, mask)

    def _decode(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        hints: Sequence[str] | None,
        keys: Sequence[str],
        mask: torch.Tensor | None,
    ) -> list[Decoded]:
        lm, _ = self._ready()
        found = None
        if self.store is not None and self.config.retrieval is not None:
            asked = self.config.retrieval
            queries = source if source is not None and asked.query == "source" else bridged
            found = self.store.nearest(queries, asked.decode_count or asked.count, asked.search)
        with self._precision():
            lead = self._lead(self._prefix(bridged, mask).float(), found, hints, keys, mask)
            if hints is not None:
                new = self.config.generate.max_new_tokens
                require_room(lead, hints, keys, positions(lm), new, "generate.max_new_tokens")
            written = self._written(lead)
        details = [{} if found is None else {"retrieved": captions} for captions in found or [[]] * len(written)]
        return [
            Decoded(key, text, score, detail) for key, (text, score), detail in zip(keys, written, details, strict=True)
        ]

    @property
    def pool_size(self) -> int:
        """Enough items for a batch to be full most of the time: the next ones take the place of finished ones."""
        return _POOL * self.batch_size

    def _written(self, lead: Lead) -> list[tuple[str, float]]:
        """Captions behind `lead` and their scores. Where the device has no memory for a batch, it is halved."""
        lm, tokenizer = self._ready()
        while True:
            at_once = min(self._at_once or self.batch_size, len(lead.mask))
            try:
                return write(lm, tokenizer, lead, self.config.generate, self._ends, at_once)
            except torch.OutOfMemoryError as error:
                self._at_once = self.fewer(at_once, error)

    def project(self, x: torch.Tensor) -> torch.Tensor | None:
        """The prefixes of vectors, flattened: (B, prefix_length * width); None if nothing of them is read."""
        if self.mapper is None:
            return None
        with self._precision():
            prefix: torch.Tensor = self.mapper(x)
        return prefix[:, : self.config.prefix_length].float().flatten(1)  # soft prompts are the same for all

    def _encoded(self, texts: Sequence[str], vectors: TextVectors) -> Captions:
        """Captions as tokens, all of which have room behind the prefix and the longest hint."""
        lm, tokenizer = self._ready()
        keys = vectors.embeddings.keys
        captions = Captions.encode(texts, keys, tokenizer, self.config.max_tokens)
        limit = positions(lm)
        if limit is not None:
            before = self.config.soft_positions(self._sequence_tokens) + self._prompt_tokens
            captions.require_room(limit, before, texts, keys)
            if self.prompt is not None and vectors.hints is not None:
                longest = vectors.hints.longest
                tokens = self.prompt.hint_tokens(longest)
                require_training_room(longest, tokens, before, int(captions.lengths.max()), limit)
        return captions

    def _prefix(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """The prefix vectors (B, P, E) of vectors (B, D) or sequences (B, P, D); none of them (P = 0) where nothing is
        read of the vector."""
        if self.mapper is None:
            return x.new_zeros(len(x), 0, self.width)
        if mask is not None:
            x = x.masked_fill(~mask[..., None], 0.0)  # anything may stand there, which no gradient must see
        found: torch.Tensor = self.mapper(x)
        return found

    def _retrieved(self, vectors: TextVectors, targets: Sequence[str]) -> list[list[str]] | None:
        """The captions that training puts before each of `targets` (N texts); None without retrieval."""
        asked = self.config.retrieval
        if asked is None or self.store is None:
            return None
        return self.store.similar(vectors.embeddings, targets, asked.count, asked.similarity)

    def _lead(
        self,
        prefix: torch.Tensor,
        captions: Sequence[Sequence[str]] | None,
        hints: Sequence[str] | None,
        keys: Sequence[str],
        mask: torch.Tensor | None,
    ) -> Lead:
        """Prefix vectors (B, P, E), those of them that `mask` says, with the prompt around them.

        Raises DataError, naming the item, if nothing stands there.
        """
        if self.mapper is None:
            mask = None
        if self.prompt is None:
            lead = Lead.of(prefix, mask)
        else:
            lead = self.prompt.lead(prefix, captions, hints, self._ready()[0], mask)
        if mask is not None and not bool(lead.mask.any(1).all()):
            raise DataError(
                f"the sequence of {keys[int(lead.mask.sum(1).argmin())]!r} has no tokens, so that a caption has "
                f"nothing to follow; give every item at least one."
            )
        return lead

    def _losses(
        self, vectors: TextVectors, captions: Captions, retrieved: Sequence[Sequence[str]] | None
    ) -> Callable[[int, torch.Tensor], Share]:
        def loss(epoch: int, rows: torch.Tensor) -> Share:
            each, asked = self._caption_losses(vectors, captions, retrieved, rows, epoch)
            return Share(each.sum(), asked)

        return loss

    def _caption_losses(
        self,
        vectors: TextVectors,
        captions: Captions,
        retrieved: Sequence[Sequence[str]] | None,
        rows: torch.Tensor,
        epoch: int,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropies (B, L + 1) of the captions `rows` (int64 (B,)), 0 where none is asked for, and how many are
        asked for, a scalar tensor."""
        lm, _ = self._ready()
        x, mask = torch.empty(len(rows), 0, device=self.device), None  # for a prompt that reads nothing of them
        if self.mapper is not None:
            # A bridge gives inference tensors, which autograd refuses; their clones are plain ones.
            x = vectors.batch(rows.tolist(), epoch).to(self.device, torch.float32).clone()
            mask = None if vectors.mask is None else vectors.mask[rows].to(self.device)
        hints = None if vectors.hints is None else vectors.hints.batch(rows.tolist(), epoch)
        ends = self.config.end_of_sentence
        ignored = 0 if ends == "authors" else None
        batch = captions.batch(rows, teach_end=ends == "taught", ignored=ignored).to(self.device)
        with self._precision():
            found = None if retrieved is None else [retrieved[i] for i in rows.tolist()]
            keys = [vectors.embeddings.keys[i] for i in rows.tolist()]
            lead = self._lead(self._prefix(x, mask), found, hints, keys, mask)
            if hints is not None:
                require_room(lead, hints, keys, positions(lm), batch.tokens.shape[1], "max_tokens")
            each = token_losses(lm, lead, batch)
        return each, (batch.labels != IGNORED).sum()

    def _precision(self) -> AbstractContextManager[Any]:
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)
