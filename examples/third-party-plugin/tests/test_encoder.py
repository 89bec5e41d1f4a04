"""The closed form against another way to the same numbers, and what the encoder learns."""

from typing import Any

import numpy as np
import torch
from modbridge.plugins.manager import Plugins
from modbridge.testing import MemoryFitting, build, build_config

from colour_words.cca import canonical_maps
from colour_words.features import histograms, words


def pairs(count: int) -> list[torch.Tensor]:
    """Two views, (N, 5) and (N, 4), of one hidden number."""
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(count, 1, generator=random, dtype=torch.float64)
    ways = [torch.randn(1, dim, generator=random, dtype=torch.float64) for dim in (5, 4)]
    return [hidden @ way + 0.5 * torch.randn(count, way.shape[1], generator=random).double() for way in ways]


def test_correlations_are_those_of_the_eigenvalue_problem() -> None:
    x, y = pairs(400)
    (to_x, to_y), strengths = canonical_maps(x, y, 3, 1e-12)
    a, b = (x - x.mean(dim=0)).numpy(), (y - y.mean(dim=0)).numpy()
    product = np.linalg.solve(a.T @ a, a.T @ b) @ np.linalg.solve(b.T @ b, b.T @ a)
    np.testing.assert_allclose(strengths.square(), np.sort(np.linalg.eigvals(product).real)[::-1][:3], atol=1e-9)
    for i in range(3):
        np.testing.assert_allclose(np.corrcoef(a @ to_x[:, i].numpy(), b @ to_y[:, i].numpy())[0, 1], strengths[i])


def test_directions_that_pairs_do_not_determine_are_zero() -> None:
    x, y = pairs(50)
    (to_x, to_y), strengths = canonical_maps(x, y, 7, 0.1)
    assert [*strengths[4:]] == [0, 0, 0]
    assert not to_x[:, 4:].any()
    assert not to_y[:, 4:].any()


def test_features_count_what_is_there() -> None:
    picture = np.zeros((16, 16, 3), np.uint8)
    picture[:, 8:] = 255
    found = histograms(picture, 2, 2).reshape(2, 2, 8)
    assert found.square().sum(dim=2).tolist() == [[1, 1], [1, 1]]
    assert found[:, 0, 0].tolist() == found[:, 1, 7].tolist() == [1, 1]
    assert torch.equal(words("A red, RED circle", 1000), words("a red red circle!", 1000))
    assert words("a red circle", 1000).square().sum() == 5  # three words, two pairs
    assert not words("", 1000).any()


def test_an_image_lies_nearer_to_its_own_caption() -> None:
    registry = Plugins.discover().registry
    config = {"type": "drawn_scenes", "count": 200, "captions": 2}
    scenes: Any = registry.get("source", "drawn_scenes").load_impl()
    train, test = (scenes(build_config("source", {**config, "split": split})) for split in ("train", "test"))
    encoder: Any = build("encoder", {"type": "colour_words", "grid": 2, "bins": 3, "dim": 16})
    encoder.fit(train, MemoryFitting())
    images = encoder.encode([test.media(i) for i in range(200)], "image").values
    texts = encoder.encode([test.texts(i)[0] for i in range(200)], "text").values
    cosines = images @ texts.T
    assert (cosines.diagonal()[:, None] > cosines).float().mean() > 0.75  # by chance .5
