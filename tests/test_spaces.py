"""Ports: what may stand where."""

from __future__ import annotations

import pytest
import torch

from modbridge.errors import DataError, PortError
from modbridge.spaces import Embeddings, Port, Space


def port(space: str = "a", dim: int | None = 4, **changes: object) -> Port:
    return Port(space=Space(id=space, dim=dim), modality="text").changed(**changes)


def test_the_modality_may_differ() -> None:
    assert port().conflict(port(modality="image", bridge="x")) is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (port("b"), "another space (of the same size"),
        (port("b", dim=8), "another space"),
        (port(dim=8), "another dimension"),
        (port(tokens=7), "sequences where vectors are expected"),
        (port(frame="centred"), "centred vectors where raw ones"),
    ],
)
def test_what_does_not_fit_is_refused_and_both_sides_are_named(other: Port, reason: str) -> None:
    conflict = port().conflict(other)
    assert conflict is not None
    assert reason in conflict
    with pytest.raises(PortError) as caught:
        port().require(other, what="here")
    assert str(port()) in str(caught.value)
    assert str(other) in str(caught.value)


def test_an_unknown_dimension_is_no_conflict() -> None:
    assert port(dim=None).conflict(port(dim=8)) is None


def test_ports_survive_json() -> None:
    original = port(tokens=77, frame="centred", bridge="c3")
    assert Port.from_json(original.to_json()) == original


def test_embeddings_check_their_shape() -> None:
    with pytest.raises(DataError, match="2 vectors with 1 keys"):
        Embeddings(torch.zeros(2, 4), port(), ("a",))
    with pytest.raises(DataError, match="shape"):
        Embeddings(torch.zeros(1, 3, 4), port(), ("a",))
    chosen = Embeddings(torch.arange(8.0).reshape(2, 4), port(), ("a", "b")).select([1, 0])
    assert chosen.keys == ("b", "a")
    assert chosen.values[0, 0] == 4
