"""Placed shapes: the source, the rules that read a picture, and the metrics of captions and of painted pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modbridge.demo.placed import PLACED_COLOURS, PLACED_SHAPES, PLACES, PlacedShapes
from modbridge.demo.placed_config import PlacedPicturesConfig, PlacedShapesConfig, PlacedWordsConfig
from modbridge.demo.placed_metrics import PlacedPictures, PlacedWords
from modbridge.demo.placed_reading import Seen, read_placed
from modbridge.errors import DataError
from modbridge.interfaces import Decoded, Reference


def shapes(**fields: Any) -> PlacedShapes:
    return PlacedShapes(PlacedShapesConfig(type="placed_shapes", **{"count": 300, "captions": 1, **fields}))


def there(source: PlacedShapes, row: int) -> Seen:
    facts = source.facts(row)
    ((colour, shape),) = facts["objects"]
    return Seen(colour, shape, facts["place"])


def test_pictures_show_what_captions_say() -> None:
    source = shapes()
    assert {there(source, row) for row in range(300)} == {
        Seen(colour, shape, place) for colour in PLACED_COLOURS for shape in PLACED_SHAPES for place in PLACES
    }
    for row in range(40):
        seen, picture = there(source, row), source.media(row).astype(int)
        assert source.texts(row) == (f"a large {seen.colour} {seen.shape} at the {seen.place}",)
        bright = picture.max(axis=2) > 120
        upper, left = bright[:16].sum() > bright[16:].sum(), bright[:, :16].sum() > bright[:, 16:].sum()
        assert seen.place == f"{'top' if upper else 'bottom'} {'left' if left else 'right'}"
        strongest = picture[bright].mean(axis=0)
        assert int(strongest.argmax()) == {"red": 0, "green": 1, "blue": 2, "yellow": 0}[seen.colour]
    assert shapes(split="test").fingerprint() != source.fingerprint() == shapes().fingerprint()
    assert not np.array_equal(shapes(split="test").media(0), source.media(0))


def test_rules_read_every_real_picture() -> None:
    for seed, split in ((0, "test"), (1, "train")):
        source = shapes(seed=seed, split=split)
        assert [read_placed(source.media(row)) for row in range(300)] == [there(source, row) for row in range(300)]


def test_rules_read_faint_and_blurred_pictures() -> None:
    """As a small model paints them."""
    source = shapes(count=100)
    right = 0
    for row in range(100):
        picture = source.media(row).astype(float)
        near = sum(np.roll(picture, shift, (0, 1)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))) / 4
        right += read_placed((18 + 0.5 * (near - 18)).clip(0, 255).astype(np.uint8)) == there(source, row)
    assert right >= 90
    assert read_placed(np.full((32, 32, 3), 20, np.uint8)) is None


def test_captions_are_judged_word_by_word() -> None:
    metric = PlacedWords(PlacedWordsConfig(type="placed_words"))
    facts = {"objects": [["red", "circle"]], "place": "top left"}
    captions = {
        "a large red circle at the top left": (1, 1, 1, 1),
        "Circle, red: at the  TOP left": (1, 1, 1, 1),
        "a large red circle at the top right": (1, 1, 0, 0),
        "a large red square circle at the top left": (1, 0, 1, 0),
        "": (0, 0, 0, 0),
    }
    found = metric.judge(
        [Decoded(str(i), text) for i, text in enumerate(captions)],
        [Reference(str(i), ("",), facts) for i in range(len(captions))],
    )
    for number, name in enumerate(("colour_named", "shape_named", "place_named", "all_named")):
        assert found[name].items == tuple(float(right[number]) for right in captions.values())
        assert found[name].corpus == pytest.approx(np.mean([right[number] for right in captions.values()]))


def test_pictures_are_judged_by_what_they_show() -> None:
    metric, source = PlacedPictures(PlacedPicturesConfig(type="placed_pictures")), shapes(count=6)
    assert metric.config.judges == "image"
    mixed = {**source.facts(0), "place": "nowhere"}
    items = [
        (source.media(0), source.facts(0), (1, 1, 1, 1)),
        (source.media(0), mixed, (1, 1, 0, 0)),
        (np.repeat(np.repeat(source.media(1), 2, 0), 2, 1), source.facts(1), (1, 1, 1, 1)),  # twice as large
        (np.zeros((32, 32, 3), np.uint8), source.facts(2), (0, 0, 0, 0)),
    ]
    found = metric.judge(
        [Decoded(str(i), "", image=picture) for i, (picture, _, _) in enumerate(items)],
        [Reference(str(i), ("",), facts) for i, (_, facts, _) in enumerate(items)],
    )
    for number, name in enumerate(("colour", "shape", "place", "all")):
        assert found[name].items == tuple(float(right[number]) for _, _, right in items)


@pytest.mark.parametrize("facts", [{}, {"objects": [["red", "circle"]]}, {"objects": [], "place": "top left"}])
def test_items_of_another_world_are_told(facts: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"which shape stands where in 'one'; this works on placed_shapes only"):
        PlacedWords(PlacedWordsConfig(type="placed_words")).score([Decoded("one", "")], [Reference("one", (), facts)])
