"""Several decoders of one pipeline: each is fitted, generates, and is asked for by its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import modbridge
from modbridge.errors import ConfigError
from modbridge.plugins.manager import Plugins

from .conftest import COLOURS, TOY

TEACHER = Path(__file__).parent / "teacher_plugin.py"
Call = Callable[..., Any]


@pytest.fixture
def both(world: Path) -> Path:
    """The tiny world's config with a decoder that learns to paint, and another that writes, in capitals."""
    more = "decoders:\n  image: toy_learner\n  loud: {type: toy_recite, steps: 30, loud: true}\n"
    world.write_text(world.read_text("utf-8") + more, encoding="utf-8")
    return world


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def near(found: Any, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(found, dtype=float).mean((0, 1)) - colour).max() < 40)


def test_a_run_with_several_decoders(call: Call, both: Path, tmp_path: Path) -> None:
    done = call("run", both, "--plugin", TEACHER, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    run = tmp_path / "run"
    texts, louds, images = (lines(run / f"predictions{name}.jsonl") for name in ("", "-loud", "-image"))
    assert [line["key"] for line in texts] == [line["key"] for line in louds] == [line["key"] for line in images]
    assert [line["text"].upper() for line in texts] == [line["text"] for line in louds]
    for number, line in enumerate(images, 24):
        assert near(Image.open(run / line["image"]), list(COLOURS.values())[number % 3])
    page = (run / "report.html").read_text("utf-8")
    assert page.count("<figcaption>toy / image</figcaption>") == 9
    assert "<th>toy / loud</th>" in page
    # The scores are those of `decoder`, as without the others.
    alone = call("run", both, "--plugin", TEACHER, "--set", "decoders=null", "--out", tmp_path / "alone", "--json")
    assert alone.json["rows"] == done.json["rows"]
    assert "0 stages done" in alone.err
    again = call("run", both, "--plugin", TEACHER, "--out", run, "--json")
    assert "0 stages done" in again.err
    # What is lost of the others is put back, and what is of none any more goes.
    (run / "predictions-loud.jsonl").unlink()
    shutil.rmtree(run / "images")
    call("run", both, "--plugin", TEACHER, "--out", run)
    assert lines(run / "predictions-loud.jsonl") == louds
    assert all((run / line["image"]).is_file() for line in images)
    fewer = call("run", both, "--plugin", TEACHER, "--set", "decoders=null", "--out", run)
    assert fewer.code == 0, fewer.err
    assert not list(run.glob("predictions-*.jsonl"))


def test_decoding_by_name(call: Call, both: Path, tmp_path: Path) -> None:
    call("run", both, "--plugin", TEACHER, "--out", tmp_path / "run")
    (tmp_path / "cache").rename(tmp_path / "gone")
    pipeline = modbridge.load(tmp_path / "run", plugins=Plugins.discover([TOY, TEACHER]))
    assert pipeline.decoders == ("text", "image", "loud")
    pictures = [Image.new("RGB", (8, 8), colour) for colour in COLOURS.values()]
    vectors = pipeline.encode(pictures)
    painted = pipeline.decode(vectors, to="image")
    assert [one.text for one in painted] == ["", "", ""]
    assert all(near(one.image, colour) for one, colour in zip(painted, COLOURS.values(), strict=True))
    assert [one.text for one in pipeline.decode(vectors, to="loud")] == [t.upper() for t in pipeline.caption(vectors)]
    with pytest.raises(ConfigError, match=r"no decoder 'sound'.*text, image, loud"):
        pipeline.decode(vectors, to="sound")


def test_images_of_files(call: Call, both: Path, tmp_path: Path) -> None:
    call("run", both, "--plugin", TEACHER, "--out", tmp_path / "run")
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (8, 8), COLOURS["red"]).save(tmp_path / folder / "red.png")
    asked = ["caption", "--plugin", TEACHER, "--run", tmp_path / "run", "a/red.png", "b/red.png"]
    done = call(*asked, "--to", "image", "--out", tmp_path / "painted")
    assert done.code == 0, done.err
    files = [Path(line) for line in done.out.splitlines()]
    assert [file.name for file in files] == ["red-0.png", "red-1.png"]
    assert all(near(Image.open(file), COLOURS["red"]) for file in files)
    before = (tmp_path / "a" / "red.png").read_bytes()
    refused = call(
        "caption", "--plugin", TEACHER, "--run", tmp_path / "run", "a/red.png", "--to", "image", "--out", "a"
    )
    assert refused.code == 1
    assert "would be written over" in refused.err
    assert (tmp_path / "a" / "red.png").read_bytes() == before
    told = call(*asked, "--to", "image", "--out", tmp_path / "painted", "--json").json["rows"]
    assert [row["image"] for row in told] == done.out.splitlines()
    assert "RED" in call(*asked, "--to", "loud").out
    for wrong, words in ((["--to", "image"], "say where they go"), (["--out", "x"], "no images"), (["--to", "x"], "x")):
        refused = call(*asked, *wrong)
        assert refused.code == 1
        assert words in refused.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("decoders={text: toy_learner}", "decoders.text: is the name of `decoder` itself"),
        ("decoder=toy_learner", "decoders: {image: {type: toy_learner}}"),
        ("decoders={image: no_such}", "decoders.image.type: no such decoder: 'no_such'"),
        ("decoders={Image: toy_learner}", "decoders.Image"),
        ("decoders=toy_learner", "expected a block of NAME: decoder"),
        ("decoders={image: {type: toy_learner, sise: 3}}", "decoders.image.sise: no such field"),
    ],
)
def test_wrong_decoders_are_told(call: Call, both: Path, line: str, words: str) -> None:
    done = call("check", both, "--plugin", TEACHER, "--set", line)
    assert done.code == 1
    assert words in done.err


