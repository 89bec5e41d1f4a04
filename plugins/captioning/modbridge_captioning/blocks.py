"""Blocks of the prefix decoder's config: language model, adapters, mapper, prompt, retrieval, search.

Loads neither torch nor transformers.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.search import Search

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]
Cosine = Annotated[float, Field(ge=-1.0, le=1.0)]


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


class DrcapMapper(Block):
    """Vector -> prefix by Linear, ReLU, Linear: what DRCap (SLAM-LLM) calls its linear projector.

    `type`: the mapper's name. `hidden`: width between the layers; 2048 is DRCap's.
    """

    type: Literal["drcap"]
    hidden: Count = 2048


class LinearMapper(Block):
    """Vector -> prefix by one linear layer (WSAC's mapper).

    `type`: the mapper's name.
    """

    type: Literal["linear"]


class TransformerMapper(Block):
    """Vector -> prefix by a transformer (ClipCap's; ViECap's): the vector becomes a few, learned ones stand behind
    them, and what the transformer makes of the learned ones is the prefix.

    `type`: the mapper's name. `project_length`: how many vectors the vector becomes, by one linear layer.
    `layers`: transformer blocks. `heads`: attention heads of each; they divide the LM's width.
    `ratio`: width inside a block's feed-forward part, by the LM's width.
    """

    type: Literal["transformer"]
    project_length: Count = 10
    layers: Count = 8
    heads: Count = 8
    ratio: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 2.0

    def require_width(self, width: int) -> None:
        """Raise ValueError unless the heads divide a LM's width."""
        if width % self.heads:
            raise ValueError(
                f"mapper.heads {self.heads} does not divide the language model's width {width}: every head takes an "
                f"equal share. Set mapper.heads to a divisor of {width}"
            )


class TokensMapper(Block):
    """Sequence -> prefix, each token by itself: Linear, GELU, Linear (VLV's second stage). n tokens become n prefix
    vectors, in their order, and a shorter sequence as many as it has.

    `type`: the mapper's name. `hidden`: width between the layers; None is the LM's width, VLV's.
    """

    type: Literal["tokens"]
    hidden: Count | None = None


def _word_alone(value: Any) -> Any:
    """A bare word stands for the block that holds nothing else."""
    return {"type": value} if isinstance(value, str) else value


MapperBlock = MlpMapper | SoftPromptMapper | DrcapMapper | LinearMapper | TransformerMapper | TokensMapper
_MapperBlock = Annotated[MapperBlock, Field(discriminator="type")]
Mapper = Annotated[
    _MapperBlock,
    BeforeValidator(
        _word_alone,
        json_schema_input_type=_MapperBlock | Literal["mlp", "soft_prompt", "drcap", "linear", "transformer", "tokens"],
    ),
]


class Lora(Block):
    """Low-rank adapters (peft) beside layers of a language model that stays as it is. Defaults are SLAM-LLM's, hence
    DRCap's.

    `r`: rank of each adapter. `alpha`: an adapter's output is scaled by alpha / r. `dropout`: of an adapter's input.
    `targets`: names of the layers that get one, as the last part of their full name ("q_proj"); None is peft's choice
    for the LM's kind: q_proj and v_proj (SLAM-LLM's) of a Llama, c_attn of a GPT-2.
    """

    r: Count = 8
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 32.0
    dropout: Rate = 0.05
    targets: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


PREFIX, CAPTIONS, PROMPT, HINT = "{prefix}", "{captions}", "{prompt}", "{hint}"
_DRCAP = f"{PREFIX}USER: {PROMPT} \n ASSISTANT:"


class Prompt(Block):
    """Words around the prefix vectors, which the LM reads before it writes. They are in no loss.

    `text`: the instruction; the default is DRCap's, and the one that Diffusion-Link's figure shows.
    `template`: what stands where: {prefix} (once) for the vectors, {prompt} for `text`, {captions} for retrieved
    captions (exactly when there is `retrieval`), {hint} (once) for words that are given with each vector, such as the
    names of what was found in it (ViECap's hard prompt). Beside {hint}, {prefix} may be left out: then nothing is read
    of the vector, and there is neither mapper nor prefix. None is DRCap's order: captions, vectors, "USER: {prompt}
    \\n ASSISTANT:". No beginning token is put before it: write the LM's own ("<s>") where it wants one.
    """

    text: str = "Describe the audio you hear."
    template: str | None = None

    @model_validator(mode="after")
    def _places(self) -> Prompt:
        if any(place in self.text for place in (PREFIX, CAPTIONS, PROMPT, HINT)):
            raise ValueError(f"text {self.text!r} holds a place-holder; those belong into template")
        if self.template is None:
            return self
        found = re.findall(r"\{\w*\}", self.template)
        unknown = sorted(set(found) - {PREFIX, CAPTIONS, PROMPT, HINT})
        if unknown:
            raise ValueError(f"template names {unknown[0]}; expected {PREFIX}, {PROMPT}, {CAPTIONS} and {HINT} alone")
        vectors = found.count(PREFIX) == 1 or (PREFIX not in found and HINT in found)
        if not vectors or found.count(CAPTIONS) > 1 or found.count(HINT) > 1:
            raise ValueError(
                f"template {self.template!r} must hold {PREFIX} exactly once, where the vectors stand (only beside "
                f"{HINT} may it be left out), and {CAPTIONS} and {HINT} once at most"
            )
        if PROMPT not in found and self.text != Prompt.model_fields["text"].default:
            raise ValueError(f"text {self.text!r} stands nowhere in template: add {PROMPT}, or leave text out")
        return self

    def sides(self, retrieval: bool) -> tuple[str, str]:
        """What stands before and behind the vectors (all of it before where there are none), {captions} and {hint} not
        filled in yet."""
        template = self.template if self.template is not None else (CAPTIONS if retrieval else "") + _DRCAP
        before, _, behind = template.partition(PREFIX)
        return before.replace(PROMPT, self.text), behind.replace(PROMPT, self.text)

    @property
    def reads_vectors(self) -> bool:
        """Whether anything of the vector is read."""
        return self.template is None or PREFIX in self.template

    @property
    def reads_hints(self) -> bool:
        """Whether words given with each vector are read."""
        return self.template is not None and HINT in self.template


class Retrieval(Block):
    """Captions of the training texts that are near the item, for the prompt (DRCap's retrieval augmentation).

    `count`: how many, the nearest first; 3 is DRCap's. `decode_count`: how many where captions are written; None is
    `count`.
    `similarity`: in training, where texts look for other texts, only those whose cosine lies between these two
    (DRCap's); never the caption itself, nor another of the same item. An item with fewer of them in between gets fewer,
    or none (ours; DRCap does not say).
    `query`: what looks for captions where captions are written: "source", the vectors as the encoder gives them
    (DRCap's), or "bridged", as the bridge carries them.
    `search`: how they are looked for where captions are written: "exact", among all, or "faiss", among those that an
    index of FAISS picks out, for more than ten million captions (ours). The index is built when it is first needed. In
    training it is always "exact".
    `separator`: stands behind each caption; DRCap's.
    """

    count: Count = 3
    decode_count: Annotated[Count | None, Affects("decode")] = None
    similarity: tuple[Cosine, Cosine] = (0.75, 0.85)
    query: Annotated[Literal["source", "bridged"], Affects("decode")] = "source"
    search: Annotated[Search, Affects("decode")] = "exact"
    separator: str = ". "

    @model_validator(mode="after")
    def _a_range(self) -> Retrieval:
        low, high = self.similarity
        if low >= high:
            raise ValueError(f"similarity [{low}, {high}] holds no cosine: give the lower bound first")
        return self


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
