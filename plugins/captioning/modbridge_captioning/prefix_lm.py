"""The prefix language-model decoder: a vector becomes the first embeddings of a causal LM, which writes the caption.

ClipCap's decoder as CapDec, C3 and Diffusion Bridge train it on text vectors alone (Diffusion Bridge,
image_captioning/src/models/decoder.py). Unless asked otherwise (`end_of_sentence`) it teaches the end of a caption, and
ignores padding by an index that is no token's (the authors' is 0, GPT-2's "!", which their models never learn).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modbridge.errors import ArtefactError, ConfigError, DataError
from modbridge.interfaces import BuildContext, Decoded, Decoder, Fitting, TextVectors
from modbridge.training import Batches, derived_seed, train, warmup_then
from modbridge_captioning.config import WORDS, FreshLm, PrefixLmConfig
from modbridge_captioning.language_model import (
    body_size,
    fresh_lm,
    lm_of_shape,
    load_lm,
    load_tokenizer,
    positions,
    tied,
    token_embedding,
    vocabulary_hash,
    weights_hash,
)
from modbridge_captioning.mapper import build_mapper
from modbridge_captioning.targets import IGNORED, CaptionBatch, Captions
from modbridge_captioning.words import learn_words, read_words, save_words

NOTE, TOKENIZER, LM = "language_model.json", "tokenizer.json", "lm"
_SCORED_AT_ONCE = 16  # rows of logits over the whole vocabulary held at once (16 x 39 x 50257 float32: 125 MB)


class PrefixLmDecoder(Decoder[PrefixLmConfig]):
    """Writes captions from vectors (B, D). See `PrefixLmConfig` for what can be chosen.

    Raises PortError for sequences, and what `load_lm` and `load_tokenizer` raise, when it is built. With the tokenizer
    "words" the LM is built in `fit` or `load_extra`, once the vocabulary is known.
    """

    def __init__(self, config: PrefixLmConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        config.check(context.ports["text"])
        self.lm: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        if isinstance(config.lm, FreshLm):
            width = config.lm.n_embd
            if config.tokenizer is not None and config.tokenizer != WORDS:
                self._begin_afresh(config.lm, load_tokenizer(config.tokenizer))
        else:
            kept = self._kept_lm(context.artefact)
            lm = load_lm(config.lm) if kept is None else lm_of_shape(kept)
            self.lm = lm.to(self.device)  # type: ignore[arg-type]
            self.tokenizer = load_tokenizer(str(kept) if kept else config.tokenizer or config.lm, self.lm)
            self.lm.requires_grad_(config.train_lm == "full")
            width = token_embedding(self.lm).embedding_dim
            try:
                config.require_positions(positions(self.lm))
            except ValueError as error:
                raise ConfigError(str(error)) from error
        if self.tokenizer is not None:
            self._ends(self.tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("prefix_lm", "mapper", context.seed))
            mapper = build_mapper(config.mapper, dim=context.dim(), length=config.prefix_length, width=width)
        self.mapper = mapper.to(self.device).eval()

    def _kept_lm(self, artefact: Path | None) -> Path | None:
        """The artefact's own description of a tuned language model, whose weights the artefact holds too."""
        if artefact is None or self.config.train_lm != "full" or not (artefact / LM).is_dir():
            return None
        return artefact / LM

    def modules(self) -> dict[str, torch.nn.Module]:
        if self.lm is None or self.config.train_lm == "frozen":
            return {"mapper": self.mapper}
        return {"mapper": self.mapper, "lm": self.lm}

    def parameter_count(self) -> int:
        """The mapper's and the language model's parameters, trained or not.

        Before a fresh language model knows its words, without its table of words.
        """
        mapper = sum(p.numel() for p in self.mapper.parameters())
        if self.lm is not None:
            return mapper + sum(p.numel() for p in self.lm.parameters())
        return mapper + body_size(self.config.lm) if isinstance(self.config.lm, FreshLm) else mapper

    def tensors(self) -> dict[str, torch.Tensor]:
        twins = self._twins()
        return {name: tensor for name, tensor in super().tensors().items() if name not in twins}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        twins = {name: tensors[of] for name, of in self._twins().items() if of in tensors}
        super().load_tensors({**tensors, **twins})

    def save_extra(self, folder: Path) -> None:
        lm, tokenizer = self._ready()
        frozen = self.config.train_lm == "frozen"
        note = {
            "lm": self.config.lm if isinstance(self.config.lm, str) else None,
            "lm_sha256": weights_hash(lm) if frozen else None,
            "vocabulary_sha256": vocabulary_hash(tokenizer),
        }
        (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        if self.config.tokenizer == WORDS:
            save_words(tokenizer, folder / TOKENIZER)
        if isinstance(self.config.lm, str) and not frozen:
            # The tuned weights are kept; with shape and tokenizer beside them the artefact stands alone.
            lm.config.save_pretrained(folder / LM)
            tokenizer.save_pretrained(folder / LM)

    def load_extra(self, folder: Path) -> None:
        try:
            note = json.loads((folder / NOTE).read_text(encoding="utf-8"))
            lm_hash, vocabulary = note["lm_sha256"], note["vocabulary_sha256"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{folder / NOTE} cannot be read ({error}); expected the note on the language model that was saved "
                f"with the decoder. Copy the artefact again, whole, or fit the decoder anew."
            ) from error
        if isinstance(self.config.lm, FreshLm) and self.config.tokenizer == WORDS:
            self._begin_afresh(self.config.lm, read_words(folder / TOKENIZER))
        lm, tokenizer = self._ready()
        if vocabulary_hash(tokenizer) != vocabulary:
            raise ArtefactError(
                f"the decoder in {folder} was trained with another tokenizer than {self._name()} gives now; its tokens "
                f"would be read as other words. Give the tokenizer that it was trained with, or fit it anew."
            )
        if self.config.train_lm == "frozen" and weights_hash(lm) != lm_hash:
            raise ArtefactError(
                f"the decoder in {folder} was trained beside the frozen language model {note.get('lm')!r}, whose "
                f"weights were others than those of {self._name()} now. Give that language model, or fit it anew."
            )
        self._ends(tokenizer)

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Learn to write `targets` from text vectors (N, D), by cross-entropy of each token given those before it.

        Raises DataError for captions that are empty, too long for the LM, or not as many as the vectors.
        """
        config, keys = self.config, vectors.embeddings.keys
        if len(vectors) != len(targets):
            raise DataError(f"{len(targets)} captions for {len(vectors)} text vectors; expected one each.")
        if isinstance(config.lm, FreshLm) and config.tokenizer == WORDS:
            self._begin_afresh(config.lm, learn_words(targets))
        _, tokenizer = self._ready()
        self._ends(tokenizer)
        captions = self._encoded(targets, keys)
        fitting.log(fit="prefix_lm", vocabulary=len(tokenizer), longest=int(captions.lengths.max()), cut=captions.cut)

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            each, asked = self._caption_losses(vectors, captions, rows, epoch)
            return each.sum() / asked.clamp_min(1)

        batches = Batches(len(captions), config.batch_size, fitting.seed)
        steps = config.steps or batches.steps(config.epochs)
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
            loss=loss,
            fitting=fitting,
            schedule=warmup_then(config.schedule, min(config.warmup, steps // 10), steps),
            clip=config.clip,
            judge=fitting.judge,
        )

    def text_loss(self, vectors: TextVectors, targets: Sequence[str]) -> float:
        """The mean cross-entropy of the tokens of `targets` (N texts) given their vectors (N, D), over all tokens that
        training asks for. Raises DataError as `fit` does."""
        captions = self._encoded(targets, vectors.embeddings.keys)
        sums = []
        with torch.no_grad():
            for start in range(0, len(captions), self.config.batch_size):
                rows = torch.arange(start, min(start + self.config.batch_size, len(captions)))
                each, asked = self._caption_losses(vectors, captions, rows, 0)
                sums.append(torch.stack([each.sum(), asked.float()]))
        loss, count = torch.stack(sums).cpu().double().sum(0).tolist()
        return float(loss / max(count, 1))

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        """Captions of vectors (B, D). A score is the caption's log-probability, its end included, divided by its number
        of tokens (to the power `length_penalty` in beam search)."""
        lm, tokenizer = self._ready()
        ends, search = self._ends(tokenizer), self.config.generate
        beams = {"num_beams": search.num_beams, "length_penalty": search.length_penalty} if search.num_beams > 1 else {}
        with self._precision():
            prefix = self.mapper(bridged).float()
            generate: Any = lm.generate
            ids = generate(
                inputs_embeds=prefix,
                attention_mask=torch.ones(prefix.shape[:2], dtype=torch.long, device=self.device),
                generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
                    max_new_tokens=search.max_new_tokens,
                    do_sample=False,
                    use_cache=True,
                    eos_token_id=ends,
                    pad_token_id=tokenizer.eos_token_id,
                    **beams,
                ),
            )
            final = torch.isin(ids, torch.tensor(ends, device=self.device))
            lengths = torch.where(final.any(1), final.int().argmax(1) + 1, ids.shape[1])
            there = torch.arange(ids.shape[1], device=self.device) < lengths[:, None]
            labels = ids.masked_fill(~there, IGNORED)
            written = CaptionBatch(ids[:, :-1], there[:, :-1].long(), labels)
            losses = [
                self._losses(lm, prefix[i : i + _SCORED_AT_ONCE], written.rows(i, i + _SCORED_AT_ONCE)).sum(1)
                for i in range(0, len(ids), _SCORED_AT_ONCE)
            ]
        scores = (-torch.cat(losses) / lengths**search.length_penalty).tolist()
        texts = []
        for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
            words = [token for token in row[:length] if token != tokenizer.eos_token_id]
            text = tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
            texts.append(" ".join(str(text).split()))
        return [Decoded(key, text, score) for key, text, score in zip(keys, texts, scores, strict=True)]

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """The prefixes of vectors (B, D), flattened: (B, prefix_length * width)."""
        with self._precision():
            prefix: torch.Tensor = self.mapper(x)
        return prefix[:, : self.config.prefix_length].float().flatten(1)  # soft prompts are the same for all

    def _encoded(self, texts: Sequence[str], keys: Sequence[str]) -> Captions:
        """Captions as tokens, all of which have room behind the prefix."""
        lm, tokenizer = self._ready()
        captions = Captions.encode(texts, keys, tokenizer, self.config.max_tokens)
        limit = positions(lm)
        if limit is not None:
            captions.require_room(limit, self.config.prefix_length + self.config.prompts, texts, keys)
        return captions

    def _caption_losses(
        self, vectors: TextVectors, captions: Captions, rows: torch.Tensor, epoch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropies (B, L + 1) of the captions `rows` (int64 (B,)), 0 where none is asked for, and how many are
        asked for, a scalar tensor."""
        lm, _ = self._ready()
        # A bridge gives inference tensors, which autograd refuses; their clones are plain ones.
        x = vectors.batch(rows.tolist(), epoch).to(self.device, torch.float32).clone()
        ends = self.config.end_of_sentence
        ignored = 0 if ends == "authors" else None
        batch = captions.batch(rows, teach_end=ends == "taught", ignored=ignored).to(self.device)
        with self._precision():
            each = self._losses(lm, self.mapper(x), batch)
        return each, (batch.labels != IGNORED).sum()

    def _losses(self, lm: PreTrainedModel, prefix: torch.Tensor, batch: CaptionBatch) -> torch.Tensor:
        """Cross-entropy of each label (B, L + 1), 0 where it is ignored, behind `prefix` (B, P, E)."""
        inputs = torch.cat([prefix, token_embedding(lm)(batch.tokens)], dim=1)
        mask = functional.pad(batch.mask, (prefix.shape[1], 0), value=1)
        count = batch.labels.shape[1]
        logits = lm(inputs_embeds=inputs, attention_mask=mask, logits_to_keep=count, use_cache=False).logits
        each = functional.cross_entropy(
            logits[:, -count:].flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return each.view_as(batch.labels)

    def _begin_afresh(self, config: FreshLm, tokenizer: PreTrainedTokenizerBase) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("prefix_lm", "lm", self.context.seed))
            self.lm = fresh_lm(config, tokenizer).to(self.device).eval()  # type: ignore[arg-type]
        self.tokenizer = tokenizer

    def _ready(self) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        if self.lm is None or self.tokenizer is None:
            raise ArtefactError(
                "this prefix_lm decoder has no vocabulary yet: its words are learned from the training captions. Fit "
                "it, or load one that was fitted."
            )
        return self.lm, self.tokenizer

    def _ends(self, tokenizer: PreTrainedTokenizerBase) -> list[int]:
        """The tokens that end a caption: end-of-text, and `generate.stop` with and without a space before it."""
        ends, stop = {int(tokenizer.eos_token_id)}, self.config.generate.stop
        if stop is not None:
            encoded = tokenizer([stop, f" {stop}"], add_special_tokens=False)["input_ids"]
            single = {ids[0] for ids in encoded if len(ids) == 1}
            # SentencePiece puts a space before "." where it stands alone, but not behind a word.
            single |= {tokenizer.convert_tokens_to_ids(stop)}
            single -= {tokenizer.unk_token_id, None}
            if not single:
                raise ConfigError(
                    f"generate.stop {stop!r} is not one token of the vocabulary of {self._name()}, so it would never "
                    f"stop a caption; expected one token such as '.', or null."
                )
            ends |= single
        return sorted(ends)

    def _twins(self) -> dict[str, str]:
        return {
            f"{name}.{twin}": f"{name}.{of}"
            for name, module in self.modules().items()
            for twin, of in tied(module).items()
        }

    def _precision(self) -> AbstractContextManager[Any]:
        low = self.config.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=low)

    def _name(self) -> str:
        if self.config.tokenizer == WORDS:
            return "the training captions"
        return repr(self.config.tokenizer or self.config.lm)
