"""How `decode` cuts its items: into what a decoder asks for, and into less where the device has no memory for that."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from modbridge.builtin.nearest_caption import NearestCaptionDecoder
from modbridge.errors import SetupError
from modbridge.interfaces import TextVectors
from modbridge.testing import MemoryFitting, build, toy_embeddings

ITEMS = toy_embeddings(23)


def fitted(memory: int, **block: Any) -> tuple[NearestCaptionDecoder, list[int]]:
    """A decoder that has no memory for more than `memory` items at once, and how many it was given each time."""
    decoder: Any = build("decoder", {"type": "nearest_caption", **block})
    decoder.fit(
        TextVectors(ITEMS, lambda rows, epoch: ITEMS.values[list(rows)]),
        [f"caption {i}" for i in range(len(ITEMS))],
        MemoryFitting(),
    )
    asked: list[int] = []
    write = decoder.decode_batch

    def decode_batch(bridged: torch.Tensor, source: Any, keys: Sequence[str], seed: int) -> Any:
        asked.append(len(keys))
        if len(keys) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return write(bridged, source, keys, seed)

    decoder.decode_batch = decode_batch
    return decoder, asked


def test_a_batch_too_large_for_the_device_is_halved_and_the_next_ones_too() -> None:
    decoder, asked = fitted(5, decode_batch_size=16)
    with pytest.warns(UserWarning, match="nearest_caption: out of memory on the device; going on with 4 items at once"):
        found = decoder.decode(ITEMS, source=ITEMS)
    assert [(one.key, one.text) for one in found] == [(key, f"caption {i}") for i, key in enumerate(ITEMS.keys)]
    assert asked == [16, 8, 4, 4, 4, 4, 4, 3]
    asked.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decoder.decode(ITEMS, source=ITEMS) == found
    assert asked == [4, 4, 4, 4, 4, 3]  # what did not fit is not tried again


def test_a_device_without_memory_for_one_item_is_told() -> None:
    decoder, asked = fitted(0, decode_batch_size=4)
    with pytest.warns(UserWarning, match="with 1 items"), pytest.raises(SetupError, match="memory to decode one item"):
        decoder.decode(ITEMS)
    assert asked == [4, 2, 1]


def test_a_decoder_may_ask_for_more_items_than_it_decodes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, asked = fitted(99, decode_batch_size=4)
    plain = decoder.decode(ITEMS)
    assert asked == [4, 4, 4, 4, 4, 3]
    asked.clear()
    monkeypatch.setattr(NearestCaptionDecoder, "pool_size", property(lambda self: 5 * self.batch_size))
    assert decoder.decode(ITEMS) == plain
    assert asked == [20, 3]
