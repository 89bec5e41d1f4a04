"""The vectors a decoder is trained on: fixed sets and fresh noise, through the diffusion prior."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from modbridge.interfaces import FitData
from modbridge.spaces import Embeddings
from modbridge.stages import fit_decoder
from modbridge.stages.fit_decoder import augmented
from modbridge.testing import MemoryFitting, build, toy_embeddings

COUNT = 10
TEXT = toy_embeddings(COUNT)
EVERY = list(range(COUNT))


class Counting(MemoryFitting):
    def checkpoint(self, name: str, state: Any, *, force: bool = False) -> None:
        pass


@pytest.fixture(scope="module")
def bridge() -> Any:
    """Diffusion Bridge over a prior of a few steps: noise at step 400, then denoised."""
    prior = {"type": "ddpm", "denoiser": {"type": "residual_mlp", "width": 16, "num_blocks": 1}, "steps": 20}
    found: Any = build("bridge", {"type": "diffusion_bridge", "prior": prior, "augment_step": 400})
    found.fit(FitData(TEXT, toy_embeddings(COUNT, modality="image")), Counting())
    return found


def test_one_draw_gives_a_caption_one_vector_for_good(bridge: Any) -> None:
    vectors = augmented(bridge, TEXT, 0, 1)
    first = vectors.batch(EVERY, 0)
    assert all(torch.equal(vectors.batch(EVERY, epoch), first) for epoch in (1, 2, 7))
    assert torch.nn.functional.cosine_similarity(first, TEXT.values).max() < 0.999  # noise was put in


def test_fresh_noise_differs_in_every_epoch_and_for_every_caption(bridge: Any) -> None:
    vectors = augmented(bridge, TEXT, 0, "fresh")
    epochs = torch.stack([vectors.batch(EVERY, epoch) for epoch in range(4)])
    for a in range(4):
        for b in range(a):
            assert (epochs[a] - epochs[b]).norm(dim=1).min() > 1e-3
    # An epoch that comes again (after an interruption) gives the same vectors.
    assert torch.equal(augmented(bridge, TEXT, 0, "fresh").batch(EVERY, 2), epochs[2])
    assert not torch.equal(augmented(bridge, TEXT, 1, "fresh").batch(EVERY, 2), epochs[2])


@pytest.mark.parametrize("draws", [1, 3, "fresh"])
def test_batches_in_any_order_and_size_give_the_same_vectors(bridge: Any, draws: int | str) -> None:
    expected = augmented(bridge, TEXT, 0, draws).batch(EVERY, 2)
    vectors, order = augmented(bridge, TEXT, 0, draws), [7, 2, 9, 0, 5, 1, 8, 3, 6, 4]
    for rows in (order[:3], order[3:4], order[4:]):
        assert torch.equal(vectors.batch(rows, 2), expected[rows])
        assert torch.equal(vectors.batch(torch.tensor(rows), 2), expected[rows])
    # Nor does it matter which other captions there are: noise belongs to (seed, epoch, caption).
    part = TEXT.select(order[:4])
    torch.testing.assert_close(augmented(bridge, part, 0, draws).batch(range(4), 2), expected[order[:4]])


def test_draws_take_turns(bridge: Any) -> None:
    vectors = augmented(bridge, TEXT, 0, 3)
    epochs = [vectors.batch(EVERY, epoch) for epoch in range(6)]
    assert all(torch.equal(epochs[i], epochs[i + 3]) for i in range(3))
    assert not torch.equal(epochs[0], epochs[1])
    assert torch.equal(epochs[0], augmented(bridge, TEXT, 0, 1).batch(EVERY, 0))


class Noting:
    """A bridge that only notes which sets it was asked for."""

    def __init__(self) -> None:
        self.made: list[int] = []

    def augment(self, text: Embeddings, seed: int, epoch: int) -> Embeddings:
        self.made.append(epoch)
        return text


@pytest.mark.parametrize(
    ("draws", "room", "made"),
    [
        (None, 1.0, [0]),
        (1, 1.0, [0]),
        (3, 3.0, [0, 1, 2]),
        (3, 2.9, [0, 1, 2, 1, 2]),  # one set too many for the memory: one stays, the others are made anew
        (2, 0.1, [0, 1, 0, 1, 0, 1]),
        ("fresh", 9.0, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_sets_are_made_once_as_long_as_there_is_room(
    monkeypatch: pytest.MonkeyPatch, draws: int | str | None, room: float, made: list[int]
) -> None:
    monkeypatch.setattr(fit_decoder, "KEPT_BYTES", int(room * TEXT.values.numel() * 4))
    noting: Any = Noting()
    vectors = augmented(noting, TEXT, 0, draws)
    for epoch in range(6):
        vectors.batch(EVERY[:5], epoch)
        vectors.batch(EVERY[5:], epoch)
    assert noting.made == made
