"""Cases in which results could be silently wrong, or be lost: each was found once and stays found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.errors import DataError
from modbridge.interfaces import Decoded
from modbridge.plugins.manager import Plugins
from modbridge.stages import generate
from modbridge.stages.generate import generated
from modbridge.store.cache import Cache
from modbridge.talk import Talk

from .conftest import TOY

Call = Callable[..., Any]


def test_clearing_touches_only_what_modbridge_keeps(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--until", "embed")
    photos = tmp_path / "cache" / "photos"
    photos.mkdir()
    (photos / "cat.jpg").write_text("precious")
    assert call("cache", "--clear", "all").code == 0
    assert (photos / "cat.jpg").read_text() == "precious"
    assert not (tmp_path / "cache" / "embed").exists()
    assert call("cache", "--clear", "photos").code == 1


def test_captions_interrupted_at_one_batch_size_go_on_at_another(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugins = Plugins.discover([TOY])
    cell = load_experiment(world, plugins.registry).first
    session = Session(plugins, Cache(tmp_path / "cache"), Talk(quiet=True))
    decode = generate.fitted_decoder(session, cell).decoder.decode
    sizes = iter([4, 3])
    monkeypatch.setattr(generate, "CHUNK", 1)

    def attempt(stop_at: int | None) -> list[Decoded]:
        fitted = generate.fitted_decoder(session, cell)
        monkeypatch.setattr(type(fitted.decoder), "batch_size", next(sizes))
        calls = 0

        def limited(*args: Any, **kwargs: Any) -> list[Decoded]:
            nonlocal calls
            calls += 1
            if stop_at is not None and calls > stop_at:
                raise DataError("interrupted")
            return decode(*args, **kwargs)

        monkeypatch.setattr(fitted.decoder, "decode", limited)
        return generated(session, cell).predictions

    with pytest.raises(DataError, match="interrupted"):
        attempt(1)
    assert [decoded.key for decoded in attempt(None)] == [f"{i:03d}" for i in range(24, 33)]


def test_two_bridges_of_one_type_are_two_rows(call: Call, world: Path) -> None:
    bridges = "gap.bridges=[mean_shift, {type: mean_shift, frame: centred}]"
    rows = call("gap", world, "--no-report", "--json", "--set", bridges).json["rows"]
    assert [row["fields"] for row in rows] == ["frame=text", "frame=centred"]
    assert not any(name.endswith("_std") for row in rows for name in row)


def test_gap_closed_finds_its_floor_at_the_same_point_of_other_axes(call: Call, world: Path, tmp_path: Path) -> None:
    world.write_text(
        world.read_text()
        + "variants:\n  identity/none: {bridge: identity, augment: identity}\n  mean_shift/none: {augment: identity}\n"
        "  oracle/none: {bridge: identity, augment: identity, evaluate: {input: text}}\n"
    )
    result = call("run", world, "--out", tmp_path / "run", "--json", "--vary", "decoder.loud=false,true")
    rows = result.json["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["decoder.loud"] in (True, False)
        if row["bridge"] in ("identity", "oracle") and "gap_closed" in row:
            assert row["gap_closed"] == pytest.approx(float(row["bridge"] == "oracle"))


def test_seeds_stay_numbers_and_axes_that_look_like_them_stay_apart(call: Call, world: Path, tmp_path: Path) -> None:
    vary = ("--vary", "seed=1,2", "--vary", "decoder.steps=1,2")
    result = call("run", world, "--out", tmp_path / "run", "--json", *vary)
    assert len(result.json["rows"]) == 2
    assert all(row["seeds"] == [1, 2] for row in result.json["rows"])
    assert {run["seed"] for run in result.json["runs"]} == {1, 2}


def test_an_oracle_stays_an_oracle_when_bridges_are_varied(call: Call, world: Path, tmp_path: Path) -> None:
    sets = ("--set", "evaluate.input=text", "--vary", "bridge=identity,mean_shift")
    result = call("run", world, "--out", tmp_path / "run", "--json", *sets)
    assert {row["bridge"] for row in result.json["rows"]} == {"oracle"}


def test_captions_are_never_judged_on_the_training_items(call: Call, world: Path) -> None:
    result = call("run", world, "--set", "data.test=null")
    assert result.code == 1
    assert "data.test" in result.err


def test_splits_of_the_training_source_ignore_a_test_source(call: Call, world: Path) -> None:
    splits = ("--set", "gap.fit=18", "--set", "gap.seeds=[0,1]")
    with_test = call("gap", world, "--no-report", "--json", *splits).json
    without = call("gap", world, "--no-report", "--json", *splits, "--set", "data.test=null").json
    assert with_test["rows"] == without["rows"]


def test_each_split_measures_its_own_texts(call: Call, world: Path) -> None:
    sets = (
        "--set",
        "evaluate.input=text",
        "--set",
        "gap.fit=12",
        "--set",
        "gap.seeds=[0,1]",
        "--set",
        "data.test=null",
    )
    first, second = call("gap", world, "--no-report", "--json", *sets).json["runs"]
    assert first["unpaired_cosine"] != second["unpaired_cosine"]


def test_training_logs_are_there_even_if_everything_is_cached(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--out", tmp_path / "one")
    call("run", world, "--out", tmp_path / "two")
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("one", "two")]
    assert logs[0] == logs[1]
    assert '"fit": "recite"' in logs[0]


def test_an_empty_note_beside_a_shard_means_it_is_made_again(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--until", "embed")
    folder = min((tmp_path / "cache" / "embed").iterdir())
    work = tmp_path / "cache" / "work" / f"embed-{folder.name}"
    work.mkdir(parents=True)
    (work / "shard-00000.safetensors.json").write_text("")
    folder.rename(tmp_path / "gone")
    assert call("run", world, "--until", "embed").code == 0


@pytest.mark.parametrize("content", ["[]", "{", '{"schema": 1}', '{"schema": 1, "cells": {}, "main": "x"}'])
def test_a_damaged_run_is_told_and_written_anew(call: Call, world: Path, tmp_path: Path, content: str) -> None:
    call("run", world, "--out", tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(content)
    picture = tmp_path / "world" / "images" / "025.png"
    broken = call("caption", "--run", tmp_path / "run", picture)
    assert broken.code == 1
    assert "damaged" in broken.err
    assert call("run", world, "--out", tmp_path / "run").code == 0
    assert call("caption", "--run", tmp_path / "run", picture).code == 0


def test_a_lost_artefact_of_a_run_is_put_back(call: Call, world: Path, tmp_path: Path) -> None:
    import shutil

    call("run", world, "--out", tmp_path / "run")
    (decoder,) = (tmp_path / "run" / "artefacts").glob("decoder-*")
    shutil.rmtree(decoder)
    assert call("run", world, "--out", tmp_path / "run").code == 0
    assert decoder.is_dir()
    (tmp_path / "run" / "resolved.json").write_text("{")
    assert call("caption", "--run", tmp_path / "run", "x.png").code == 1


def test_a_foreign_folder_is_refused_before_any_work(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    assert call("run", world, "--out", tmp_path / "mine").code == 1
    assert not (tmp_path / "cache").exists()


def test_an_item_that_can_be_read_again_comes_back(call: Call, world: Path, tmp_path: Path) -> None:
    import os

    image = tmp_path / "world" / "images" / "025.png"
    whole, times = image.read_bytes(), (image.stat().st_atime_ns, image.stat().st_mtime_ns)
    image.write_bytes(bytes(len(whole)))
    os.utime(image, ns=times)
    skipped = call("run", world, "--out", tmp_path / "run", "--json", "--on-error", "skip")
    assert skipped.json["rows"][0]["n"] == 8
    image.write_bytes(whole)
    os.utime(image, ns=times)
    assert call("run", world, "--out", tmp_path / "run", "--json").json["rows"][0]["n"] == 9


def test_on_error_skip_with_nothing_to_skip_redoes_nothing(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--out", tmp_path / "run")
    assert "0 stages done" in call("run", world, "--out", tmp_path / "run", "--on-error", "skip").err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--device", "foo"),
        ("--set", "gap.seeds=[-1]"),
        ("--set", "gap.seeds=[0,0]"),
        ("--set", f"seed={10**22}"),
        ("--set", "metrics=cider"),
        ("--set", "name=.."),
    ],
)
def test_values_that_cannot_be_are_the_users_mistake(call: Call, world: Path, arguments: tuple[str, str]) -> None:
    assert call("run", world, *arguments).code == 1


def test_a_config_may_have_any_file_name(call: Call, world: Path) -> None:
    spaced = world.with_name("my config (2).yaml")
    spaced.write_text(world.read_text().replace("name: toy\n", ""))
    assert call("check", spaced).code == 0


def test_two_items_with_one_vector_are_no_broken_encoder(call: Call, world: Path, tmp_path: Path) -> None:
    result = call("run", world, "--set", "data.test.limit=1", "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    assert "gap_norm" not in result.json["rows"][0]


def test_paths_may_be_given_by_variants(call: Call, world: Path, tmp_path: Path) -> None:
    text = world.read_text().replace(f"data: {tmp_path / 'world'}", "data:")
    world.write_text(text + f"variants: {{here: {{paths: {{data: {tmp_path / 'world'}}}}}}}\n")
    assert call("check", world, "--json").json["to_be_given"] == []


def test_show_does_not_hide_a_wrong_value(call: Call) -> None:
    assert call("show", "bridge", "c3", "--set", "noise_std=abc").code == 1


def test_results_are_json_even_where_a_metric_gives_no_number(call: Call, world: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "nan_metric.py"
    plugin.write_text(
        "from modbridge.config.kinds import MetricConfig\nfrom modbridge.interfaces import Metric, Score\n"
        "from modbridge.plugins import ComponentSpec, hookimpl\n"
        "class Lost(Metric):\n    def score(self, predictions, references):\n"
        "        return {'lost': Score(float('nan'))}\n"
        "@hookimpl\ndef modbridge_components(register):\n"
        "    register(ComponentSpec(kind='metric', name='lost', config='modbridge.config.kinds:MetricConfig',\n"
        "        impl='modbridge_file_nan_metric:Lost', summary='s'))\n"
    )
    sets = ("--plugin", plugin, "--set", "metrics=[lost]")
    result = call("run", world, "--out", tmp_path / "run", "--json", *sets)
    assert result.code == 0, result.err
    assert result.json["rows"][0]["lost"] is None
    assert "lost" in result.json["rows"][0]["notes"]
    json.loads((tmp_path / "run" / "table.json").read_text())
