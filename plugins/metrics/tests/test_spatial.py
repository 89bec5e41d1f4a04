"""Where things are in painted images: what is asked, what is read of answers, how boxes become errors."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from modbridge_metrics.spatial_boxes import things
from modbridge_metrics.spatial_config import PROMPT
from PIL import Image

from modbridge.assembly.build import build_metric
from modbridge.cli import main
from modbridge.config.blocks import validate_block
from modbridge.errors import ConfigError
from modbridge.interfaces import Decoded, Metric, Reference
from modbridge.plugins.manager import Plugins, from_file

FILE = Path(__file__).parent / "box_judge.py"
PLUGINS = Plugins.discover(environ={"MODBRIDGE_PLUGINS": "metrics,builtin"})
PLUGINS.load(from_file(FILE))
BOXES: Any = sys.modules["modbridge_file_box_judge"].Boxes

RED, ROSE, RUBY, GREEN, BLUE = (255, 0, 0), (254, 0, 0), (253, 0, 0), (0, 255, 0), (0, 0, 255)
CENTRE, SIZE, FOUND = "spatial_centre_error", "spatial_size_error", "spatial_found"

Box = tuple[int, int, int, int]  # left, top, right, bottom in pixels


@pytest.fixture(autouse=True)
def fresh() -> None:
    BOXES.asked.clear()
    BOXES.said.clear()


def build(**block: Any) -> Metric[Any]:
    config: Any = validate_block("metric", {"type": "spatial_error", "judge": "boxes", **block}, PLUGINS.registry)
    return build_metric(config, PLUGINS.registry)


def drawn(boxes: Mapping[tuple[int, int, int], Box], width: int = 100, height: int = 100, mark: int = 9) -> Any:
    pixels = np.full((height, width, 3), mark, np.uint8)
    for colour, (left, top, right, bottom) in boxes.items():
        pixels[top:bottom, left:right] = colour
    return pixels


def judged(was: Sequence[Any], now: Sequence[Any], **block: Any) -> dict[str, Any]:
    predictions = [Decoded(f"k{i}", "", image=pixels) for i, pixels in enumerate(now)]
    references = [Reference(f"k{i}", (), {}, lambda i=i: was[i]) for i in range(len(was))]  # type: ignore[misc]
    return build(**block).judge(predictions, references)


def test_centres_and_sizes_are_compared_by_name() -> None:
    # An image of 100 x 100 and one of 200 x 50: shares of the sides, not pixels.
    was = drawn({RED: (10, 20, 30, 40), GREEN: (50, 50, 90, 100), BLUE: (0, 80, 10, 90)})
    now = drawn({RED: (40, 10, 80, 30), GREEN: (100, 20, 180, 50)}, 200, 50)
    found = judged([was], [now])
    # red: (.2, .3) of (.2, .2) became (.3, .4) of (.2, .4); green: (.7, .75) of (.4, .5) became (.7, .7) of (.4, .6).
    assert found[CENTRE].items == pytest.approx([((0.1 + 0.1) / 2 + (0.0 + 0.05) / 2) / 2])
    assert found[SIZE].items == pytest.approx([((0.0 + 0.2) / 2 + (0.0 + 0.1) / 2) / 2])
    assert found[FOUND].items == pytest.approx([2 / 3])
    assert [found[name].higher_is_better for name in (CENTRE, SIZE, FOUND)] == [False, False, True]
    assert {score.note for score in found.values()} == {""}
    asked = BOXES.asked
    assert [question.text for question in asked] == [PROMPT, PROMPT]
    assert [question.image is image for question, image in zip(asked, (was, now), strict=True)] == [True, True]


def test_an_image_that_is_the_item_has_no_error() -> None:
    same = drawn({RED: (10, 20, 30, 40), ROSE: (50, 50, 90, 100)})
    found = judged([same], [same])
    assert [found[name].corpus for name in (CENTRE, SIZE, FOUND)] == [0.0, 0.0, 1.0]


def shares(box: Box) -> Any:
    left, top, right, bottom = (at / 100 for at in box)
    return np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top])


@pytest.mark.parametrize(("here", "there"), [(3, 3), (2, 3), (3, 2), (1, 3)])
def test_several_of_one_name_are_paired_so_that_they_differ_least(here: int, there: int) -> None:
    # Apart from one another, so that none covers another; a greedy pairing in their order is not the best one.
    was: list[Box] = [(40, 0, 60, 30), (0, 0, 20, 20), (70, 50, 100, 100)][:here]
    now: list[Box] = [(30, 10, 50, 40), (65, 60, 95, 90), (5, 60, 25, 80)][:there]
    reds = (RED, ROSE, RUBY)
    found = judged([drawn(dict(zip(reds, was, strict=False)))], [drawn(dict(zip(reds, now, strict=False)))])
    few, many = (was, now) if here <= there else (now, was)
    ways = [[np.abs(shares(a) - shares(b)) for a, b in zip(few, way, strict=False)] for way in permutations(many)]
    best = min(ways, key=lambda way: sum(off.sum() for off in way))
    assert found[CENTRE].corpus == pytest.approx(np.mean([off[:2] for off in best]))
    assert found[SIZE].corpus == pytest.approx(np.mean([off[2:] for off in best]))
    assert found[FOUND].corpus == pytest.approx(len(few) / here)


def test_the_best_pairing_is_not_the_nearest_first() -> None:
    """Two boxes on one line: the nearest of the first would leave the second far away."""
    was = drawn({RED: (20, 0, 30, 10), ROSE: (40, 0, 50, 10)})
    now = drawn({RED: (29, 50, 39, 60), ROSE: (8, 50, 18, 60)})
    assert judged([was], [now])[CENTRE].corpus == pytest.approx(((0.12 + 0.5) / 2 + (0.11 + 0.5) / 2) / 2)


def test_what_cannot_be_compared_is_left_out_and_counted() -> None:
    red, green, nothing = drawn({RED: (0, 0, 50, 50)}), drawn({GREEN: (0, 0, 50, 50)}), drawn({})
    moved, unread = drawn({RED: (20, 0, 70, 50)}), drawn({RED: (0, 0, 50, 50)}, mark=77)
    unread[0, 0] = 77
    BOXES.said[77] = "A red\nsquare at the top left."
    found = judged([red, red, nothing, unread, red], [moved, green, red, red, unread])
    assert found[CENTRE].items == pytest.approx([0.1, math.nan, math.nan, math.nan, math.nan], nan_ok=True)
    assert found[CENTRE].corpus == pytest.approx(0.1)
    assert found[FOUND].items == pytest.approx([1.0, 0.0, math.nan, math.nan, math.nan], nan_ok=True)
    assert found[FOUND].corpus == 0.5
    assert found[SIZE].note == (
        "2 of 10 answers could not be read, and their items are left out (the first: 'A red square at the top left.'); "
        "2 items share no object with their image, and have no errors"
    )


def test_where_nothing_can_be_compared_there_is_no_figure() -> None:
    found = judged([drawn({RED: (0, 0, 50, 50)})], [drawn({GREEN: (0, 0, 50, 50)})])
    assert (found[CENTRE].corpus, found[CENTRE].items, found[CENTRE].higher_is_better) == (None, (), False)
    assert (found[FOUND].corpus, found[FOUND].items) == (0.0, (0.0,))
    assert found[CENTRE].note == "1 items share no object with their image, and have no errors"


def test_some_of_the_items_are_the_same_in_any_order() -> None:
    was = [drawn({RED: (i, 0, 50, 50)}) for i in range(12)]
    references = [Reference(f"k{i}", (), {}, lambda i=i: was[i]) for i in range(12)]  # type: ignore[misc]
    predictions = [Decoded(f"k{i}", "", image=was[0]) for i in range(12)]
    metric = build(items=5, prompt="Where?")
    one = metric.judge(predictions, references)[CENTRE]
    assert {question.text for question in BOXES.asked} == {"Where?"}
    compared = [i for i, value in enumerate(one.items) if not math.isnan(value)]
    assert len(compared) == 5
    assert one.items[compared[-1]] == pytest.approx(compared[-1] / 200 / 2)
    assert one.note == "5 of 12 items compared"
    back = metric.judge(predictions[::-1], references[::-1])[CENTRE]
    assert back.items[::-1] == pytest.approx(one.items, nan_ok=True)


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ('[{"name": "dog", "box": [0, 100, 500, 1000]}]', [("dog", (0.25, 0.55), (0.5, 0.9))]),
        ('```json\n[{"name": " The  Big Dog ", "box": [0, 0, 10.5, 1]}]\n```\n', [("big dog", 0, 0)]),
        ('[{"name": "a", "box": [0, 0, 1, 1], "sure": 0.5}]', [("a", 0, 0)]),
        ("[]", []),
        (json.dumps([{"name": f"n{i}", "box": [0, 0, 1, 1]} for i in range(12)]), [(f"n{i}", 0, 0) for i in range(10)]),
        ("", None),
        ("{}", None),
        ("[" * 100_000, None),
        ('Here they are: [{"name": "dog", "box": [0, 0, 1, 1]}]', None),
        ('[{"name": "dog", "box": [0, 0, 1, 1]}', None),
        ('[{"name": "dog", "box": [0, 0, 1, 1]}, {"name": "cat"}]', None),
        ('[{"label": "dog", "bbox_2d": [0, 0, 1, 1]}]', None),
        ('[{"name": "", "box": [0, 0, 1, 1]}]', None),
        ('[{"name": 7, "box": [0, 0, 1, 1]}]', None),
        ('["dog"]', None),
        ('[{"name": "dog", "box": [0, 0, 1]}]', None),
        ('[{"name": "dog", "box": [0, 0, 1, 1001]}]', None),
        ('[{"name": "dog", "box": [-1, 0, 1, 1]}]', None),
        ('[{"name": "dog", "box": [5, 0, 5, 1]}]', None),
        ('[{"name": "dog", "box": [0, 9, 1, 1]}]', None),
        ('[{"name": "dog", "box": [0, 0, 1, NaN]}]', None),
        ('[{"name": "dog", "box": [0, 0, true, 1]}]', None),
        ('[{"name": "dog", "box": ["0", 0, 1, 1]}]', None),
    ],
)
def test_answers_are_read_strictly(answer: str, wanted: Any) -> None:
    found = things(answer)
    if wanted is None:
        assert found is None
        return
    assert found is not None
    assert [one.name for one in found] == [name for name, _, _ in wanted]
    for one, (_, centre, size) in zip(found, wanted, strict=True):
        if centre:
            assert one.centre == pytest.approx(centre)
            assert one.size == pytest.approx(size)


def test_the_docs_show_what_is_asked() -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "judges.md").read_text("utf-8")
    assert page.partition("<!-- prompt: spatial -->\n```text\n")[2].partition("\n```")[0] == PROMPT


def test_a_judge_that_sees_no_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the judge 'boxes' sees no images as it is configured.*images: true"):
        build(judge={"type": "boxes", "blind": True})
    with pytest.raises(ConfigError, match="the judge 'chat_judge' sees no images"):
        build(judge={"type": "chat_judge", "url": "http://localhost:8000/v1", "model": "m"})


def test_what_the_judge_lacks_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = {"type": "chat_judge", "url": "http://localhost:1/v1", "model": "m", "key_env": "NO_SUCH_KEY"}
    red = drawn({RED: (0, 0, 50, 50)})
    found = judged([red], [red], judge={**judge, "images": True})
    assert {score.corpus for score in found.values()} == {None}
    assert "NO_SUCH_KEY" in found[CENTRE].note
    assert not found[CENTRE].higher_is_better


def test_a_run_has_its_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Items with a red box of the right half, painted as one of the left half."""
    rows = []
    for number in range(6):
        Image.fromarray(drawn({RED: (10 + number, 0, 20, 20)}, 20, 20, number)).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": [f"a {('red', 'green', 'blue')[number % 3]} box"]})
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config = {
        "data": {
            "train": {"type": "drawn_scenes", "split": "train", "count": 20},
            "test": {"type": "jsonl", "path": str(tmp_path / "items.jsonl")},
        },
        "encoder": "named_colours",
        "bridge": "identity",
        "decoder": "nearest_caption",
        "decoders": {"image": "box_painter"},
        "metrics": [{"type": "spatial_error", "judge": "boxes"}],
    }

    def call(*arguments: str) -> int:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        return main([arguments[0], str(tmp_path / "c.yaml"), "--plugin", str(FILE), "--quiet", *arguments[1:]])

    out = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
    assert call("run", *out) == 0, capsys.readouterr().err
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    off = [(10 + number + 20) / 2 / 20 - 0.25 for number in range(6)]
    assert row[f"image_{CENTRE}"] == pytest.approx(np.mean(off) / 2, abs=1e-3)  # thousandths
    assert row[f"image_{SIZE}"] == pytest.approx(np.mean([(number / 20) / 2 for number in range(6)]), abs=1e-3)
    assert row[f"image_{FOUND}"] == 1.0
    config["decoders"] = {}
    assert call("check") == 1
    assert "judges images, and none of `decoders` makes any" in capsys.readouterr().err
