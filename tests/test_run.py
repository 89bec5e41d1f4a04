"""A run from config to report: stages, cache, sharing, the run folder, and using what it made."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import modbridge
from modbridge.plugins.manager import Plugins

from .conftest import TOY

Call = Callable[..., Any]


def stages(cache: Path) -> dict[str, set[str]]:
    """The finished results of a cache, by stage."""
    return {
        stage.name: {path.name for path in stage.iterdir()}
        for stage in cache.iterdir()
        if stage.name not in ("work", "locks")
    }


def test_a_run_captions_held_out_images(call: Call, world: Path, tmp_path: Path) -> None:
    result = call("run", world, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert row["bridge"] == "mean_shift"
    assert row["augment"] == "none"
    assert row["n"] == 9
    assert row["cider"] > 1
    assert row["paired_cosine"] > 0.9
    assert row["tokenizer"]
    run = tmp_path / "run"
    names = "config.yaml resolved.json versions.json table.json table.md metrics.jsonl predictions.jsonl"
    for name in [*names.split(), "report.html", "run.json"]:
        assert (run / name).stat().st_size > 0, name
    assert (run / "config.yaml").read_text() == world.read_text()
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert [line["key"] for line in lines] == [f"{i:03d}" for i in range(24, 33)]
    assert all(
        any(c in line["text"] and c in line["references"][0] for c in ("red", "green", "blue")) for line in lines
    )
    assert not list(run.rglob("*.pt"))
    assert not list(run.rglob("*.pkl"))


def test_a_second_run_does_no_work(call: Call, world: Path, tmp_path: Path) -> None:
    first = call("run", world, "--out", tmp_path / "run", "--json")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    second = call("run", world, "--out", tmp_path / "run", "--json")
    assert second.json == first.json
    assert "0 stages done" in second.err
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    ("change", "again"),
    [
        ("decoder.steps=31", {"fit_decoder", "generate", "score"}),
        ("decoder.loud=true", {"generate", "score"}),
        ("bridge.frame=centred", {"cross", "measure", "fit_decoder", "generate", "score"}),
        ("metrics=[bleu]", set()),  # each metric's scores are kept by themselves
        ("metrics=[bleu,rouge_l]", {"score"}),
        ("encoder.batch_size=3", set()),
        ("device=cpu", set()),
    ],
)
def test_only_what_a_change_reaches_is_done_again(
    call: Call, world: Path, tmp_path: Path, change: str, again: set[str]
) -> None:
    call("run", world, "--out", tmp_path / "run")
    before = stages(tmp_path / "cache")
    result = call("run", world, "--out", tmp_path / "run", "--set", change)
    assert result.code == 0, result.err
    after = stages(tmp_path / "cache")
    assert {stage for stage in after if after[stage] != before.get(stage, set())} == again


def test_a_changed_picture_is_embedded_again(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--until", "embed")
    Image.new("RGB", (9, 9), (0, 0, 0)).save(tmp_path / "world" / "images" / "025.png")
    before = stages(tmp_path / "cache")["embed"]
    call("run", world, "--until", "embed")
    assert len(stages(tmp_path / "cache")["embed"] - before) >= 1


def test_a_matrix_shares_what_is_common(call: Call, world: Path, tmp_path: Path) -> None:
    result = call(
        "run", world, "--out", tmp_path / "run", "--json", "--vary", "bridge.type=identity,mean_shift",
        "--vary", "decoder.loud=false,true",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert len(result.json["rows"]) == 4
    done = {stage: len(keys) for stage, keys in stages(tmp_path / "cache").items()}
    assert done["embed"] == 4  # two sides of two sources
    assert done["fit_bridge"] == 2
    assert done["generate"] == 4


def test_seeds_give_means_and_deviations(call: Call, world: Path, tmp_path: Path) -> None:
    result = call("run", world, "--out", tmp_path / "run", "--json", "--vary", "seed=0,1")
    (row,) = result.json["rows"]
    runs = [run["cider"] for run in result.json["runs"]]
    assert row["cider"] == pytest.approx(np.mean(runs))
    assert row["cider_std"] == pytest.approx(np.std(runs, ddof=1))


def test_until_stops_where_it_says(call: Call, world: Path, tmp_path: Path) -> None:
    assert call("run", world, "--until", "fit_bridge").code == 0
    assert "fit_decoder" not in stages(tmp_path / "cache")
    wrong = call("run", world, "--until", "fit_bridges")
    assert wrong.code == 1
    assert "no such stage" in wrong.err


def test_the_oracle_is_judged_by_the_other_references(call: Call, world: Path, tmp_path: Path) -> None:
    result = call(
        "run", world, "--out", tmp_path / "run", "--json", "--set", "evaluate.input=text", "--set",
        "evaluate.references=others", "--set", "bridge=identity",
    )  # fmt: skip
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert row["bridge"] == "oracle"
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert all(len(line["references"]) == 1 and line["references"][0].startswith("it is all") for line in lines)


def test_caption_and_load_use_a_run_alone(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--out", tmp_path / "run")
    red = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (230, 20, 20)).save(red)
    (tmp_path / "cache").rename(tmp_path / "gone")  # the run folder stands alone
    result = call("caption", "--run", tmp_path / "run", red, tmp_path / "world" / "images" / "025.png")
    assert result.code == 0, result.err
    assert len(result.out.splitlines()) == 2
    assert "red" in result.out.splitlines()[0]
    explained = call("caption", "--run", tmp_path / "run", "--explain", "--json", red).json["rows"][0]["stations"]
    assert explained[-1]["to_mean"] < explained[0]["to_mean"]
    assert explained[-1]["nearest"] > explained[0]["nearest"]

    pipeline = modbridge.load(tmp_path / "run", plugins=Plugins.discover([TOY]))
    image = Image.open(red)
    assert pipeline.caption([str(red), image, np.asarray(image)]) == [result.out.splitlines()[0]] * 3
    assert pipeline.caption([]) == []


def test_gap_prints_a_row_a_bridge(call: Call, world: Path) -> None:
    result = call("gap", world, "--no-report", "--json", "--set", "gap.bridges=[identity, mean_shift]")
    assert result.code == 0, result.err
    rows = {row["bridge"]: row for row in result.json["rows"]}
    assert rows["mean_shift"]["gap_norm"] < rows["identity"]["gap_norm"]
    assert result.json["all_pairs"]["n"] == 9
    split = call(
        "gap",
        world,
        "--no-report",
        "--json",
        "--set",
        "gap.fit=18",
        "--set",
        "gap.seeds=[0,1,2]",
        "--set",
        "data.test=null",
    )
    assert split.json["rows"][0]["splits"] == [0, 1, 2]
    assert "gap_norm_std" in split.json["rows"][0]


def test_variants_keep_what_is_theirs_and_take_the_rest_from_set(call: Call, world: Path) -> None:
    text = world.read_text() + "variants: {plain: {bridge: identity, augment: identity}, noisy: {}}\n"
    world.write_text(text.replace("bridge: mean_shift", "bridge: {type: c3, frame: text}"))
    result = call("check", world, "--json", "--set", "bridge.noise_std=0.2", "--vary", "seed=1,2")
    assert result.code == 0, result.err
    cells = [(row["cell"], row["bridge"], row["augment"]) for row in result.json["rows"]]
    assert cells == [
        ("plain/seed=1", "identity", "none"),
        ("plain/seed=2", "identity", "none"),
        ("noisy/seed=1", "c3", "noise"),
        ("noisy/seed=2", "c3", "noise"),
    ]