def test_a_decoder_that_does_not_fit_is_told_by_its_name(call: Call, both: Path) -> None:
    sets = ["augment=identity", "bridge=c3", "evaluate.input=text"]  # it learns from centred vectors, and gets raw ones
    done = call("check", both, "--plugin", TEACHER, *(flag for one in sets for flag in ("--set", one)))
    assert done.code == 1
    assert "decoders.image: 'toy_learner' is trained on centred" in done.err
    assert "decoder:" not in done.err


def test_misfits_of_all_decoders_are_told(call: Call, both: Path) -> None:
    sets = [
        "augment=identity",
        "bridge=c3",
        "evaluate.input=source",
    ]  # both learn from raw vectors, and get centred ones
    done = call("check", both, "--plugin", TEACHER, *(flag for one in sets for flag in ("--set", one)))
    assert done.code == 1
    assert "decoder: " in done.err
    assert "decoders.loud: " in done.err


def test_what_is_no_image_is_told(call: Call, both: Path) -> None:
    done = call("run", both, "--plugin", TEACHER, "--set", "decoders.image.broken=true")
    assert done.code == 3
    assert "expected uint8 (H, W, 3)" in done.err


def test_gap_and_compare_go_by_the_one_that_is_scored(call: Call, both: Path, tmp_path: Path) -> None:
    gap = call("gap", both, "--plugin", TEACHER, "--no-report", "--json", "--set", "gap.bridges=[identity, mean_shift]")
    assert gap.code == 0, gap.err
    compared = call(
        "compare", both, "--plugin", TEACHER, "--out", tmp_path / "cmp", "--vary", "bridge.type=identity,mean_shift",
        "--no-cost", "--json",
    )  # fmt: skip
    assert compared.code == 0, compared.err
    alone = call(
        "compare", both, "--plugin", TEACHER, "--out", tmp_path / "cmp2", "--vary", "bridge.type=identity,mean_shift",
        "--no-cost", "--json", "--set", "decoders=null",
    )  # fmt: skip
    assert compared.json["rows"] == alone.json["rows"]
