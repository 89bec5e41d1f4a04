"""Entities against the truth, and objects that captions make up: counted by hand, and by a slower way over COCO."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest
from modbridge_viecap.metrics_config import ChairConfig, EntitiesConfig
from modbridge_viecap.vocabulary_config import NamesConfig, VinVLConfig

from modbridge.assembly.build import build_metric
from modbridge.config.kinds import MetricConfig
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge.plugins.manager import Plugins

SHAPES = NamesConfig(names=["red circle", "blue square", "green cross"])
PAIR = ["red circle", "blue square"]


def built(config: MetricConfig) -> Metric[Any]:
    return build_metric(config, Plugins.discover().registry)


def found(key: str, *kept: str, out: tuple[str, ...] = ()) -> Decoded:
    """A caption whose decoder kept some entities and left others out."""
    entities = [{"name": name, "score": 0.5, "kept": True} for name in kept]
    entities += [{"name": name, "score": 0.1, "kept": False} for name in out]
    return Decoded(key, "a caption", details={"entities": entities, "prompt": "There are ..."})


def item(key: str, *texts: str, **facts: Any) -> Reference:
    return Reference(key, texts, facts)


def entities(predictions: list[Decoded], references: list[Reference], **fields: Any) -> dict[str, Score]:
    return built(EntitiesConfig(**fields)).score(predictions, references)


def chair(texts: list[str], references: list[Reference], **fields: Any) -> dict[str, Score]:
    predictions = [Decoded(one.key, text) for one, text in zip(references, texts, strict=True)]
    return built(ChairConfig(**fields)).score(predictions, references)


def corpus(scores: dict[str, Score]) -> dict[str, float | None]:
    return {name: score.corpus for name, score in scores.items()}


def test_entities_are_counted_over_all_items() -> None:
    scores = entities(
        [
            found("a", "red circle", "green cross", out=("blue square",)),  # 1 of 2 right, 1 of 2 found
            found("b", "blue square"),  # 1 of 1 right, 1 of 1 found
            found("c", out=("green cross",)),  # nothing came through, 1 missed
        ],
        [item("a", entities=PAIR), item("b", entities=["blue square"]), item("c", entities=["green cross"])],
        vocabulary=SHAPES,
    )
    assert scores["entity_precision"].corpus == pytest.approx(2 / 3)
    assert scores["entity_recall"].corpus == pytest.approx(2 / 4)
    assert scores["entity_f1"].corpus == pytest.approx(2 * (2 / 3) * (2 / 4) / (2 / 3 + 2 / 4))
    assert scores["entity_f1"].items == pytest.approx((0.5, 1.0, 0.0))
    assert set(scores) == set(EntitiesConfig().columns)
    assert all(score.higher_is_better for score in scores.values())


def test_other_words_count_as_the_name_and_once() -> None:
    scores = entities([found("a", "bike", "Bicycle", "person")], [item("a", "a man near his parked bikes", "a fence")])
    assert corpus(scores) == {"entity_precision": 1.0, "entity_recall": 1.0, "entity_f1": 1.0}


def test_known_names_go_before_what_references_say() -> None:
    texts = ("a dog and a frisbee",)
    one = [found("a", "cat")]
    assert entities(one, [item("a", *texts)])["entity_f1"].corpus == 0
    assert entities(one, [item("a", *texts, entities=["kitten"])])["entity_f1"].corpus == 1


def test_all_references_of_an_item_say_what_is_there() -> None:
    scores = entities([found("a", "dog", "car")], [item("a", "a dog", "two dogs with a frisbee", "a car")])
    assert scores["entity_precision"].corpus == 1
    assert scores["entity_recall"].corpus == pytest.approx(2 / 3)


def test_facts_may_name_what_the_vocabulary_lacks() -> None:
    scores = entities([found("a", "purple star")], [item("a", entities=["purple star", "red circle"])])
    assert scores["entity_precision"].corpus == 1
    assert scores["entity_recall"].corpus == 0.5


def test_nothing_to_find_and_nothing_found_is_right_but_no_score_of_the_set() -> None:
    scores = entities([found("a")], [item("a", "an empty street")])
    assert scores["entity_f1"].items == (1.0,)
    assert all(score.corpus is None and score.note for score in scores.values())
    wrong = entities([found("a", "dog")], [item("a", "an empty street")])
    assert corpus(wrong) == {"entity_precision": 0.0, "entity_recall": None, "entity_f1": 0.0}
    silent = entities([found("a", out=("dog",))], [item("a", "a dog")])
    assert corpus(silent) == {"entity_precision": None, "entity_recall": 0.0, "entity_f1": 0.0}
    assert "came through" in silent["entity_precision"].note


def test_a_decoder_that_finds_no_entities_has_no_score() -> None:
    scores = entities([found("a", "dog"), Decoded("b", "a dog")], [item("a", "a dog"), item("b", "a dog")])
    assert set(scores) == set(EntitiesConfig().columns)
    for score in scores.values():
        assert score.corpus is None
        assert score.items == ()
        assert "no entities of 1 of 2 items" in score.note


def test_chair_counts_objects_and_captions() -> None:
    scores = chair(
        [
            "a red circle left of a green cross",  # 1 of 2 made up
            "Red circles above a red circle",  # named once
            "something on white",
            "a green cross above a blue square above a red circle",  # 2 of 3 made up
        ],
        [
            item("a", entities=PAIR),
            item("b", entities=["red circle"]),
            item("c", entities=["blue square"]),
            item("d", entities=["blue square"]),
        ],
        vocabulary=SHAPES,
    )
    assert scores["chair_i"].corpus == pytest.approx(3 / 6)
    assert scores["chair_s"].corpus == pytest.approx(2 / 4)
    assert scores["chair_s"].items == (1.0, 0.0, 0.0, 1.0)
    assert scores["object_recall"].corpus == pytest.approx(3 / 5)
    assert {name: score.higher_is_better for name, score in scores.items()} == {
        "chair_i": False,
        "chair_s": False,
        "object_recall": True,
    }


def test_chair_reads_references_by_cocos_names_and_their_other_words() -> None:
    # There: person, bench, cell phone. Said: person, bench, dog.
    references = [item("a", "a woman sits on a bench", "somebody with a cellphone in the park")]
    scores = chair(["two men and a puppy on benches"], references)
    assert corpus(scores) == pytest.approx({"chair_i": 1 / 3, "chair_s": 1.0, "object_recall": 2 / 3})


def test_objects_that_the_vocabulary_lacks_are_not_asked_for() -> None:
    references = [item("a", entities=["red circle", "purple star"])]
    assert chair(["a red circle"], references, vocabulary=SHAPES)["object_recall"].corpus == 1
    scores = chair(["a red circle"], references)  # by COCO's names
    assert corpus(scores) == {"chair_i": None, "chair_s": 0.0, "object_recall": None}
    assert "'coco'" in scores["chair_i"].note
    assert "'coco'" in scores["object_recall"].note


def test_chair_of_cocos_captions_agrees_with_patterns(requires_data: Path) -> None:
    """The first caption of each item judged by the others, with a pattern for each name in place of the matcher."""
    names = ["giraffe", "zebra", "pizza", "umbrella", "elephant", "frisbee", "kitchen", "laptop"]
    path = requires_data / "captions" / "mscoco_karpathy_val.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as file:
        captions = [json.loads(line)["captions"] for line in file]
    references = [item(str(i), *texts[1:]) for i, texts in enumerate(captions)]
    scores = chair([texts[0] for texts in captions], references, vocabulary=NamesConfig(names=names))

    mentions = made_up = with_made_up = there = named = 0
    for first, *others in captions:
        worst = False
        for name in names:
            pattern = re.compile(rf"(?<![a-z]){name}s?(?![a-z])", re.IGNORECASE)
            said, true = bool(pattern.search(first)), any(pattern.search(text) for text in others)
            mentions += said
            made_up += said and not true
            worst |= said and not true
            there += true
            named += said and true
        with_made_up += worst
    assert made_up > 20
    assert scores["chair_i"].corpus == made_up / mentions
    assert scores["chair_s"].corpus == with_made_up / len(captions)
    assert scores["object_recall"].corpus == named / there

    kept = [
        found(str(i), *(name for name in names if re.search(rf"{name}s?\b", texts[0], re.IGNORECASE)))
        for i, texts in enumerate(captions)
    ]
    same = entities(kept, references, vocabulary=NamesConfig(names=names))
    assert same["entity_precision"].corpus == 1 - made_up / mentions
    assert same["entity_recall"].corpus == named / there


METRICS = [built(EntitiesConfig()), built(ChairConfig())]


@pytest.mark.parametrize("metric", METRICS, ids=["entities", "chair"])
@pytest.mark.parametrize(
    ("predictions", "references", "told"),
    [
        ([], [], "no predictions"),
        ([found("a")], [], "1 predictions for 0 items"),
        ([found("a")], [item("b", "a dog")], "row 0 predicts 'a'"),
        ([found("a")], [item("a")], "'a' has neither references nor known entities"),
        ([found("a")], [item("a", entities="red circle")], r"hold entities: .*expected a list of names"),
        ([found("a")], [item("a", entities=None)], "hold entities: None"),
        ([found("a")], [item("a", entities=[[1, 2]])], "hold entities"),
        ([found("a")], [item("a", entities="dog")], "hold entities: 'dog'; expected a list of names"),
        ([found("a")], [item("a", entities=["dog", 3])], "hold entities"),
    ],
)
def test_wrong_items_are_told(
    metric: Metric[Any], predictions: list[Decoded], references: list[Reference], told: str
) -> None:
    with pytest.raises(DataError, match=told):
        metric.score(predictions, references)


@pytest.mark.parametrize("config", [EntitiesConfig, ChairConfig])
def test_a_missing_file_of_names_is_told_before_and_gives_no_score(config: Any, tmp_path: Path) -> None:
    absent = config(vocabulary=VinVLConfig(path=str(tmp_path / "absent.json")))
    assert "absent.json" in absent.missing()
    scores = built(absent).score([found("a", "dog")], [item("a", "a dog")])
    assert set(scores) == set(absent.columns)
    assert all(score.corpus is None and "absent.json" in score.note for score in scores.values())

    names = tmp_path / "names.txt"
    names.write_text("dog\n")
    present = config(vocabulary=NamesConfig(path=str(names)))
    assert present.missing() is None
    assert config().missing() is None
