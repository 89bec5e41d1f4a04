"""Bad input: a clear message, the right exit code, no traceback (asserted by `call`), nothing lost."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import save_file

from .conftest import draw_world

Call = Callable[..., Any]


def test_a_missing_image(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "images" / "025.png").unlink()
    result = call("run", world)
    assert result.code == 1
    assert "025.png" in result.err


def test_one_unreadable_image_stops_the_run_or_is_skipped_and_counted(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "images" / "025.png").write_bytes(b"not an image")
    stopped = call("run", world, "--out", tmp_path / "run")
    assert stopped.code == 1
    assert "'025'" in stopped.err
    assert "--on-error skip" in stopped.err
    skipped = call("run", world, "--out", tmp_path / "run", "--json", "--on-error", "skip")
    assert skipped.code == 0, skipped.err
    assert skipped.json["rows"][0]["n"] == 8
    assert "1 unreadable image items left out" in skipped.err
    again = call("run", world, "--out", tmp_path / "run")
    assert again.code == 1
    assert "'025'" in again.err


def test_only_unreadable_images(call: Call, world: Path, tmp_path: Path) -> None:
    for path in (tmp_path / "world" / "images").iterdir():
        path.write_bytes(b"")
    result = call("run", world, "--on-error", "skip")
    assert result.code == 1
    assert "none of the" in result.err


def test_an_empty_source(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "world24.jsonl").write_text("")
    result = call("run", world)
    assert result.code == 1
    assert "empty" in result.err


def test_two_items_with_one_key(call: Call, world: Path, tmp_path: Path) -> None:
    path = tmp_path / "world" / "world24.jsonl"
    line = path.read_text().splitlines()[0]
    path.write_text(f"{line}\n{line}\n")
    result = call("run", world)
    assert result.code == 1
    assert "key '024" in result.err


def test_ten_mistakes_are_all_told(call: Call, world: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        """\
nmae: x
seed: many
device: gpu
data:
  train: {type: jsonl, pathh: here}
  test: {type: csv}
