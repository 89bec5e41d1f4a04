"""Config of the prefix language-model decoder. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

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

    `n_positions` is ours (GPT-2: 1024): room for the prefix and a caption. Dropout is GPT-2's.
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
    """Vector -> prefix by Linear, Tanh, Linear (ClipCap's MLP, as in C3 and Diffusion Bridge).

    `hidden`: None is the authors' prefix_length * n_embd / 2.
    """

    type: Literal["mlp"] = "mlp"
    hidden: Count | None = None


class Generate(Block):
    """How captions are written. One beam is greedy search, the authors' own (`generate2` filters, then takes the best).

    `max_new_tokens`: 39 is the authors'. `stop`: a token that ends the caption and stays in it; the authors' is ".".
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
    `end_of_sentence`: teach the end-of-text token after every caption (ours; the authors teach none and stop at ".").
    `epochs`, or `steps` in its place. `warmup`: steps, but never more than a tenth of all (the bound is ours).
    `clip`: largest gradient norm; the authors' code has none.
    `max_tokens`: longer captions are cut; None is the authors' min(mean + 10 standard deviations, longest).
    `precision`: of the matrix products; weights stay float32. (The authors' is float16; ours float32.)
    `generate`: how captions are written. `decode_batch_size`: vectors decoded at once.
    """

    type: Literal["prefix_lm"] = "prefix_lm"
    lm: Annotated[Annotated[str, Tag("name")] | Annotated[FreshLm, Tag("fresh")], Discriminator(_lm_form)] = "gpt2"
    tokenizer: str | None = None
    mapper: MlpMapper = MlpMapper()
    prefix_length: Count = 10
    train_lm: Literal["full", "frozen"] = "full"
    end_of_sentence: bool = True
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
        if not self.end_of_sentence and self.generate.stop is None:
            raise ValueError(
                "without end_of_sentence nothing says where a caption ends: set generate.stop (the authors' is '.')"
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

    def require_positions(self, positions: int | None) -> None:
        """Raise ValueError unless the prefix and the longest caption have room in a LM of so many positions."""
        for name, tokens in (
            ("generate.max_new_tokens", self.generate.max_new_tokens),
            ("max_tokens", self.max_tokens),
        ):
            if positions is not None and tokens is not None and self.prefix_length + tokens > positions:
                raise ValueError(
                    f"prefix_length {self.prefix_length} and {name} {tokens} take {self.prefix_length + tokens} "
                    f"positions, and the language model has {positions}: lower {name}"
                    + (" or raise lm.n_positions" if isinstance(self.lm, FreshLm) else "")
                )

    def check(self, port: Port) -> None:
        if port.tokens is not None:
            raise PortError(
                f"the decoder 'prefix_lm' reads one vector an item, shape (B, D); found sequences: {port}. Choose an "
                f"encoder that gives vectors, or a decoder that reads sequences."
            )
