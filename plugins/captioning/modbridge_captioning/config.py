"""Config of the prefix language-model decoder. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from modbridge.config.component import Affects, Purpose
from modbridge.config.kinds import DecoderConfig
from modbridge.errors import PortError
from modbridge.spaces import Port

WORDS = "words"

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


class Block(BaseModel):
    """A group of fields inside a component's config."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class FreshLm(Block):
    """A GPT-2 with random weights, to be trained from nothing; the fields are those of transformers' `GPT2Config`.

    `n_layer`: transformer blocks. `n_head`: attention heads of each. `n_embd`: width of the embeddings.
    `n_positions`: room for prefix and caption together; 64 is ours (GPT-2: 1024).
    `n_inner`: width inside a block's feed-forward part; None is 4 * n_embd.
    `resid_pdrop`: dropout behind each part of a block. `embd_pdrop`: dropout of the embeddings.
    `attn_pdrop`: dropout of the attention weights. All three are GPT-2's.
    """

    n_layer: Count
    n_head: Count
    n_embd: Count
    n_positions: Count = 64
    n_inner: Count | None = None
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1

    @model_validator(mode="after")
    def _heads_divide(self) -> FreshLm:
        if self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}: every head takes an equal share"
            )
        return self


class MlpMapper(Block):
    """Vector -> prefix by Linear, Tanh, Linear (ClipCap's MLP, as in C3's and Diffusion Bridge's code).

    `type`: the mapper's name. `hidden`: width between the layers; None is the authors' prefix_length * n_embd / 2.
    """

    type: Literal["mlp"]
    hidden: Count | None = None


class SoftPromptMapper(Block):
    """Vector -> prefix as the paper of Diffusion Bridge words it, known to us second-hand: a linear projection to the
    LM's width (512 to 768), a projector of two fully connected layers with hidden width 768, and 10 learnable soft
    prompts. (The authors' code has none of it, but `mlp`.)

    Ours, since no source says: the projector gives `prefix_length` vectors, its activation is Tanh (as in `mlp`), the
    prompts stand behind them, where they can attend to them, and begin like GPT-2's embeddings (standard deviation
    .02).

    `type`: the mapper's name. `hidden`: width between the projector's layers; None is the LM's width, which is the
    paper's 768 for GPT-2.
    `prompts`: how many soft prompts follow the `prefix_length` vectors.
    """

    type: Literal["soft_prompt"]
    hidden: Count | None = None
    prompts: Count = 10


def _word_alone(value: Any) -> Any:
    """A bare word stands for the block that holds nothing else."""
    return {"type": value} if isinstance(value, str) else value


_MapperBlock = Annotated[MlpMapper | SoftPromptMapper, Field(discriminator="type")]
Mapper = Annotated[
    _MapperBlock,
    BeforeValidator(_word_alone, json_schema_input_type=_MapperBlock | Literal["mlp", "soft_prompt"]),
]


