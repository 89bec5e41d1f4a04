"""The VLV demo: its world of placed shapes, the rules that read a picture, its metrics, and at the smoke profile the
whole of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modbridge
from modbridge.demo.placed import PLACED_COLOURS, PLACED_SHAPES, PLACES, PlacedShapes
from modbridge.demo.placed_config import PlacedPicturesConfig, PlacedShapesConfig, PlacedWordsConfig
from modbridge.demo.placed_metrics import PlacedPictures, PlacedWords
from modbridge.demo.placed_reading import Seen, read_placed
from modbridge.demo.vlv_sheet import composed
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


ROWS = ["vlv", "vlv, tuned", "random", "random, tuned", "true captions"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The run of the smoke profile, and what it said."""
    out = tmp_path_factory.mktemp("demo") / "run"
    cache = out.with_name("cache")
    done = subprocess.run(
        [sys.executable, "-m", "modbridge", "demo", "--modality=vlv", "--profile=smoke", "--json", f"--out={out}"],
        env={**os.environ, "MODBRIDGE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def test_the_smoke_demo_fills_its_tables(demo: tuple[Path, dict[str, Any]]) -> None:
    out, said = demo
    assert [row["cell"] for row in said["rows"]] == ROWS
    for row in said["rows"]:
        assert row["n"] == 24
        for column in ("colour_named", "all_named", "image_colour", "image_shape", "image_place", "image_all"):
            assert 0 <= row[column] <= 1
    assert list(said["conditioning"]) == ["vlv", "random"]  # tuning and true captions have the encoder of another row
    told = {
        label: {row["told by"]: row["loss"] for row in found["rows"]} for label, found in said["conditioning"].items()
    }
    assert told["random"]["encoder, untrained"] == told["random"]["encoder, trained"]
    assert told["vlv"]["encoder, untrained"] == told["random"]["encoder, untrained"]
    assert told["vlv"]["encoder, trained"] < told["vlv"]["encoder, untrained"]
    assert told["vlv"]["true caption"] == told["random"]["true caption"]
    assert set(said["composition"]) == {
        f"{what}_{whose}" for what in ("colour", "shape", "place") for whose in ("first", "last")
    }
    sheet = Image.open(out / "figures" / "sheet.png")
    assert sheet.size == (190 + 10 * 100, 7 * 100 + 4)
    first = PlacedShapes(PlacedShapesConfig(type="placed_shapes", split="test", count=24, captions=1)).media(0)
    assert np.array_equal(np.asarray(sheet)[5:100:3, 191:286:3], first)


def test_true_captions_are_painted_as_the_teacher_reads_them(demo: tuple[Path, dict[str, Any]]) -> None:
    out, _ = demo
    lines = [json.loads(line) for line in (out / "predictions-image.jsonl").read_text("utf-8").splitlines()]
    line = next(line for line in lines if line["cell"] == "true captions" and line["key"] == "test-00003")
    caption = PlacedShapes(PlacedShapesConfig(type="placed_shapes", split="test", count=24, captions=1)).texts(3)[0]
    painter = modbridge.load(out, cell="true captions").decoder_of("image")
    teacher: Any = painter.context.parts["teacher"]
    ids = teacher.token_ids(caption)[None]
    states = teacher.bundle.text_encoder(input_ids=ids).last_hidden_state.detach()  # words, not soft tokens
    (painted,) = painter.decode_batch(states, None, [line["key"]], 0)
    assert painted.image is not None
    assert np.abs(painted.image.astype(int) - np.asarray(Image.open(out / line["image"]), int)).max() <= 1


def test_what_two_pictures_make_is_of_both(demo: tuple[Path, dict[str, Any]]) -> None:
    """Its first tokens alone are those of the one, its last alone those of the other."""
    out, _ = demo
    source, pipeline = shapes(count=4, split="test"), modbridge.load(out)
    one, other = (pipeline.encode([source.media(row)], to="image") for row in (0, 1))
    seen: list[Any] = []
    painter = pipeline.decoder_of("image")
    decode = painter.decode_batch

    def kept(bridged: Any, *given: Any) -> Any:
        seen.append(bridged)
        return decode(bridged, *given)

    painter.decode_batch = kept  # type: ignore[method-assign]
    (picture,) = composed(pipeline, [source.media(0), source.media(1)])
    assert picture.shape == (32, 32, 3)
    teacher: Any = painter.context.parts["teacher"]
    expected = teacher.context_of(torch.cat([one.values[:, :6], other.values[:, 6:]], dim=1))
    assert torch.allclose(seen[0], expected, atol=1e-5)
