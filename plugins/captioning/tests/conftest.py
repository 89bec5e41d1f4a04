"""Tiny pretrained language models, and a decoder's life in two folders."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
)

from modbridge.interfaces import TextVectors
from modbridge.interfaces.fitting import Hints
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_port

WORDS = "a red blue dog cat runs fast old horse fish USER: ASSISTANT: Describe what you hear. similar: . ,"
END = "<|endoftext|>"


def save_words(folder: Path) -> int:
    names = [*WORDS.split(), END]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END).save_pretrained(folder)
    return len(names)


def save_gpt2(folder: Path, seed: int = 0, positions: int = 64) -> Path:
    size = save_words(folder)
    torch.manual_seed(seed)
    ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    shape = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": positions, "initializer_range": 0.4}
    GPT2LMHeadModel(GPT2Config(vocab_size=size, **shape, **ends, **drop)).save_pretrained(folder)
    return folder


def save_llama(folder: Path, seed: int = 0) -> Path:
    size = save_words(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    more = {"num_key_value_heads": 1, "max_position_embeddings": 64, "initializer_range": 0.4}
    LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape, **more, **ends)).save_pretrained(folder)
    return folder


def save_opt(folder: Path, seed: int = 0) -> Path:
    size = save_words(folder)
    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "ffn_dim": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    shape |= {"word_embed_proj_dim": 16, "max_position_embeddings": 64}
    more = {"dropout": 0.0, "init_std": 0.4, "pad_token_id": size - 1}
    ends = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    OPTForCausalLM(OPTConfig(vocab_size=size, **shape, **more, **ends)).save_pretrained(folder)
    return folder


def save_stories(data: Path, folder: Path) -> Path:
    """karpathy's stories260K, from llama2.c's layout: its rotary halves are interleaved there, and apart here."""
    raw = (data / "stories260K.bin").read_bytes()
    dim, hidden, layers, heads, kv_heads, size, length = struct.unpack("7i", raw[:28])
    numbers = torch.from_numpy(np.frombuffer(raw, dtype=np.float32, offset=28).copy())
    at, head = 0, dim // heads

    def take(*shape: int) -> torch.Tensor:
        nonlocal at
        count = int(np.prod(shape))
        at += count
        return numbers[at - count : at].view(shape)

    def apart(weight: torch.Tensor, count: int) -> torch.Tensor:
        return weight.view(layers, count, head // 2, 2, dim).transpose(2, 3).reshape(layers, count * head, dim)

    embedding = take(size, dim)
    stacks = {
        "input_layernorm": take(layers, dim),
        "self_attn.q_proj": apart(take(layers, heads * head, dim), heads),
        "self_attn.k_proj": apart(take(layers, kv_heads * head, dim), kv_heads),
        "self_attn.v_proj": take(layers, kv_heads * head, dim),
        "self_attn.o_proj": take(layers, dim, heads * head),
        "post_attention_layernorm": take(layers, dim),
        "mlp.gate_proj": take(layers, hidden, dim),
        "mlp.down_proj": take(layers, dim, hidden),
        "mlp.up_proj": take(layers, hidden, dim),
    }
    state = {"model.embed_tokens.weight": embedding, "model.norm.weight": take(dim), "lm_head.weight": embedding}
    for name, stack in stacks.items():
        state |= {f"model.layers.{i}.{name}.weight": stack[i] for i in range(layers)}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=dim,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            max_position_embeddings=length,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        )
    )
    model.load_state_dict(state)
    model.save_pretrained(folder)

    raw, names, scores, at = (data / "tok512.bin").read_bytes(), [], [], 4
    for _ in range(size):
        score, count = struct.unpack_from("fi", raw, at)
        names.append(raw[at + 8 : at + 8 + count].decode("utf-8", errors="replace").replace(" ", "\u2581"))
        scores.append(score)
        at += 8 + count
    names[:3] = ["<unk>", "<s>", "</s>"]
    vocabulary = {name: i for i, name in enumerate(names)}
    pieces = sorted(range(259, size), key=lambda i: -scores[i])
    merges = [
        (names[i][:cut], names[i][cut:])
        for i in pieces
        for cut in range(1, len(names[i]))
        if names[i][:cut] in vocabulary and names[i][cut:] in vocabulary
    ]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder


class Quick(MemoryFitting):
    """Keeps no checkpoints unless it is to be interrupted."""

    def checkpoint(self, name: str, state: Any, *, force: bool = False) -> None:
        if self.stop_after is not None:
            super().checkpoint(name, state, force=force)


def text_vectors(embeddings: Embeddings, hints: Sequence[str] | None = None) -> TextVectors:
    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        with torch.inference_mode():
            return embeddings.values[list(rows)] * 1.0

    if hints is None:
        return TextVectors(embeddings, batch)
    given = Hints(lambda rows, epoch: [hints[i] for i in rows], hints, max(hints, key=len), "toy")
    return TextVectors(embeddings, batch, given)


def embeddings_of(keys: Sequence[str], dim: int = 16, seed: int = 0) -> Embeddings:
    """Unit vectors around a common direction: cosines from -.2 to .9."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(keys), dim, generator=generator) * 0.25
    values[:, 0] += 0.6
    return Embeddings(torch.nn.functional.normalize(values, dim=1), toy_port(dim), tuple(keys))


def saved(decoder: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    decoder.save_extra(folder)
    save_file({name: tensor.contiguous() for name, tensor in decoder.tensors().items()}, folder / "model.safetensors")
    return folder


def loaded(block: dict[str, Any], folder: Path) -> Any:
    decoder: Any = build("decoder", block)
    decoder.load_extra(folder)
    decoder.load_tensors(load_file(folder / "model.safetensors"))
    return decoder


_TINY = {"gpt2": save_gpt2, "llama": save_llama, "opt": save_opt}


@pytest.fixture(scope="session")
def lms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny GPT-2, a tiny Llama and a tiny OPT, as save_pretrained writes them."""
    folder = tmp_path_factory.mktemp("lms")
    return {kind: save(folder / kind) for kind, save in _TINY.items()}


@pytest.fixture(scope="session")
def stories(requires_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pretrained Llama of 260,000 parameters, with its tokenizer."""
    return save_stories(requires_data / "lm", tmp_path_factory.mktemp("stories") / "stories260K")


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    return SimpleNamespace(
        Quick=Quick,
        text_vectors=text_vectors,
        embeddings_of=embeddings_of,
        saved=saved,
        loaded=loaded,
        save_gpt2=save_gpt2,
        save_llama=save_llama,
        save_words=save_words,
    )