class Generate(Block):
    """How captions are written. One beam is greedy search, the authors' own (`generate2` filters, then takes the best).

    `num_beams`: 1 is greedy search; 5 is CapDec's and ViECap's beam search. `max_new_tokens`: 39 is the authors'.
    `stop`: a token that ends the caption and stays in it, with or without a space before it; the authors' is "."
    (without one only).
    `length_penalty`: exponent of the length a beam's log-probability is divided by.
    """

    num_beams: Count = 1
    max_new_tokens: Count = 39
    stop: str | None = None
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] = 1.0

    @model_validator(mode="after")
    def _penalty_needs_beams(self) -> Generate:
        if self.num_beams == 1 and self.length_penalty != 1.0:
            raise ValueError("length_penalty compares beams of different lengths, and num_beams is 1: set num_beams")
        if self.stop is not None and not self.stop.strip():
            raise ValueError("stop must be a token with something to see in it; leave it out to stop at none")
        return self


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
    """A language model that writes on from a prefix mapped from the vector (ClipCap's decoder; C3, Diffusion Bridge).

    Defaults are those of Diffusion Bridge's code unless said otherwise.

    `lm`: a Hugging Face id or local folder of a causal language model, or the shape of a fresh GPT-2.
    `tokenizer`: None for the LM's own; an id or folder; "words" for the words of the training captions (fresh LM only).
    `train_lm`: "full" tunes the LM with the mapper (the authors'), "frozen" trains the mapper alone.
    `mapper`: makes prefix vectors of a vector. `prefix_length`: how many.
    `end_of_sentence`: what training says of the end of a caption. "taught" (ours): the end-of-text token follows every
    caption. "stop": nothing, so that only `generate.stop` ends one. "authors": as "stop", and token 0 (GPT-2's "!") is
    left out of the loss, because the authors' padding is written as 0.
    `epochs`: passes over the captions, each leaving out the last, short batch. `steps`: optimiser steps, in place of
    `epochs`. `batch_size`: captions a step.
    `lr`: AdamW's highest learning rate. `weight_decay`: AdamW's. `schedule`: how the rate falls after the warm-up.
    `warmup`: steps over which the rate rises, but never more than a tenth of all (the bound is ours).
    `clip`: largest gradient norm; the authors' code has none.
    `max_tokens`: longer captions are cut; None is the authors' min(mean + 10 standard deviations, longest).
    `precision`: of the matrix products; weights stay float32. (The authors' is float16; ours float32.)
    `generate`: how captions are written. `decode_batch_size`: vectors decoded at once.
    """

    training_fields: ClassVar[tuple[str, ...]] = (
        "epochs", "steps", "batch_size", "lr", "weight_decay", "warmup", "schedule", "clip", "max_tokens", "precision",
    )  # fmt: skip

    type: Literal["prefix_lm"] = "prefix_lm"
    lm: Annotated[Annotated[str, Tag("name")] | Annotated[FreshLm, Tag("fresh")], Discriminator(_lm_form)] = "gpt2"
    tokenizer: str | None = None
    mapper: Mapper = MlpMapper(type="mlp")
    prefix_length: Count = 10
    train_lm: Literal["full", "frozen"] = "full"
    end_of_sentence: Literal["taught", "stop", "authors"] = "taught"
    epochs: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 10.0
    steps: Count | None = None
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
        if fresh and self.train_lm == "frozen":
            raise ValueError("train_lm 'frozen' keeps a fresh lm at its random weights: set train_lm to 'full'")
        if self.end_of_sentence != "taught" and self.generate.stop is None:
            raise ValueError(
                f"end_of_sentence {self.end_of_sentence!r} teaches no end of a caption: set generate.stop (the "
                f"authors' is '.')"
            )
        if isinstance(self.lm, FreshLm):
            self.require_positions(self.lm.n_positions)
        return self

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its files' content, not by its name."""
        fields = super().key_fields(*purposes)
        for name in ("lm", "tokenizer"):
            value = fields[name]
            if isinstance(value, str) and value != WORDS and Path(value).expanduser().is_dir():
                fields[name] = _folder_hash(Path(value).expanduser())
        return fields

    @property
    def prompts(self) -> int:
        """How many soft prompts stand between the prefix and the caption."""
        return self.mapper.prompts if isinstance(self.mapper, SoftPromptMapper) else 0

    def require_positions(self, positions: int | None) -> None:
        """Raise ValueError unless prefix, soft prompts and the longest caption have room in a LM of so many
        positions."""
        before = self.prefix_length + self.prompts
        parts = f"prefix_length {self.prefix_length}" + (f", mapper.prompts {self.prompts}" if self.prompts else "")
        for name, tokens in (
            ("generate.max_new_tokens", self.generate.max_new_tokens),
            ("max_tokens", self.max_tokens),
        ):
            if positions is not None and tokens is not None and before + tokens > positions:
                raise ValueError(
                    f"{parts} and {name} {tokens} take {before + tokens} positions, and the language model has "
                    f"{positions}: lower {name}" + (" or raise lm.n_positions" if isinstance(self.lm, FreshLm) else "")
                )

    def check(self, port: Port) -> None:
        if port.tokens is not None:
            raise PortError(
                f"the decoder 'prefix_lm' reads one vector an item, shape (B, D); found sequences: {port}. Choose an "
                f"encoder that gives vectors, or a decoder that reads sequences."
            )