encoder: {type: toy_colours, batch_size: lots}
bridge: {type: mean_shfit}
augment_draws: 0
decoder: {type: toy_recite, loud: 7}
metrics: [blue]
evaluate: {input: audio}
"""
    )
    result = call("check", bad)
    assert result.code == 1
    found = (
        "nmae", "seed", "device", "data.train.pathh", "data.train.path", "data.test.type", "encoder.batch_size",
        "bridge.type", "augment_draws", "decoder.loud", "metrics.0", "evaluate.input",
    )  # fmt: skip
    missing = [path for path in found if f"{path}" not in result.err]
    assert not missing, result.err
    assert "bad.yaml:5" in result.err
    assert "did you mean 'mean_shift'" in result.err
    assert "did you mean 'bleu'" in result.err


def test_mistakes_of_reading_and_of_meaning_are_told_together(call: Call, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "seed: 1\nseed: 2\ndata: {train: {type: drawn_scenes, count: x}}\nencoder: {type: toy_colour}\n"
        'bridge: {type: mean_shift, frame: "${no.where}"}\n'
    )
    result = call("check", bad)
    assert result.code == 1
    for part in ("seed", "bad.yaml:2", "no.where", "data.train.count", "did you mean 'toy_colours'"):
        assert part in result.err
    assert result.err.count("bridge.frame") == 1


def test_a_truncated_safetensors_file(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--out", tmp_path / "run")
    (weights,) = (tmp_path / "run" / "artefacts").glob("decoder-*/model.safetensors")
    data = weights.read_bytes()
    weights.unlink()  # it may be a hard link into the cache
    weights.write_bytes(data[: len(data) // 2])
    result = call("caption", "--run", tmp_path / "run", tmp_path / "world" / "images" / "025.png")
    assert result.code == 1
    assert "cut short" in result.err
    assert str(weights) in result.err


def test_a_truncated_file_of_vectors(call: Call, world: Path, tmp_path: Path) -> None:
    import torch

    file = tmp_path / "v.safetensors"
    save_file({"image": torch.randn(5, 4), "text": torch.randn(5, 4)}, file)
    file.write_bytes(file.read_bytes()[:-40])
    vectors = "{image: {array: image}, text: {array: text}}"
    sets = f"encoder={{type: precomputed, file: {file}, space: s, vectors: {vectors}}}"
    result = call("gap", world, "--set", sets)
    assert result.code == 1
    assert "v.safetensors" in result.err


@pytest.mark.parametrize("name", ["run.json", "artefact"])
def test_an_artefact_of_a_newer_schema(call: Call, world: Path, tmp_path: Path, name: str) -> None:
    call("run", world, "--out", tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    if name == "artefact":
        (path,) = (tmp_path / "run" / "artefacts").glob("decoder-*/modbridge.json")
    content = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**content, "schema": 99}))
    result = call("caption", "--run", tmp_path / "run", tmp_path / "world" / "images" / "025.png")
    assert result.code == 1
    assert "newer" in result.err
    assert "upgrade" in result.err


def test_a_component_that_does_not_exist(call: Call, world: Path) -> None:
    result = call("run", world, "--set", "encoder.type=toy_colour")
    assert result.code == 1
    assert "did you mean 'toy_colours'" in result.err
    assert call("show", "bridge", "mean_shfit").code == 1
    assert call("show", "brige", "mean_shift").code == 1


def test_a_disabled_plugin_is_named_as_the_missing_one(
    call: Call, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBRIDGE_DISABLE", "metrics")
    result = call("check", world)
    assert result.code == 1
    assert "pip install modbridge-metrics" in result.err


def test_a_strangers_bug_is_named(call: Call, world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = call("run", world, "--set", "encoder.fail_on=green")
    assert result.code == 3
    assert "the encoder 'toy_colours' of plugin 'toy_plugin' failed" in result.err
    monkeypatch.setenv("TOY_DECODER_FAILS", "1")
    result = call("run", world)
    assert result.code == 3
    assert "the decoder 'toy_recite'" in result.err


def test_an_encoder_that_gives_everything_one_vector(call: Call, world: Path) -> None:
    result = call("run", world, "--set", "encoder.constant=true")
    assert result.code == 3
    assert "the same vector" in result.err


def test_frames_that_do_not_meet_are_refused_before_anything_is_embedded(
    call: Call, world: Path, tmp_path: Path
) -> None:
    result = call("run", world, "--set", "augment={type: c3}")
    assert result.code == 1
    assert "centred" in result.err
    assert "decoder" in result.err
    assert f"{world}:" in result.err
    assert not (tmp_path / "cache").exists()


def test_no_disk_left(call: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("modbridge.store.shards.save_file", full)
    result = call("run", world)
    assert result.code == 4
    assert "disk" in result.err.lower() or "space" in result.err
    assert not list((tmp_path / "cache").rglob("modbridge.json"))
    monkeypatch.undo()
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))
    assert call("run", world, "--out", tmp_path / "run").code == 0


def test_a_cache_that_cannot_be_written(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = call("run", world, "--cache", tmp_path / "file" / "cache")
    assert result.code == 4
    assert "--cache" in result.err


def test_a_run_folder_that_is_something_else_is_left_alone(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    result = call("run", world, "--out", tmp_path / "mine")
    assert result.code == 1
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_run_that_does_not_exist(call: Call, world: Path, tmp_path: Path) -> None:
    assert call("caption", "--run", tmp_path / "nowhere", "x.png").code == 1
    call("run", world, "--out", tmp_path / "run")
    missing = call("caption", "--run", tmp_path / "run", tmp_path / "no.png")
    assert missing.code == 1
    assert "no.png" in missing.err
    cell = call("caption", "--run", tmp_path / "run", "--cell", "best", tmp_path / "no.png")
    assert cell.code == 1
    assert "no such cell" in cell.err


def test_a_gpu_that_is_not_there_is_no_cpu(call: Call, world: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("needs a machine without a GPU")
    result = call("run", world, "--device", "cuda")
    assert result.code == 4
    assert "cuda" in result.err


def test_unknown_verbs_and_options(call: Call, world: Path) -> None:
    assert call("runn", world).code == 2
    assert call("run", world, "--ouut", "x").code == 2
    assert call("run").code == 2


def test_wrong_values_are_the_users_mistake(call: Call, world: Path, tmp_path: Path) -> None:
    assert call("run", tmp_path / "none.yaml").code == 1
    assert call("run", world, "--set", "nonsense").code == 1
    assert call("run", world, "--vary", "bridge.type").code == 1
    assert call("run", world, "--profile", "smok").code == 1
    assert call("run", world, "--on-error", "ignore").code == 1


def test_a_path_to_be_given(call: Call, tmp_path: Path) -> None:
    draw_world(tmp_path / "world", 4)
    config = tmp_path / "open.yaml"
    config.write_text(
        "paths: {data: }\ndata: {train: {type: jsonl, path: '${paths.data}/world0.jsonl'}}\n"
        "encoder: toy_colours\nbridge: identity\ngap: {fit: 2}\n"
    )
    checked = call("check", config)
    assert checked.code == 0, checked.err
    assert "to be given: paths.data" in checked.out
    assert call("check", config, "--json").json["to_be_given"] == ["paths.data"]
    for verb in ("run", "gap"):
        result = call(verb, config)
        assert result.code == 1
        assert "--set paths.data=DIR" in result.err
    profile = f"profiles: {{toy: {{data: {{train: {{path: '{tmp_path}/world/world0.jsonl'}}}}}}}}\n"
    config.write_text(config.read_text() + profile)
    assert call("check", config, "--json").json["to_be_given"] == ["paths.data"]
    toy = call("check", config, "--profile", "toy", "--json")
    assert toy.json["to_be_given"] == [], "what the profile's data do without need not be given"


def test_captions_need_a_decoder(call: Call, world: Path) -> None:
    result = call("run", world, "--set", "decoder=null")
    assert result.code == 1
    assert "decoder" in result.err


def test_a_truncated_image_is_named(call: Call, world: Path, tmp_path: Path) -> None:
    call("run", world, "--out", tmp_path / "run")
    whole = tmp_path / "noise.png"
    Image.effect_noise((64, 64), 50).save(whole)
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole.read_bytes()[:500])
    result = call("caption", "--run", tmp_path / "run", cut)
    assert result.code == 1
    assert "cut.png" in result.err
