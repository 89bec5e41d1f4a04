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


@pytest.mark.parametrize(
    ("expected", "other", "reason"),
    [
        (port(tokens=7), port(), "vectors where sequences are expected"),
        (port(tokens=7), port(tokens=6), "sequences of 6 tokens where ones of 7 are expected"),
        (port(tokens=7), port(tokens=7, ragged=True), "sequences of different lengths where ones of 7 tokens"),
        (port(tokens=7, ragged=True), port(tokens=8), "sequences of 8 tokens where ones of at most 7 are expected"),
        (port(tokens=7, ragged=True), port(tokens=8, ragged=True), "of 8 tokens where ones of at most 7"),
        (port(tokens=7, ragged=True), port(), "vectors where sequences are expected"),
        (port(), port(tokens=7, ragged=True), "sequences where vectors are expected"),
    ],
)
def test_sequences_that_do_not_fit(expected: Port, other: Port, reason: str) -> None:
    assert reason in str(expected.conflict(other))


@pytest.mark.parametrize("other", [port(tokens=7, ragged=True), port(tokens=5, ragged=True), port(tokens=7)])
def test_shorter_sequences_may_stand_among_ragged_ones(other: Port) -> None:
    assert port(tokens=7, ragged=True).conflict(other) is None


def test_an_unknown_dimension_is_no_conflict() -> None:
    assert port(dim=None).conflict(port(dim=8)) is None


def test_ports_survive_json() -> None:
    original = port(tokens=77, frame="centred", bridge="c3")
    assert Port.from_json(original.to_json()) == original
    assert Port.from_json(original.changed(ragged=True).to_json()).ragged
    assert "ragged" not in original.to_json()  # what was stored before, and every key, stays as it is


def test_only_sequences_are_ragged() -> None:
    with pytest.raises(PortError, match="only sequences can"):
        port(ragged=True)
    port(tokens=3).require_one_length("it")
    port().require_vectors("it")
    with pytest.raises(PortError, match=r"it takes no sequences of different lengths; found raw up to 3 x 4 text"):
        port(tokens=3, ragged=True).require_one_length("it")
    with pytest.raises(PortError, match="it works on single vectors, one an item; found sequences: raw 3 x 4 text"):
        port(tokens=3).require_vectors("it")


def test_embeddings_check_their_shape() -> None:
    with pytest.raises(DataError, match="2 vectors with 1 keys"):
        Embeddings(torch.zeros(2, 4), port(), ("a",))
    with pytest.raises(DataError, match="shape"):
        Embeddings(torch.zeros(1, 3, 4), port(), ("a",))
    chosen = Embeddings(torch.arange(8.0).reshape(2, 4), port(), ("a", "b")).select([1, 0])
    assert chosen.keys == ("b", "a")
    assert chosen.values[0, 0] == 4


def test_a_mask_belongs_to_ragged_sequences_alone() -> None:
    ragged, mask = port(tokens=3, ragged=True), torch.tensor([[True, True, False], [True, False, False]])
    values = torch.arange(24.0).reshape(2, 3, 4)
    with pytest.raises(DataError, match="no mask"):
        Embeddings(values, ragged, ("a", "b"))
    with pytest.raises(DataError, match="a mask for"):
        Embeddings(values, port(tokens=3), ("a", "b"), mask=mask)
    with pytest.raises(DataError, match=r"expected bool \(2, 3\)"):
        Embeddings(values, ragged, ("a", "b"), mask=mask.float())
    with pytest.raises(DataError, match=r"a mask \(2, 2\)"):
        Embeddings(values, ragged, ("a", "b"), mask=mask[:, :2])
    with pytest.raises(DataError, match="shape"):
        Embeddings(values, port(tokens=4), ("a", "b"))
    found = Embeddings(values, ragged, ("a", "b"), mask=mask)
    assert found.select([1]).mask is not None
    assert found.select([1]).mask.tolist() == [[True, False, False]]  # type: ignore[union-attr]
    assert found.to("cpu").mask is not None


def test_sequences_stand_where_longer_ones_may() -> None:
    values = torch.arange(16.0).reshape(2, 2, 4)
    plain = Embeddings(values, port(tokens=2), ("a", "b"))
    assert plain.at(port(tokens=2)) is plain
    found = plain.at(port(tokens=3, ragged=True))
    assert found.port == port(tokens=3, ragged=True)
    assert found.mask is not None
    assert found.mask.tolist() == [[True, True, False]] * 2
    assert torch.equal(found.values[:, :2], values)
    assert not found.values[:, 2].any()
    mask = torch.tensor([[True, False], [True, True]])
    ragged = Embeddings(values, port(tokens=2, ragged=True), ("a", "b"), mask=mask).at(port(tokens=3, ragged=True))
    assert ragged.mask is not None
    assert ragged.mask.tolist() == [[True, False, False], [True, True, False]]
