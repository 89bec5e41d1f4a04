"""Several inputs in one sequence, checked token by token against lists in plain Python."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import modbridge
from modbridge.errors import DataError, PortError
from modbridge.spaces import Embeddings, Port, Space
from modbridge.testing import toy_embeddings

Tokens = list[list[int]]  # of each item its tokens, each a number that stands for a vector


def sequences(items: Tokens, tokens: int, *, ragged: bool, left: bool = False, **changes: Any) -> Embeddings:
    """Sequences whose token 7 is the vector (7, -7), padded with rubbish at the end, or on the `left`."""
    port = Port(space=Space(id="toy", dim=2), modality="image", tokens=tokens, ragged=ragged).changed(**changes)
    rows, masks = [], []
    for item in items:
        lack = tokens - len(item)
        rows.append([99] * lack + item if left else item + [99] * lack)
        masks.append([False] * lack + [True] * len(item) if left else [True] * len(item) + [False] * lack)
    values = torch.tensor(rows, dtype=torch.float32)[..., None] * torch.tensor([1.0, -1.0])
    keys = tuple(f"{changes.get('modality', 'image')}{row}" for row in range(len(items)))
    return Embeddings(values, port, keys, mask=torch.tensor(masks) if ragged else None)


def tokens_of(found: Embeddings) -> Tokens:
    """The tokens of each item as numbers; where no token is, it must be zero."""
    there = found.values.new_ones(found.values.shape[:2]).bool() if found.mask is None else found.mask
    assert torch.equal(found.values[..., 0], -found.values[..., 1])
    assert not found.values[~there].any()
    return [[int(x) for x in row[on, 0]] for row, on in zip(found.values, there, strict=True)]


FIXED = [[1, 2, 3], [4, 5, 6]]
OTHER = [[7, 8, 9], [10, 11, 12]]
RAGGED = [[21], [22, 23]]


def test_sequences_of_one_length_stand_one_after_another() -> None:
    parts = [sequences(FIXED, 3, ragged=False), sequences(OTHER, 3, ragged=False)]
    found = modbridge.compose(parts)
    assert tokens_of(found) == [a + b for a, b in zip(FIXED, OTHER, strict=True)]
    assert (found.port.tokens, found.port.ragged, found.mask, found.port.modality) == (6, False, None, "image")
    assert found.keys == ("image0", "image1")
    short = modbridge.compose(parts, take=[2, 1])
    assert tokens_of(short) == [a[:2] + b[:1] for a, b in zip(FIXED, OTHER, strict=True)]
    assert short.port.tokens == 3


@pytest.mark.parametrize("left", [False, True])
def test_ragged_sequences_are_joined_without_gaps(left: bool) -> None:
    parts = [
        sequences(RAGGED, 4, ragged=True, left=left),
        sequences(FIXED, 3, ragged=False, modality="text"),
        sequences(RAGGED[::-1], 2, ragged=True, left=left),
    ]
    found = modbridge.compose(parts)
    assert tokens_of(found) == [a + b + c for a, b, c in zip(RAGGED, FIXED, RAGGED[::-1], strict=True)]
    assert found.port == parts[0].port.changed(tokens=9, modality="image+text+image")
    assert found.keys == ("image0+text0+image0", "image1+text1+image1")
    assert found.mask is not None
    assert found.mask.tolist() == [[True] * 6 + [False] * 3] * 2  # 1 + 3 + 2 and 2 + 3 + 1
    short = modbridge.compose(parts, take=[1, 2, 1])
    assert tokens_of(short) == [a[:1] + b[:2] + c[:1] for a, b, c in zip(RAGGED, FIXED, RAGGED[::-1], strict=True)]


def test_one_part_is_cut() -> None:
    part = sequences(FIXED, 3, ragged=False)
    assert tokens_of(modbridge.compose([part], take=[2])) == [[1, 2], [4, 5]]
    assert tokens_of(part) == FIXED


@pytest.mark.parametrize(
    ("parts", "take", "told"),
    [
        ([], None, "nothing to compose"),
        ([sequences(FIXED, 3, ragged=False)], [1, 2], "2 numbers of tokens for 1 parts"),
        ([sequences(FIXED, 3, ragged=False)], [4], "4 tokens of part 0; expected 1 to 3"),
        ([sequences(FIXED, 3, ragged=False)], [0], "0 tokens of part 0"),
        ([sequences(FIXED, 3, ragged=False), sequences(FIXED[:1], 3, ragged=False)], None, "1 items and part 0 2"),
    ],
)
def test_what_cannot_be_counted_is_refused(parts: list[Embeddings], take: list[int] | None, told: str) -> None:
    with pytest.raises(DataError, match=told):
        modbridge.compose(parts, take)


@pytest.mark.parametrize(
    "other",
    [
        toy_embeddings(2, 2, "image"),
        sequences(FIXED, 3, ragged=False, space=Space(id="another", dim=2)),
        sequences(FIXED, 3, ragged=False, frame="centred"),
    ],
)
def test_what_is_of_another_kind_is_refused(other: Embeddings) -> None:
    with pytest.raises(PortError, match="part 1 cannot be composed with part 0"):
        modbridge.compose([sequences(FIXED, 3, ragged=False), other])
    if other.port.tokens is None:
        with pytest.raises(PortError, match="only sequences can be composed"):
            modbridge.compose([other])
