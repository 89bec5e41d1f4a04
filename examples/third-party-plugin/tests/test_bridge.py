"""Histogram matching against numpy's own interpolation, and what must come of it."""

from typing import Any

import numpy as np
import torch
from modbridge.interfaces import Bridge, FitData
from modbridge.noise import Draw
from modbridge.testing import MemoryFitting, build, toy_embeddings


def fitted(**fields: float) -> Bridge[Any]:
    bridge = build("bridge", {"type": "quantile_match", **fields})
    assert isinstance(bridge, Bridge)
    bridge.fit(FitData(toy_embeddings(300), toy_embeddings(200, modality="image", seed=1)), MemoryFitting())
    return bridge


def test_it_interpolates_between_quantiles() -> None:
    bridge, asked = fitted(quantiles=21), toy_embeddings(50, modality="image", seed=2)
    found = bridge.cross_vectors(asked.values, Draw.of(asked.keys, 0))
    levels = np.linspace(0, 1, 21)
    text, source = toy_embeddings(300).values.double(), toy_embeddings(200, modality="image", seed=1).values.double()
    wanted = np.empty((50, 16))
    for d in range(16):
        before, after = np.quantile(source[:, d], levels), np.quantile(text[:, d], levels)
        wanted[:, d] = np.interp(asked.values[:, d], before, after)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_the_distributions_are_closer_behind_it() -> None:
    source, text = toy_embeddings(200, modality="image", seed=1), toy_embeddings(300)
    crossed = fitted().cross(source)
    levels = torch.linspace(0.05, 0.95, 19)

    def apart(vectors: torch.Tensor) -> float:
        return float((torch.quantile(vectors, levels, dim=0) - torch.quantile(text.values, levels, dim=0)).abs().mean())

    assert apart(crossed.values) < 0.3 * apart(source.values)


def test_without_strength_nothing_happens() -> None:
    asked = toy_embeddings(8, modality="image", seed=2)
    torch.testing.assert_close(fitted(strength=0.0).cross(asked).values, asked.values, atol=1e-6, rtol=0)
