"""The image demo's wide world, its held-out kinds of objects, and the metric of relations and backgrounds."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from modbridge.demo.config import DrawnScenesConfig, ObjectsExactConfig, SceneDetailsConfig
from modbridge.demo.kinds import KINDS, vocabulary_names
from modbridge.demo.objects import ObjectsExact, named_objects
from modbridge.demo.scene_details import SceneDetails
from modbridge.demo.scenes import (
    BACKGROUNDS,
    COLOURS,
    HELD_OUT,
    SHAPES,
    WIDE_COLOURS,
    WIDE_SHAPES,
    DrawnScenes,
    Scene,
    Thing,
    render,
)
from modbridge.errors import DataError
from modbridge.interfaces import Decoded, Reference


def scenes(**fields: object) -> DrawnScenes:
    return DrawnScenes(DrawnScenesConfig(type="drawn_scenes", **{"count": 400, **fields}))


def kinds(source: DrawnScenes) -> list[list[tuple[str, str]]]:
    return [[(colour, shape) for colour, shape in source.facts(row)["objects"]] for row in range(len(source))]


@pytest.mark.parametrize(
    ("split", "fingerprint", "pixels"),
    [
        ("train", "de3f225bb134e53bd448", "fe28946e6eb821a83128"),
        ("test", "53f12313b51dd0cc0f1f", "e39eb3536028832215d0"),
    ],
)
def test_the_plain_world_is_the_one_that_stored_runs_were_made_on(split: str, fingerprint: str, pixels: str) -> None:
    source = scenes(count=50, seed=0, split=split)
    assert source.fingerprint() == fingerprint
    shown = np.stack([source.media(row) for row in range(50)])
    assert hashlib.sha256(shown.tobytes()).hexdigest()[:20] == pixels


def test_the_wide_world_shows_every_name_of_the_vocabulary_and_the_plain_ones_most_often() -> None:
    source = scenes(world="wide", count=3000)
    drawn = [kind for scene in kinds(source) for kind in scene]
    names = vocabulary_names()
    assert len(names) == len(set(names)) == 120
    assert names[:20] == [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    assert {" ".join(kind) for kind in drawn} == set(names)
    plain = sum(kind in set(KINDS["image"]) for kind in drawn) / len(drawn)
    assert plain == pytest.approx(1 / 2 + 1 / 2 * 20 / 120, abs=0.04)
    for row, there in enumerate(kinds(source)):
        assert len({colour for colour, _ in there}) == len(there)
        for text in source.texts(row):
            assert named_objects(text)
            assert named_objects(text) <= set(there)


def test_no_name_of_a_wide_kind_is_a_background() -> None:
    assert not set(BACKGROUNDS) & {*WIDE_COLOURS, *WIDE_SHAPES}


def test_every_shape_of_the_wide_world_differs_as_much_as_those_of_the_plain_one() -> None:
    drawn = [Scene((Thing(shape, "white", False, 16.0, 16.0, 5.0),), "black", None) for shape in WIDE_SHAPES]
    bright = render(drawn, np.random.default_rng(0)).mean(3) > 130
    differ = {(i, j): int((bright[i] != bright[j]).sum()) for j in range(len(bright)) for i in range(j)}
    assert min(differ.values()) >= min(n for (_, j), n in differ.items() if j < len(SHAPES)) > 0


@pytest.mark.parametrize("world", ["plain", "wide"])
def test_held_out_kinds_are_in_no_seen_scene_and_in_every_unseen_one(world: str) -> None:
    seen, unseen = (scenes(world=world, kinds=which) for which in ("seen", "unseen"))
    assert all(HELD_OUT.isdisjoint(scene) for scene in kinds(seen))
    assert not any(HELD_OUT.isdisjoint(scene) for scene in kinds(unseen))
    assert {kind for scene in kinds(unseen) for kind in scene} >= HELD_OUT
    for source in (seen, unseen):
        assert np.mean([len(scene) == 2 for scene in kinds(source)]) == pytest.approx(0.55, abs=0.08)
        assert source.fingerprint() == scenes(world=world, kinds=source.config.kinds).fingerprint()


def test_seen_scenes_show_every_colour_and_every_shape() -> None:
    assert len(HELD_OUT) == 5
    assert set(KINDS["image"]) >= HELD_OUT
    left = {kind for scene in kinds(scenes(kinds="seen")) for kind in scene}
    assert left == set(KINDS["image"]) - HELD_OUT
    for colour in COLOURS:
        assert sum(kind[0] == colour for kind in left) == len(SHAPES) - 1
    for shape in SHAPES:
        assert sum(kind[1] == shape for kind in left) >= 3


def test_facts_tell_what_the_captions_can_state() -> None:
    source = scenes(name_one=0, name_relation=1, name_size=0, name_background=1, captions=1)
    for row in range(len(source)):
        facts = source.facts(row)
        names = ["a " + " ".join(kind) for kind in facts["objects"]]
        said = f"{names[0]} {facts['relation']} {names[1]}" if facts["relation"] else names[0]
        assert (len(names) == 2) == (facts["relation"] is not None)
        assert source.texts(row) == (f"{said} on {facts['background']}",)


def test_captions_of_the_world_itself_state_nothing_false() -> None:
    source = scenes(captions=1, world="wide")
    predictions = [Decoded(key, source.texts(row)[0]) for row, key in enumerate(source.keys())]
    references = [Reference(key, ("x",), source.facts(row)) for row, key in enumerate(source.keys())]
    metric = SceneDetails(SceneDetailsConfig(type="scene_details"))
    found = metric.score(predictions, references)
    assert tuple(found) == metric.config.columns
    assert found["relation_right"].corpus == found["background_right"].corpus == 1
    assert found["relation_named"].corpus == pytest.approx(0.55 * 0.4, abs=0.06)
    assert found["background_named"].corpus == pytest.approx(0.2, abs=0.06)
    turned = metric.score(predictions, references[1:] + references[:1])
    assert turned["relation_right"].corpus == pytest.approx(0, abs=0.1)
    assert turned["background_right"].corpus == pytest.approx(0.25, abs=0.2)


TRUTH = {"objects": [["red", "circle"], ["blue", "cross"]], "relation": "above", "background": "grey"}
ALONE = {"objects": [["red", "circle"]], "relation": None, "background": "grey"}


@pytest.mark.parametrize(
    ("facts", "caption", "relation", "background"),
    [
        (TRUTH, "a red circle above a blue cross on grey", 1, 1),
        (TRUTH, "A big red circle  above a small blue cross on black", 1, 0),
        (TRUTH, "a blue cross above a red circle", 0, None),
        (TRUTH, "a red circle left of a blue cross", 0, None),
        (TRUTH, "a red circle above a blue square", 0, None),
        (TRUTH, "a red circle above a coral ring", 0, None),
        (TRUTH, "a red circle above a blue cross above a red circle", 0, None),
        (TRUTH, "a red circle and a blue cross on grey on cyan", None, 0),
        (TRUTH, "a red circle above grey", None, None),
        (TRUTH, "above a blue cross on top", None, None),
        (ALONE, "a red circle above a blue cross on grey", 0, 1),
        (ALONE, "", None, None),
    ],
)
def test_scene_details_by_hand(
    facts: dict[str, object], caption: str, relation: float | None, background: float | None
) -> None:
    metric = SceneDetails(SceneDetailsConfig(type="scene_details"))
    found = metric.score([Decoded("k", caption)], [Reference("k", ("x",), facts)])
    for what, expected in (("relation", relation), ("background", background)):
        assert found[f"{what}_right"].corpus == expected
        assert found[f"{what}_named"].items == (float(expected is not None),)
        assert found[f"{what}_right"].note == (f"no caption states a {what}" if expected is None else "")


def test_scene_details_counts_only_captions_that_state_something() -> None:
    captions = ["a red circle above a blue cross", "a blue cross above a red circle", "a red circle", "a red circle"]
    truth = [Reference("k", ("x",), TRUTH)] * 4
    found = SceneDetails(SceneDetailsConfig(type="scene_details")).score([Decoded("k", c) for c in captions], truth)
    assert found["relation_right"].corpus == 0.5
    assert found["relation_named"].corpus == 0.5
    assert found["background_right"].corpus is None


def test_scene_details_needs_facts_of_scenes() -> None:
    metric = SceneDetails(SceneDetailsConfig(type="scene_details"))
    facts = {"objects": [["low", "pure"]]}
    with pytest.raises(DataError, match="no relation and no background; it works on drawn_scenes only"):
        metric.score([Decoded("k", "a red circle")], [Reference("k", ("x",), facts)])


def test_a_caption_that_names_a_wide_kind_names_an_object_that_is_not_there() -> None:
    metric = ObjectsExact(ObjectsExactConfig(type="objects_exact"))
    captions = [Decoded("k", "a red circle"), Decoded("k", "a red circle and a coral ring")]
    assert metric.score(captions, [Reference("k", ("x",), TRUTH)] * 2)["objects_exact"].items == (1.0, 0.0)
