"""Noise by item: distribution, and independence of batch and order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from modbridge.noise import Draw, key_hash

KEYS = [f"item {i}" for i in range(500)]


def test_normal_numbers_are_normal() -> None:
    values = Draw.of(KEYS, seed=3).normal(40).numpy()
    assert stats.kstest(values.ravel(), "norm").pvalue > 0.01
    # Neighbouring coordinates, and neighbouring items, must not be correlated.
    assert abs(np.corrcoef(values[:, 0], values[:, 1])[0, 1]) < 0.15
    assert abs(np.corrcoef(values[:-1].ravel(), values[1:].ravel())[0, 1]) < 0.03
    assert abs(np.corrcoef(values[:, :20].ravel(), values[:, 20:].ravel())[0, 1]) < 0.03


def test_uniform_numbers_are_uniform_and_open() -> None:
    values = Draw.of(KEYS, seed=4).uniform(40).numpy().ravel()
    assert stats.kstest(values, "uniform").pvalue > 0.01
    assert values.min() > 0
    assert values.max() < 1


@given(st.permutations(range(12)), st.integers(1, 11))
@settings(max_examples=20, deadline=None)
def test_batch_and_order_change_nothing(order: list[int], cut: int) -> None:
    whole = Draw.of(KEYS[:12], seed=7, epoch=2).normal(9)
    keys = [KEYS[i] for i in order]
    parts = torch.cat([Draw.of(part, 7, 2).normal(9) for part in (keys[:cut], keys[cut:])])
    assert torch.equal(parts, whole[order])


def test_seed_epoch_and_purpose_are_streams_of_their_own() -> None:
    base = Draw.of(["a"], 1, 1)
    others = [Draw.of(["b"], 1, 1), Draw.of(["a"], 2, 1), Draw.of(["a"], 1, 2), base.named("t")]
    for other in others:
        assert not torch.allclose(base.normal(8), other.normal(8))
    assert torch.equal(base.normal(8), Draw.of(["a"], 1, 1).normal(8))


def test_the_hash_is_the_same_in_every_process() -> None:
    # blake2b-64 of the UTF-8 bytes, little-endian, computed with coreutils' b2sum -l 64.
    assert key_hash("").to_bytes(8, "little", signed=True).hex() == "e4a6a0577479b2b4"


def test_silent_draws_have_no_normal_noise_and_stay_silent() -> None:
    loud = Draw.of(["a", "b", "c"], 3)
    silent = replace(loud, silent=True)
    assert torch.equal(silent.named("x").select(slice(1, 3)).normal(5), torch.zeros(2, 5))
    assert torch.equal(silent.uniform(4), loud.uniform(4))
    assert loud.named("x").normal(5).abs().min() > 0
