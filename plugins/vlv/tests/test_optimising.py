"""Training steps: each item with a loss and random numbers of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from modbridge_vlv.optimising import optimise
from modbridge_vlv.training_config import TrainConfig

from modbridge.noise import Draw
from modbridge.testing import MemoryFitting

KEYS = [str(row) for row in range(6)]
TRAIN = TrainConfig(steps=3, batch_size=4, lr=1e-2)


def test_an_items_loss_does_not_depend_on_its_batch_in_training_either() -> None:
    items = Draw.of(KEYS, 1).normal(3 * 4 * 4).view(6, 3, 4, 4)
    norm = torch.nn.BatchNorm2d(3)
    network = torch.nn.Sequential(norm, torch.nn.Flatten())
    moments = {name: value.clone() for name, value in network.named_buffers()}
    weights = norm.weight.detach().clone()

    def loss(rows: Sequence[int], draw: Draw) -> torch.Tensor:
        found: torch.Tensor = network(items[list(rows)]).square().mean(dim=1)
        for number, row in enumerate(rows):
            assert torch.allclose(network(items[[row]]).square().mean(dim=1), found[number], rtol=1e-4)
        return found

    optimise("it", {"network": network}, KEYS, loss, TRAIN, MemoryFitting(), torch.device("cpu"))
    assert all(torch.equal(value, moments[name]) for name, value in network.named_buffers())
    assert not torch.equal(norm.weight, weights)


def test_what_is_trained_on_the_same_items_draws_noise_of_its_own() -> None:
    def drawn(label: str, seed: int) -> dict[tuple[int, float], None]:
        """Each item's row with its first random number, in order."""
        network, found = torch.nn.Linear(1, 1), dict[tuple[int, float], None]()

        def loss(rows: Sequence[int], draw: Draw) -> torch.Tensor:
            found.update(dict.fromkeys(zip(rows, draw.named("noise").normal(1)[:, 0].tolist(), strict=True)))
            return network(torch.zeros(len(rows), 1)).square()[:, 0]  # type: ignore[no-any-return]

        optimise(label, {"network": network}, KEYS, loss, TRAIN, MemoryFitting(seed=seed), torch.device("cpu"))
        return found

    assert drawn("teacher", 0) == drawn("teacher", 0)
    assert not set(drawn("teacher", 0)) & set(drawn("encoder", 0))
    assert not set(drawn("teacher", 0)) & set(drawn("teacher", 1))
