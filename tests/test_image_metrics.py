"""Metrics of images: what decoders paint is scored as captions are, in columns behind the decoder's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modbridge.errors import DataError
from modbridge.interfaces import Decoded
from modbridge.stages.score import Images

TEACHER = Path(__file__).parent / "teacher_plugin.py"
METRICS = Path(__file__).parent / "image_metrics_plugin.py"
Call = Callable[..., Any]


@pytest.fixture
def ask(call: Call, world: Path) -> Call:
    """Call a verb on the tiny world with a decoder that learns to paint, and metrics of captions and of images."""
    text = world.read_text("utf-8").replace("[bleu, cider]", "[bleu, toy_off, toy_seen]")
    world.write_text(text + "decoders:\n  image: toy_learner\n", encoding="utf-8")

    def run(verb: str, *arguments: object, sets: tuple[str, ...] = ()) -> Any:
        flags = [flag for one in sets for flag in ("--set", one)]
        return call(verb, world, "--plugin", TEACHER, "--plugin", METRICS, *arguments, *flags)

    return run


def colours(files: list[Path]) -> Any:
    return np.stack(
        [np.asarray(Image.open(file).convert("RGB"), dtype=np.float64).mean((0, 1)) / 255 for file in files]
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_a_run_scores_what_was_painted(ask: Call, tmp_path: Path) -> None:
    done = ask("run", "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    row = done.json["rows"][0]
    painted = [tmp_path / "run" / line["image"] for line in lines(tmp_path / "run" / "predictions-image.jsonl")]
    items = [tmp_path / "world" / "images" / f"{number:03d}.png" for number in range(24, 33)]
    assert row["image_colour_off"] == pytest.approx(np.abs(colours(painted) - colours(items)).mean(), abs=1e-9)
    captions = [line["text"] for line in lines(tmp_path / "run" / "predictions.jsonl")]
    named = [("red", "green", "blue")[n % 3] in text for n, text in enumerate(captions)]
    assert row["toy_seen"] == pytest.approx(np.mean(named))
    assert "colour_off" not in row
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "<th>image colour off</th>" in page
    # Captions are scored as without a metric of images; what is scored already is not scored again.
    alone = ask("run", "--out", tmp_path / "alone", "--json", sets=("metrics=[bleu]",))
    assert "0 stages done" in alone.err
    assert alone.json["rows"][0].items() <= row.items()


def test_every_decoder_that_paints_has_its_columns(ask: Call, tmp_path: Path) -> None:
    more = "decoders={image: toy_learner, other: toy_learner, loud: {type: toy_recite, loud: true}}"
    done = ask("run", "--out", tmp_path / "run", "--json", sets=(more,))
    assert done.code == 0, done.err
    row = done.json["rows"][0]
    assert row["image_colour_off"] == row["other_colour_off"]
    assert not [name for name in row if name.startswith("loud_")]


def test_compare_ranks_by_what_was_painted(ask: Call, tmp_path: Path) -> None:
    done = ask(
        "compare", "--out", tmp_path / "cmp", "--vary", "bridge.type=identity,mean_shift", "--no-cost", "--json",
        sets=("compare.rank_by=image_colour_off", "augment=identity"),
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = done.json["rows"]
    assert done.json["rank_by"] == "image_colour_off"
    for row in rows:
        assert row["image_colour_off_low"] <= row["image_colour_off"] <= row["image_colour_off_high"]
        assert row["rank"] == 1  # the two need different data, and are ranked apart
    assert "image colour off" in (tmp_path / "cmp" / "table.md").read_text("utf-8")


def test_a_teacher_inside_a_metric_is_the_one_that_the_run_trained(ask: Call, tmp_path: Path) -> None:
    teacher = "{type: toy_teacher, dim: 16, steps: 60}"
    sets = (
        f"encoder={{type: toy_taught, objective: {teacher}}}", "bridge=identity", "decoder=nearest_caption",
        f"decoders={{image: {{type: toy_painter, teacher: {teacher}}}}}",
        f"metrics=[{{type: toy_through, teacher: {teacher}}}]",
    )  # fmt: skip
    done = ask("run", "--out", tmp_path / "run", "--json", sets=sets)
    assert done.code == 0, done.err
    painted = [tmp_path / "run" / line["image"] for line in lines(tmp_path / "run" / "predictions-image.jsonl")]
    (folder,) = (tmp_path / "run" / "artefacts").glob("objective-*")
    kept = load_file(folder / "model.safetensors")
    seen = torch.tensor(colours(painted), dtype=torch.float32)
    read = seen @ kept["read.weight"].T + kept["read.bias"]
    off = (read @ kept["paint.weight"].T + kept["paint.bias"] - seen).abs().mean().item()
    assert done.json["rows"][0]["image_toy_through"] == pytest.approx(off, abs=1e-6)
    assert "fit_objective" not in ask("run", "--out", tmp_path / "run", sets=sets).err


def test_long_work_goes_on_where_it_was(ask: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOY_METRIC_FAILS", "5")
    failed = ask("run", "--out", tmp_path / "run", sets=("metrics=[bleu, toy_long]",))
    assert failed.code == 3
    assert "the metric 'toy_long'" in failed.err
    monkeypatch.delenv("TOY_METRIC_FAILS")
    done = ask("run", "--out", tmp_path / "run", "--json", sets=("metrics=[bleu, toy_long]",))
    assert done.code == 0, done.err
    words = [len(line["text"].split()) for line in lines(tmp_path / "run" / "predictions.jsonl")]
    row = done.json["rows"][0]
    assert row["toy_long"] == pytest.approx(np.mean(words))
    assert row["notes"]["toy_long"] == "5 found"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("decoders=null", "metrics.1: 'toy_off' judges images, and none of `decoders` makes any"),
        (
            "metrics=[toy_off, bleu, toy_off]",
            "metrics.2: 'toy_off' fills the column 'image_colour_off', which metrics.0",
        ),
        ("select.by=colour_off", "select.by: 'colour_off' is of 'toy_off', which judges images"),
        ("select.by=image_colour_off", "select.by: 'image_colour_off' is of 'toy_off', which judges images"),
        ("select.by=toy_off", "select.by: 'toy_off' is of 'toy_off', which judges images"),
        ("reported={source: a paper, rows: {toy: {colour_off: 1}}}", "did you mean 'image_colour_off'"),
    ],
)
def test_mistakes_are_told_beforehand(ask: Call, line: str, words: str) -> None:
    done = ask("check", sets=(line,))
    assert done.code == 1
    assert words in " ".join(done.err.split())


def test_what_is_reported_of_images_stands_beside_what_is_measured(ask: Call, tmp_path: Path) -> None:
    reported = "reported={source: a paper, rows: {toy: {image_colour_off: 0.125}}}"
    done = ask("run", "--out", tmp_path / "run", sets=(reported,))
    assert done.code == 0, done.err
    assert "0.125" in (tmp_path / "run" / "table.md").read_text("utf-8")


def test_a_rank_by_a_column_without_its_decoder_is_refused(ask: Call) -> None:
    done = ask("compare", sets=("compare.rank_by=colour_off",))
    assert done.code == 1
    assert "did you mean 'image_colour_off'" in done.err


def test_images_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    Image.new("RGB", (3, 2), (10, 20, 30)).save(tmp_path / "b.png")
    made = Images([Decoded("a", ""), Decoded("b", "")], [tmp_path / "a.png", tmp_path / "b.png"])
    assert len(made) == 2
    assert len(made[1:]) == 1
    assert made[1:][0].key == "b"
    assert made[1].image.shape == (2, 3, 3)
    assert made[1].image[0, 0].tolist() == [10, 20, 30]
    with pytest.raises(DataError, match=r"a\.png"):
        made[0]


def test_the_metrics_keep_their_promises(call: Call) -> None:
    done = call("test-plugin", METRICS, "--plugin", TEACHER)
    assert done.code == 0, done.out + done.err


def test_show_says_what_is_judged(call: Call) -> None:
    done = call("show", "metric", "toy_off", "--plugin", METRICS)
    assert done.code == 0
    assert "images" in done.out
