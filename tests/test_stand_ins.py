"""Parts of the core that stand in for others: colours by name, and the nearest caption. Neither needs weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modbridge.errors import ArtefactError, ConfigError
from modbridge.interfaces import TextVectors
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port


def recaller(captions: list[str], vectors: Embeddings) -> Any:
    decoder: Any = build("decoder", "nearest_caption", ports={"text": vectors.port})
    decoder.fit(TextVectors(vectors, lambda rows, epoch: vectors.values[list(rows)]), captions, MemoryFitting())
    return decoder


def test_the_nearest_caption_is_the_one_with_the_greatest_cosine() -> None:
    texts, asked = toy_embeddings(5000), toy_embeddings(70, modality="image", seed=1)
    captions = [f"caption {i}" for i in range(5000)]
    long = Embeddings(texts.values * torch.linspace(0.1, 9.0, 5000)[:, None], texts.port, texts.keys)
    found = recaller(captions, long).decode(asked)
    cosines = asked.values.double().numpy() @ texts.values.double().numpy().T
    assert [one.text for one in found] == [captions[i] for i in cosines.argmax(axis=1)]
    np.testing.assert_allclose([one.score for one in found], cosines.max(axis=1), atol=1e-5)


def test_what_it_remembers_is_kept(tmp_path: Path) -> None:
    texts, asked = toy_embeddings(12), toy_embeddings(6, modality="image", seed=1)
    decoder = recaller([f"caption {i}" for i in range(12)], texts)
    save_component(decoder, tmp_path, {"kind": "decoder", "type": "nearest_caption"})
    fresh: Any = build("decoder", "nearest_caption", ports={"text": texts.port})
    with pytest.raises(ArtefactError, match="knows no captions"):
        fresh.decode(asked)
    load_component(fresh, tmp_path)
    assert fresh.decode(asked) == decoder.decode(asked)
    (tmp_path / "captions.json").write_text('["only one"]', encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"\(12, 16\); expected \(1, 16\)"):
        load_component(fresh, tmp_path, verify=False)


def test_sequences_are_refused() -> None:
    config = build_config("decoder", "nearest_caption")
    config.check(toy_port())
    with pytest.raises(Exception, match="one vector an item"):
        config.check(toy_port().changed(tokens=3))


def test_a_colour_that_is_seen_is_the_one_that_is_named() -> None:
    encoder: Any = build("encoder", "named_colours")
    picture = np.zeros((32, 32, 3), np.uint8)
    picture[:, :24], picture[:, 24:] = (220, 40, 40), (50, 80, 220)
    (seen,) = encoder.encode([picture], "image").values
    names = ["black", "brown", "grey", "cyan", "red", "green", "blue", "yellow", "purple"]
    shares = np.array([0, 0, 0, 0, 0.75, 0, 0.25, 0, 0]) + 0.01
    np.testing.assert_allclose(seen, np.sqrt(shares) / np.sqrt(shares.sum()), atol=1e-6)
    said = encoder.encode([f"a {name.title()} thing." for name in names], "text").values
    assert (said @ seen).argsort(descending=True)[:2].tolist() == [4, 6]
    assert encoder.encode(["nothing at all"], "text").values.std() < 1e-6


def test_they_take_no_fields_of_others() -> None:
    with pytest.raises(ConfigError, match="no such field"):
        build_config("encoder", {"type": "named_colours", "dim": 3})
