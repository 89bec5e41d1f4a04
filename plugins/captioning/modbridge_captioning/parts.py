"""What the prefix decoder is made of, and what of it an artefact keeps.

A language model that was trained is kept whole; of one that stayed as it was (frozen, or with adapters) only the hash
is, so that no other can take its place unnoticed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError, ConfigError
from modbridge.interfaces import BuildContext, Decoder
from modbridge.training import derived_seed
from modbridge_captioning.blocks import FreshLm
from modbridge_captioning.config import WORDS, PrefixLmConfig
from modbridge_captioning.generation import ends_of
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
from modbridge_captioning.prompt import PromptWords
from modbridge_captioning.words import read_words, save_words

NOTE, TOKENIZER, LM = "language_model.json", "tokenizer.json", "lm"
STORE = "retrieval.vectors"


class PrefixLmParts(Decoder[PrefixLmConfig]):
    """Mapper, language model with its adapters, tokenizer, prompt and datastore of a `PrefixLmDecoder`.

    There is no mapper where nothing of the vector is read (a prompt of hints alone).

    Raises PortError for sequences where the mapper reads vectors and for vectors where it reads sequences, ConfigError
    for a mapper that does not suit the language model, and what `load_lm` and `load_tokenizer` raise, when it is built.
    With the tokenizer "words" the LM is built in `fit` or `load_extra`, once the vocabulary is known.
    """

    def __init__(self, config: PrefixLmConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        config.check(context.ports["text"])
        self.lm: PreTrainedModel | None = None
        self.tokenizer: PreTrainedTokenizerBase | None = None
        self.adapter: torch.nn.Module | None = None
        self.prompt: PromptWords | None = None
        self.store: Datastore | None = None
        # Once the vocabulary is known: the tokens that end a caption, and how many the longest prompt has.
        self._ends: list[int] = []
        self._prompt_tokens = 0
        self._sequence_tokens = context.ports["text"].tokens
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
            if config.train_lm == "lora":
                from modbridge_captioning.lora import add_adapters  # peft is slow to load, and few need it

                self.adapter = add_adapters(self.lm, config.lora, name=config.lm, seed=context.seed)
        if self.tokenizer is not None:
            self._settle_vocabulary()
        self.width = width
        self.mapper = self._begin_mapper() if config.reads_vectors else None

    def _begin_mapper(self) -> torch.nn.Module:
        config, dim = self.config, self.context.dim()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("prefix_lm", "mapper", self.context.seed))
            try:
                mapper = build_mapper(config.mapper, dim=dim, length=config.prefix_length, width=self.width)
            except ValueError as error:
                raise ConfigError(str(error)) from error
        return mapper.to(self.device).eval()

    def _kept_lm(self, artefact: Path | None) -> Path | None:
        """The artefact's own description of a tuned language model, whose weights the artefact holds too."""
        if artefact is None or self.config.train_lm != "full" or not (artefact / LM).is_dir():
            return None
        return artefact / LM

    def modules(self) -> dict[str, torch.nn.Module]:
        found: dict[str, torch.nn.Module] = {} if self.mapper is None else {"mapper": self.mapper}
        if self.adapter is not None:
            found["adapter"] = self.adapter
        if self.lm is not None and self.config.train_lm == "full":
            found["lm"] = self.lm
        return found

    def trainable_count(self) -> int:
        """The parameters that training changes: the mapper's, and the language model's or its adapters'."""
        return super().parameter_count()

    def parameter_count(self) -> int:
        """The mapper's and the language model's parameters with its adapters', trained or not.

        Before a fresh language model knows its words, without its table of words.
        """
        mapper = 0 if self.mapper is None else sum(p.numel() for p in self.mapper.parameters())
        if self.lm is not None:
            return mapper + sum(p.numel() for p in self.lm.parameters())
        return mapper + body_size(self.config.lm) if isinstance(self.config.lm, FreshLm) else mapper

    def tensors(self) -> dict[str, torch.Tensor]:
        twins = self._twins()
        found = {name: tensor for name, tensor in super().tensors().items() if name not in twins}
        return found if self.store is None else {**found, STORE: self.store.vectors}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if self.store is not None:
            self.store = self.store.with_vectors(tensors.get(STORE))
            tensors = {name: tensor for name, tensor in tensors.items() if name != STORE}
        twins = {name: tensors[of] for name, of in self._twins().items() if of in tensors}
        super().load_tensors({**tensors, **twins})

    def save_extra(self, folder: Path) -> None:
        lm, tokenizer = self._ready()
        frozen = self.config.train_lm != "full"
        note = {
            "lm": self.config.lm if isinstance(self.config.lm, str) else None,
            "lm_sha256": self._base_hash() if frozen else None,
            "vocabulary_sha256": vocabulary_hash(tokenizer),
        }
        (folder / NOTE).write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")
        if self.config.tokenizer == WORDS:
            save_words(tokenizer, folder / TOKENIZER)
        if isinstance(self.config.lm, str) and not frozen:
            # The tuned weights are kept; with shape and tokenizer beside them the artefact stands alone.
            lm.config.save_pretrained(folder / LM)
            tokenizer.save_pretrained(folder / LM)
        if self.store is not None:
            self.store.save(folder)

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
        _, tokenizer = self._ready()
        if vocabulary_hash(tokenizer) != vocabulary:
            raise ArtefactError(
                f"the decoder in {folder} was trained with another tokenizer than {self._name()} gives now; its tokens "
                f"would be read as other words. Give the tokenizer that it was trained with, or fit it anew."
            )
        if self.config.train_lm != "full" and self._base_hash() != lm_hash:
            raise ArtefactError(
                f"the decoder in {folder} was trained beside the frozen language model {note.get('lm')!r}, whose "
                f"weights were others than those of {self._name()} now. Give that language model, or fit it anew."
            )
        if self.config.retrieval is not None:
            self.store = Datastore.load(folder, self.context.dim(), self.device)
        self._settle_vocabulary()

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

    def _settle_vocabulary(self) -> None:
        """Settle what the vocabulary decides: the prompt's tokens, those that end a caption, and whether all has room.

        Raises ConfigError if it has not, or for a `generate.stop` that is no token.
        """
        lm, tokenizer = self._ready()
        self._ends = ends_of(tokenizer, self.config.generate.stop, self._name())
        if self.config.prompt is not None:
            self.prompt = PromptWords(self.config.prompt, self.config.retrieval, tokenizer)
            asked, texts = self.config.retrieval, () if self.store is None else self.store.texts
            count = 0 if asked is None else max(asked.count, asked.decode_count or 0)
            self._prompt_tokens = self.prompt.longest(texts, count)
        try:
            self.config.require_positions(positions(lm), self._prompt_tokens, self._sequence_tokens)
        except ValueError as error:
            raise ConfigError(str(error)) from error

    def _base_hash(self) -> str:
        lm, _ = self._ready()
        if self.adapter is None:
            return weights_hash(lm)
        from modbridge_captioning.lora import base_name

        return weights_hash(lm, base_name)

    def _twins(self) -> dict[str, str]:
        return {
            f"{name}.{twin}": f"{name}.{of}"
            for name, module in self.modules().items()
            for twin, of in tied(module).items()
        }

    def _name(self) -> str:
        if self.config.tokenizer == WORDS:
            return "the training captions"
        return repr(self.config.tokenizer or self.config.lm)
