"""ClipCap's transformer mapper: against einsums written out, its size by a formula, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_captioning.blocks import TransformerMapper
from modbridge_captioning.mapper import build_mapper

from modbridge.errors import ConfigError
from modbridge.testing import build, build_config, toy_port

FRESH = {"n_layer": 1, "n_head": 2, "n_embd": 12, "n_positions": 64}
SMALL = {"type": "transformer", "project_length": 3, "layers": 2, "heads": 4, "ratio": 1.5}


def on(mapper: Any, **changes: Any) -> dict[str, Any]:
    return {"type": "prefix_lm", "lm": FRESH, "tokenizer": "words", "mapper": mapper, **changes}


def norm(x: torch.Tensor, w: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]


def by_einsum(w: dict[str, torch.Tensor], x: torch.Tensor, heads: int) -> torch.Tensor:
    """The mapper in float64: one item, one head after the other."""
    length, width = w["prefix_const"].shape
    depth = 1 + max(int(name.split(".")[1]) for name in w if name.startswith("layers."))
    out = []
    for item in x.double():
        seen = torch.einsum("oi,i->o", w["linear.weight"], item) + w["linear.bias"]
        tokens = torch.cat([seen.reshape(-1, width), w["prefix_const"]])
        for n in range(depth):
            at, size = f"layers.{n}", width // heads
            y = norm(tokens, w, f"{at}.norm1")
            queries = torch.einsum("oi,ti->to", w[f"{at}.to_queries.weight"], y)
            # As the authors reshape them: (tokens, keys or values, heads, size of a head).
            both = torch.einsum("oi,ti->to", w[f"{at}.to_keys_values.weight"], y).reshape(-1, 2, heads, size)
            mixed = []
            for h in range(heads):
                q = queries[:, h * size : (h + 1) * size]
                weights = torch.einsum("nd,md->nm", q, both[:, 0, h]) / math.sqrt(size)
                weights = weights.exp() / weights.exp().sum(1, keepdim=True)
                mixed.append(torch.einsum("nm,md->nd", weights, both[:, 1, h]))
            attended = torch.cat(mixed, dim=1)
            tokens = tokens + attended @ w[f"{at}.project.weight"].T + w[f"{at}.project.bias"]
            inner = norm(tokens, w, f"{at}.norm2") @ w[f"{at}.fc1.weight"].T + w[f"{at}.fc1.bias"]
            tokens = tokens + inner.clamp(min=0) @ w[f"{at}.fc2.weight"].T + w[f"{at}.fc2.bias"]
        out.append(tokens[-length:])
    return torch.stack(out)


@pytest.mark.parametrize("length", [1, 5])
def test_the_prefix_is_what_plain_einsums_give(length: int) -> None:
    decoder: Any = build("decoder", on(SMALL, prefix_length=length), ports={"text": toy_port(6)})
    state = decoder.mapper.state_dict()
    generator = torch.Generator().manual_seed(1)
    for tensor in state.values():  # norms begin as ones and zeros, which would hide a forgotten one
        tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.3)
    decoder.mapper.load_state_dict(state)
    weights = {name.removeprefix("mapper."): w.double() for name, w in decoder.tensors().items()}
    x = torch.randn(7, 6, generator=generator)
    expected = by_einsum(weights, x, heads=4)
    with torch.inference_mode():
        torch.testing.assert_close(decoder.mapper(x).double(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(decoder.project(x).double(), expected.flatten(1), atol=1e-5, rtol=1e-5)
    assert expected.shape == (7, length, 12)


def test_its_layers_have_the_authors_names_and_shapes() -> None:
    decoder: Any = build("decoder", on(SMALL, prefix_length=2), ports={"text": toy_port(6)})
    layer = {
        "norm1.weight": (12,),
        "norm1.bias": (12,),
        "to_queries.weight": (12, 12),
        "to_keys_values.weight": (24, 12),
        "project.weight": (12, 12),
        "project.bias": (12,),
        "norm2.weight": (12,),
        "norm2.bias": (12,),
        "fc1.weight": (18, 12),
        "fc1.bias": (18,),
        "fc2.weight": (12, 18),
        "fc2.bias": (12,),
    }
    expected = {"mapper.linear.weight": (36, 6), "mapper.linear.bias": (36,), "mapper.prefix_const": (2, 12)}
    expected |= {f"mapper.layers.{n}.{name}": shape for n in (0, 1) for name, shape in layer.items()}
    assert {name: tuple(tensor.shape) for name, tensor in decoder.tensors().items()} == expected


def test_viecaps_has_41_7_million_parameters() -> None:
    dim, width, projected, length, layers, ratio = 512, 768, 10, 10, 8, 2
    block = width * width + 2 * width * width + (width * width + width)  # queries, keys and values, output
    block += 2 * 2 * width  # two norms
    block += width * ratio * width + ratio * width + ratio * width * width + width
    expected = dim * projected * width + projected * width + length * width + layers * block
    with torch.device("meta"):
        mapper = build_mapper(TransformerMapper(type="transformer"), dim=dim, length=length, width=width)
    assert sum(p.numel() for p in mapper.parameters()) == expected
    assert expected / 1e6 == pytest.approx(41.7, abs=0.05)


def test_a_bare_word_is_viecaps_and_prefixes_differ_by_vector() -> None:
    config = build_config("decoder", on("transformer", lm={**FRESH, "n_embd": 16}))
    assert config.mapper.model_dump() == {
        "type": "transformer",
        "project_length": 10,
        "layers": 8,
        "heads": 8,
        "ratio": 2.0,
    }
    assert config.prefix_length == 10
    assert type(config).model_validate(config.model_dump()) == config
    decoder: Any = build("decoder", on(SMALL), ports={"text": toy_port(6)})
    with torch.inference_mode():
        first, second = decoder.mapper(torch.eye(6)[:2])
    assert first.shape == (10, 12)
    assert float((first - second).abs().max()) > 1e-3


def test_heads_that_do_not_divide_the_width_are_told(lms: dict[str, Path]) -> None:
    message = "heads 5 does not divide the language model's width"
    with pytest.raises(ConfigError, match=f"{message} 12"):
        build_config("decoder", on({**SMALL, "heads": 5}))
    with pytest.raises(ConfigError, match=f"{message} 16"):
        build("decoder", {"type": "prefix_lm", "lm": str(lms["gpt2"]), "mapper": {**SMALL, "heads": 5}})
    with pytest.raises(ConfigError, match="ratio"):
        build_config("decoder", on({**SMALL, "ratio": 0}))


def test_it_learns(kit: Any) -> None:
    captions = ["a red dog", "a blue cat runs", "an old fish", "a horse."]
    shape = {**FRESH, "n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    block = on(SMALL, lm=shape, prefix_length=3, steps=80, batch_size=4, lr=5e-3, generate={"max_new_tokens": 8})
    decoder: Any = build("decoder", block)
    embeddings = kit.embeddings_of([f"i{n}" for n in range(4)])
    decoder.fit(kit.text_vectors(embeddings), captions, kit.Quick())
    assert [decoded.text for decoded in decoder.decode(embeddings)] == captions
