"""Soft tokens through a text encoder: the same as ids where they stand for ids."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from modbridge_vlv.context import SoftTokens
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from modbridge.errors import DataError

SHAPE: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture(params=[CLIPTextModel, CLIPTextModelWithProjection])
def encoder(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    config = CLIPTextConfig(**SHAPE, vocab_size=40, max_position_embeddings=10, projection_dim=16)
    found: torch.nn.Module = request.param(config).eval()
    return found


def test_soft_tokens_of_ids_give_what_ids_give(encoder: torch.nn.Module) -> None:
    soft = SoftTokens(encoder)
    ids = torch.randint(0, 40, (3, 7), generator=torch.Generator().manual_seed(1))
    expected = encoder(input_ids=ids).last_hidden_state
    assert torch.allclose(soft(soft.embeddings(ids)), expected, atol=1e-5)
    # The text encoder itself still reads ids as it did.
    assert torch.equal(encoder(input_ids=ids).last_hidden_state, expected)


def test_tokens_look_back_only_and_gradients_pass(encoder: torch.nn.Module) -> None:
    encoder.requires_grad_(False)
    z = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2)).requires_grad_()
    # Weighted: the plain sum of what a layer norm gives is the same for all that it is given.
    torch.autograd.backward((SoftTokens(encoder)(z)[:, 2] * torch.arange(16)).sum())
    assert z.grad is not None
    reached = z.grad.abs().sum(dim=(0, 2)) > 1e-3
    assert reached.tolist() == [True, True, True, False, False]
    assert all(p.grad is None for p in encoder.parameters())


def test_several_threads_read_at_once(encoder: torch.nn.Module) -> None:
    soft = SoftTokens(encoder)
    inputs = [torch.randn(4, 6, 16, generator=torch.Generator().manual_seed(i)) for i in range(16)]
    with torch.no_grad():
        alone = [soft(z) for z in inputs]
    ids = torch.arange(6)[None]
    by_ids = encoder(input_ids=ids).last_hidden_state

    def read(number: int) -> bool:
        with torch.no_grad():
            whole = torch.allclose(soft(inputs[number % 16]), alone[number % 16], atol=1e-6)
            return whole and torch.allclose(encoder(input_ids=ids).last_hidden_state, by_ids, atol=1e-6)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(200)))


def test_what_the_encoder_does_not_take(encoder: torch.nn.Module) -> None:
    soft = SoftTokens(encoder)
    with pytest.raises(DataError, match=r"11 soft tokens.*10 at most"):
        soft(torch.zeros(1, 11, 16))
    with pytest.raises(DataError, match=r"\(B, n, 16\)"):
        soft(torch.zeros(1, 4, 8))


def test_two_encoders_do_not_take_each_others_soft_tokens(encoder: torch.nn.Module) -> None:
    soft, other = SoftTokens(encoder), SoftTokens(copy.deepcopy(encoder))
    ids, z = torch.arange(6)[None], torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(3))
    asked: list[torch.Tensor] = []
    # Whoever reads ids by another encoder while this one reads soft tokens is given what ids give.
    encoder.register_forward_pre_hook(lambda *_: asked.append(other.states(ids)))
    with torch.no_grad():
        soft(z)
        assert torch.equal(asked[0], other.states(ids))


def test_it_can_be_pickled(encoder: torch.nn.Module) -> None:
    soft, z = SoftTokens(encoder), torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(3))
    again = pickle.loads(pickle.dumps(soft))
    assert torch.equal(again(z), soft(z))
