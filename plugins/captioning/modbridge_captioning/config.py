"""Config of the prefix language-model decoder. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Field, Tag, ValidationError, model_validator

from modbridge.config.component import Affects, Purpose
from modbridge.config.kinds import DecoderConfig, Layout
from modbridge.config.search import require_faiss
from modbridge.errors import PortError
from modbridge.spaces import Port
from modbridge_captioning.blocks import (
    CAPTIONS,
    HINT,
    PREFIX,
    Count,
    FreshLm,
    Generate,
    Lora,
    Mapper,
    MlpMapper,
    Prompt,
    Retrieval,
    SoftPromptMapper,
    TokensMapper,
    TransformerMapper,
)

WORDS = "words"
_TEMPLATES: dict[Layout, str] = {"soft_first": PREFIX + HINT, "hard_first": HINT + PREFIX, "hard_only": HINT}


def _folder_hash(folder: Path) -> str:
    """sha256 of a folder's own files: weights, config, tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        state = path.stat()
        digest.update(f"{path.name} {_file_hash(path, state.st_size, state.st_mtime_ns)}\n".encode())
    return digest.hexdigest()


@lru_cache(maxsize=64)
def _file_hash(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _lm_form(value: Any) -> str:
    return "name" if isinstance(value, str) else "fresh"


class PrefixLmConfig(DecoderConfig):
    """A language model that writes on from a prefix mapped from the vector (ClipCap's decoder; C3, Diffusion Bridge)
    or from a sequence of vectors (VLV's second stage).

    Defaults are those of Diffusion Bridge's code unless said otherwise.

    `lm`: a Hugging Face id or local folder of a causal language model, or the shape of a fresh GPT-2.
    `tokenizer`: None for the LM's own; an id or folder; "words" for the words of the training captions (fresh LM only).
    `train_lm`: "full" tunes the LM with the mapper (the authors'), "frozen" trains the mapper alone, "lora" the mapper
    and low-rank adapters (DRCap's, Diffusion-Link's).
    `lora`: the adapters of train_lm "lora".
    `mapper`: makes prefix vectors of a vector, or with `tokens` of a sequence. `prefix_length`: how many; left out, it
    is 1 with the mappers drcap (DRCap's) and linear (WSAC's), else 10. With `tokens` it stays out: a sequence has one
    for each token. (Neither is there with a prompt that reads nothing of the vector.)
    `prompt`: words around the prefix; None is none. `retrieval`: captions retrieved for the prompt; None is none.
    `end_of_sentence`: what training says of the end of a caption. "taught" (ours): the end-of-text token follows every
    caption. "stop": nothing, so that only `generate.stop` ends one. "authors": as "stop", and token 0 (GPT-2's "!") is
    left out of the loss, because the authors' padding is written as 0.
    `epochs`: passes over the captions, each leaving out the last, short batch. `steps`: optimiser steps, in place of
    `epochs`; 0 leaves all training to `tune`. `batch_size`: captions a step.
    `lr`: AdamW's highest learning rate. `weight_decay`: AdamW's. `schedule`: how the rate falls after the warm-up.
    `warmup`: steps over which the rate rises, but never more than a tenth of all (the bound is ours).
    `clip`: largest gradient norm; the authors' code has none.
    `max_tokens`: longer captions are cut; None is the authors' min(mean + 10 standard deviations, longest).
    `precision`: of the matrix products; weights stay float32. (The authors' is float16; ours float32.)
    `generate`: how captions are written. `decode_batch_size`: captions written at once.
    """

    training_fields: ClassVar[tuple[str, ...]] = (
        "epochs", "steps", "batch_size", "lr", "weight_decay", "warmup", "schedule", "clip", "max_tokens", "precision",
    )  # fmt: skip

    tunable: ClassVar[bool] = True

    type: Literal["prefix_lm"] = "prefix_lm"
    lm: Annotated[Annotated[str, Tag("name")] | Annotated[FreshLm, Tag("fresh")], Discriminator(_lm_form)] = "gpt2"
    tokenizer: str | None = None
    mapper: Mapper = MlpMapper(type="mlp")
    prefix_length: Count | None = 10
    train_lm: Literal["full", "frozen", "lora"] = "full"
    lora: Lora = Lora()
    prompt: Prompt | None = None
    retrieval: Retrieval | None = None
    end_of_sentence: Literal["taught", "stop", "authors"] = "taught"
    epochs: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 10.0
    steps: Annotated[int, Field(ge=0)] | None = None
    batch_size: Count = 40
    lr: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 2e-5
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.01
    warmup: Annotated[int, Field(ge=0)] = 5000
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    clip: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] | None = None
    max_tokens: Count | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    generate: Annotated[Generate, Affects("decode")] = Generate()
    decode_batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 64

    @model_validator(mode="before")
    @classmethod
    def _length_that_goes_with_the_mapper(cls, data: Any) -> Any:
        if isinstance(data, dict) and "prefix_length" not in data:
            mapper = data.get("mapper")
            kind = mapper.get("type") if isinstance(mapper, dict) else getattr(mapper, "type", mapper)
            if kind in ("drcap", "linear", "tokens"):
                return {**data, "prefix_length": None if kind == "tokens" else 1}
        return data

    @classmethod
    def from_stored(cls, fields: dict[str, Any]) -> dict[str, Any]:
        """Before 0.1.0 `end_of_sentence` was yes or no."""
        ends = fields.get("end_of_sentence")
        return fields | {"end_of_sentence": "taught" if ends else "stop"} if isinstance(ends, bool) else fields

    @model_validator(mode="after")
    def _fits_together(self) -> PrefixLmConfig:
        fresh = isinstance(self.lm, FreshLm)
        if self.tokenizer == WORDS and not fresh:
            raise ValueError(
                f"tokenizer 'words' learns a new vocabulary, but the pretrained lm {self.lm!r} knows its own: leave "
                f"tokenizer out, or give lm as a fresh one {{n_layer: 2, n_head: 2, n_embd: 128}}"
            )
        if fresh and self.tokenizer is None:
            raise ValueError("a fresh lm has no tokenizer of its own: set tokenizer to 'words', or to an id or folder")
        if fresh and self.train_lm != "full":
            raise ValueError(
                f"train_lm {self.train_lm!r} keeps a fresh lm at its random weights: set train_lm to 'full'"
            )
        if self.train_lm != "lora" and self.lora != Lora():
            raise ValueError(f"lora is set, but train_lm {self.train_lm!r} has no adapters: set train_lm to 'lora'")
        if self.steps == 0 and self.retrieval is not None:
            raise ValueError(
                "steps is 0, so that no training vectors are made, and retrieval keeps them: give it steps"
            )
        self._length_of_the_prefix()
        self._prompt_and_retrieval()
        if not self.reads_vectors and self.train_lm == "frozen":
            raise ValueError(
                f"train_lm 'frozen' trains the mapper alone, and prompt.template without {PREFIX} has none: set "
                f"train_lm to 'full' or 'lora', or put {PREFIX} into the template"
            )
        if self.end_of_sentence != "taught" and self.generate.stop is None:
            raise ValueError(
                f"end_of_sentence {self.end_of_sentence!r} teaches no end of a caption: set generate.stop (the "
                f"authors' is '.')"
            )
        if isinstance(self.lm, FreshLm):
            self.require_positions(self.lm.n_positions)
            if self.reads_vectors and isinstance(self.mapper, TransformerMapper):
                self.mapper.require_width(self.lm.n_embd)
        return self

    @property
    def left_to_tuning(self) -> bool:
        return self.steps == 0 and self.weights is None

    def _length_of_the_prefix(self) -> None:
        if self.reads_sequences and self.prefix_length is not None:
            raise ValueError(
                f"prefix_length is {self.prefix_length}, but the mapper 'tokens' makes one prefix vector of each "
                f"token: leave prefix_length out"
            )
        if not self.reads_sequences and self.prefix_length is None:
            raise ValueError(
                f"prefix_length is null, which is for the mapper 'tokens' alone: say how many prefix vectors the "
                f"mapper {self.mapper.type!r} shall make, or leave prefix_length out"
            )

    def _prompt_and_retrieval(self) -> None:
        if self.retrieval is not None and self.reads_sequences:
            raise ValueError(
                "retrieval looks for captions by one vector an item, and the mapper 'tokens' reads sequences: leave "
                "retrieval out, or choose another mapper"
            )
        if self.retrieval is not None and self.prompt is None:
            raise ValueError("retrieval gives captions to a prompt, and there is none: add `prompt: {}`")
        if self.prompt is not None and self.prompt.template is not None:
            asks = CAPTIONS in self.prompt.template
            if asks and self.retrieval is None:
                raise ValueError(f"prompt.template asks for {CAPTIONS}, but nothing retrieves: add `retrieval: {{}}`")
            if not asks and self.retrieval is not None:
                raise ValueError(
                    f"retrieval gives captions, but prompt.template has no place for them: put {CAPTIONS} into it"
                )

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its files' content, not by its name, and marks inside
        `retrieval` count too; a `search` among all captions does not, as if there were no other."""
        fields = super().key_fields(*purposes)
        if self.retrieval is not None and "decode" not in purposes:
            for name, field in Retrieval.model_fields.items():
                if any(isinstance(mark, Affects) for mark in field.metadata):
                    del fields["retrieval"][name]
        elif self.retrieval is not None and self.retrieval.search == "exact":
            del fields["retrieval"]["search"]
        for name in ("lm", "tokenizer"):
            value = fields[name]
            if isinstance(value, str) and value != WORDS and Path(value).expanduser().is_dir():
                fields[name] = _folder_hash(Path(value).expanduser())
        return fields

    def with_hints(self, layout: Layout | None) -> PrefixLmConfig:
        """As for every decoder: the layouts are the templates "{prefix}{hint}", "{hint}{prefix}" and "{hint}"; None is
        a template of this config's own that holds {hint}.

        Raises ValueError where the two are not one.
        """
        template = None if self.prompt is None else self.prompt.template
        if layout is None:
            if self.reads_hints:
                return self
            found = "there is no prompt" if self.prompt is None else f"prompt.template is {template!r}"
            raise ValueError(
                f"layout null leaves it to the decoder 'prefix_lm' where hints stand, and {found}: put {HINT} into "
                f"prompt.template, or choose a layout"
            )
        if self.prompt is None:
            # Fields that were never given stay so: those given beside `weights` must agree with what was fitted.
            fields = {**self.model_dump(exclude_unset=True), "prompt": {"template": _TEMPLATES[layout]}}
            try:
                return type(self).model_validate(fields)
            except ValidationError as error:
                why = "; ".join(each["msg"].removeprefix("Value error, ") for each in error.errors())
                raise ValueError(f"layout {layout!r}: {why}") from error
        if template == _TEMPLATES[layout]:
            return self
        if self.reads_hints:
            raise ValueError(
                f"layout {layout!r} is the template {_TEMPLATES[layout]!r}, but prompt.template is {template!r}: set "
                f"layout to null to keep that template, or leave prompt out"
            )
        raise ValueError(
            f"layout {layout!r} says where hints stand, but the decoder 'prefix_lm' has a prompt of its own, without a "
            f"place for them: put {HINT} into prompt.template and set layout to null, or leave prompt out"
        )

    @property
    def reads_hints(self) -> bool:
        """Whether words given with each vector are read."""
        return self.prompt is not None and self.prompt.reads_hints

    @property
    def reads_vectors(self) -> bool:
        """Whether anything of the vector is read."""
        return self.prompt is None or self.prompt.reads_vectors

    @property
    def reads_sequences(self) -> bool:
        """Whether it reads sequences (B, n, D), not vectors (B, D)."""
        return isinstance(self.mapper, TokensMapper)

    @property
    def learns_words(self) -> bool:
        return self.tokenizer == WORDS

    @property
    def prompts(self) -> int:
        """How many soft prompts stand between the prefix and the caption."""
        return self.mapper.prompts if self.reads_vectors and isinstance(self.mapper, SoftPromptMapper) else 0

    def soft_positions(self, tokens: int | None = None) -> int:
        """The positions of prefix and soft prompts. `tokens`: the most that a sequence has, None where that is not
        known or there are only vectors."""
        return (self.prefix_length or tokens or 0) + self.prompts if self.reads_vectors else 0

    def require_positions(self, positions: int | None, prompt: int = 0, tokens: int | None = None) -> None:
        """Raise ValueError unless prefix, soft prompts, a prompt of so many tokens and the longest caption have room in
        a LM of so many positions. `tokens`: as `soft_positions`."""
        before = self.soft_positions(tokens) + prompt
        found = []
        if self.reads_vectors and before > prompt:
            found = [f"sequences of {tokens} tokens" if self.reads_sequences else f"prefix_length {self.prefix_length}"]
        if self.prompts:
            found.append(f"mapper.prompts {self.prompts}")
        if prompt:
            captions = " with the longest captions" if self.retrieval is not None else ""
            found.append(f"a prompt{captions} of {prompt} tokens")
        parts = f"{', '.join(found)} and " if found else ""
        for name, tokens in (
            ("generate.max_new_tokens", self.generate.max_new_tokens),
            ("max_tokens", self.max_tokens),
        ):
            if positions is not None and tokens is not None and before + tokens > positions:
                raise ValueError(
                    f"{parts}{name} {tokens} take {before + tokens} positions, and the language model has "
                    f"{positions}: lower {name}" + (" or raise lm.n_positions" if isinstance(self.lm, FreshLm) else "")
                )

    def check(self, port: Port) -> None:
        """As for every decoder. Raises SetupError where `retrieval.search` asks for a package that is missing."""
        if self.retrieval is not None:
            require_faiss(self.retrieval.search)
        if port.tokens is not None and not self.reads_sequences:
            raise PortError(
                f"the decoder 'prefix_lm' with the mapper {self.mapper.type!r} reads one vector an item, shape (B, D); "
                f"found sequences: {port}. Set mapper to 'tokens', or choose an encoder that gives vectors."
            )
        if port.tokens is None and self.reads_sequences:
            raise PortError(
                f"the decoder 'prefix_lm' with the mapper 'tokens' reads sequences, shape (B, n, D); found one vector "
                f"an item: {port}. Choose a mapper of vectors, such as 'mlp', or an encoder that gives sequences."
            )
        if isinstance(self.lm, FreshLm):
            try:
                self.require_positions(self.lm.n_positions, tokens=port.tokens)
            except ValueError as error:
                raise PortError(f"the decoder 'prefix_lm': {error}.") from error
        if self.retrieval is not None and port.frame != "raw":
            raise PortError(
                f"the decoder 'prefix_lm' retrieves training captions by the vectors as the encoder gives them, but is "
                f"trained here on {port}. Choose a bridge that gives raw vectors, or leave retrieval out."
            )
