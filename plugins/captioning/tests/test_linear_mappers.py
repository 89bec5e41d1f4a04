"""DRCap's and WSAC's mappers, and WSAC's captioner by config alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2TokenizerFast

from modbridge.errors import ConfigError
from modbridge.testing import build, build_config, toy_port

FRESH = {"n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 64}


def on(mapper: Any, **changes: Any) -> dict[str, Any]:
    return {"type": "prefix_lm", "lm": FRESH, "tokenizer": "words", "mapper": mapper, **changes}


@pytest.mark.parametrize("length", [1, 3])
def test_drcaps_mapper_is_linear_relu_linear(length: int) -> None:
    decoder: Any = build("decoder", on("drcap", prefix_length=length), ports={"text": toy_port(6)})
    weights = {name: tensor.double().numpy() for name, tensor in decoder.tensors().items()}
    w1, b1, w2, b2 = (weights[f"mapper.layers.{i}.{n}"] for i in (0, 2) for n in ("weight", "bias"))
    assert (w1.shape, w2.shape) == ((2048, 6), (length * 8, 2048))
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = np.maximum(x.double().numpy() @ w1.T + b1, 0) @ w2.T + b2
    with torch.inference_mode():
        np.testing.assert_allclose(decoder.mapper(x).double(), expected.reshape(5, length, 8), atol=1e-5)
        np.testing.assert_allclose(decoder.project(x).double(), expected, atol=1e-5)


@pytest.mark.parametrize("length", [1, 3])
def test_the_linear_mapper_is_one_layer(length: int) -> None:
    decoder: Any = build("decoder", on("linear", prefix_length=length), ports={"text": toy_port(6)})
    weights = {name: tensor.double().numpy() for name, tensor in decoder.tensors().items()}
    assert {name: weight.shape for name, weight in weights.items()} == {
        "mapper.layers.0.weight": (length * 8, 6),
        "mapper.layers.0.bias": (length * 8,),
    }
    x = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    expected = x.double().numpy() @ weights["mapper.layers.0.weight"].T + weights["mapper.layers.0.bias"]
    with torch.inference_mode():
        np.testing.assert_allclose(decoder.mapper(x).double(), expected.reshape(5, length, 8), atol=1e-5)


def test_one_vector_unless_told_otherwise() -> None:
    lengths = {
        kind: build_config("decoder", on(kind)).prefix_length for kind in ("mlp", "soft_prompt", "drcap", "linear")
    }
    assert lengths == {"mlp": 10, "soft_prompt": 10, "drcap": 1, "linear": 1}
    assert build_config("decoder", on({"type": "drcap", "hidden": 32})).prefix_length == 1
    again = build_config("decoder", on("drcap", prefix_length=4))
    assert type(again).model_validate(again.model_dump()).prefix_length == 4
    with pytest.raises(ConfigError, match="no such field"):
        build_config("decoder", on({"type": "linear", "hidden": 32}))


def test_wsacs_captioner_is_a_config(requires_data: Path, tmp_path: Path) -> None:
    files = requires_data / "lm" / "gpt2"
    merges = [tuple(line.split()) for line in (files / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]]
    GPT2TokenizerFast(vocab=json.loads((files / "encoder.json").read_text()), merges=merges).save_pretrained(tmp_path)
    block = {
        "type": "prefix_lm",
        "lm": {"n_layer": 4, "n_head": 4, "n_embd": 768},
        "tokenizer": str(tmp_path),
        "mapper": "linear",
        "lr": 1e-5,
        "weight_decay": 0.02,
        "batch_size": 64,
        "epochs": 30,
        "warmup": 100,
        "max_tokens": 22,
        "generate": {"num_beams": 1, "max_new_tokens": 30},
    }
    decoder: Any = build("decoder", block, ports={"text": toy_port(1024)})
    lm = decoder.lm
    assert (lm.config.n_layer, lm.config.n_head, lm.config.n_embd, lm.config.vocab_size) == (4, 4, 768, 50257)
    with torch.inference_mode():
        assert decoder.mapper(torch.zeros(2, 1024)).shape == (2, 1, 768)
    # 12 n^2 + 13 n in every block of GPT-2, two more n, the tables of words and of positions, and 1024 -> n.
    n = 768
    blocks = 4 * (12 * n * n + 13 * n) + 2 * n
    assert decoder.parameter_count() == blocks + 50257 * n + 64 * n + 1024 * n + n
    assert decoder.trainable_count() == decoder.parameter_count()
