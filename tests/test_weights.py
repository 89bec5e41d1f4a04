"""`weights: DIR`: bridges and decoders taken from an earlier run instead of being fitted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import modbridge
from modbridge.plugins.manager import Plugins

from .conftest import TOY

Call = Callable[..., Any]


@pytest.fixture
def earlier(call: Call, world: Path, tmp_path: Path) -> dict[str, Path]:
    """The artefacts of a run, moved away from its cache and folder."""
    assert call("run", world, "--out", tmp_path / "earlier").code == 0
    (placed,) = json.loads((tmp_path / "earlier" / "run.json").read_text())["cells"].values()
    found = {}
    for kind in ("bridge", "decoder"):
        found[kind] = tmp_path / f"kept-{kind}"
        shutil.copytree(tmp_path / "earlier" / placed[kind], found[kind])
    shutil.rmtree(tmp_path / "earlier")
    shutil.rmtree(tmp_path / "cache")
    return found


def test_parts_are_taken_and_the_run_stands_without_them(
    call: Call, world: Path, tmp_path: Path, earlier: dict[str, Path]
) -> None:
    sets = [f"--set={kind}.weights={folder}" for kind, folder in earlier.items()]
    fresh = call("run", world, "--out", tmp_path / "fresh", "--json")
    taken = call("run", world, *sets, "--out", tmp_path / "taken", "--json")
    assert taken.code == 0, taken.err
    assert taken.json["rows"] == fresh.json["rows"]
    lines = (tmp_path / "taken" / "metrics.jsonl").read_text()
    assert "recite" not in lines  # nothing was trained
    assert "recite" in (tmp_path / "fresh" / "metrics.jsonl").read_text()
    for folder in earlier.values():
        shutil.rmtree(folder)
    plugins = Plugins.discover([str(TOY)])
    image = tmp_path / "world" / "images" / "025.png"
    captions = modbridge.load(tmp_path / "taken", plugins=plugins).caption([image])
    assert captions == modbridge.load(tmp_path / "fresh", plugins=plugins).caption([image])


def test_what_it_was_fitted_with_need_not_be_repeated_but_must_agree(
    call: Call, world: Path, tmp_path: Path, earlier: dict[str, Path]
) -> None:
    sets = ["--set", f"decoder={{type: toy_recite, weights: {earlier['decoder']}}}"]
    assert call("check", world, *sets).code == 0
    assert call("check", world, *sets, "--set", "decoder.loud=true").code == 0  # changes decoding, not the fit
    wrong = call("check", world, *sets, "--set", "decoder.steps=31")
    assert wrong.code == 1
    assert "decoder.steps: is 31, but" in wrong.err
    assert "was fitted with 30" in wrong.err


def test_training_fields_stay_those_of_the_weights(call: Call, world: Path, tmp_path: Path) -> None:
    """A config that says how to train takes up weights by one word, however long those were trained."""
    bridge = "bridge={type: diffusion_bridge, frame: text, start_step: 20, augment_step: 10, prior: {type: ddpm, "
    bridge += "timesteps: 50, denoiser: {type: residual_mlp, width: 16}, steps: %d}}"
    first = call("run", world, "--set", bridge % 3, "--out", tmp_path / "first")
    assert first.code == 0, first.err
    (placed,) = json.loads((tmp_path / "first" / "run.json").read_text())["cells"].values()
    prior = tmp_path / "first" / placed["bridge"] / "prior"
    weights = f"bridge.prior.weights={prior}"
    taken = call("run", world, "--set", bridge % 99, "--set", weights, "--out", tmp_path / "second", "--json")
    assert taken.code == 0, taken.err
    (placed_now,) = json.loads((tmp_path / "second" / "run.json").read_text())["cells"].values()
    manifest = json.loads((tmp_path / "second" / placed_now["bridge"] / "prior" / "modbridge.json").read_text())
    assert manifest["config"]["steps"] == 3
    assert "weights" not in manifest["config"]
    wrong = call("check", world, "--set", bridge % 3, "--set", weights, "--set", "bridge.prior.timesteps=60")
    assert wrong.code == 1
    assert "timesteps: is 60, but" in wrong.err


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "there is no artefact in"),
        (lambda folder: (folder / "modbridge.json").write_text("{"), "is damaged"),
        (lambda folder: (folder / "modbridge.json").write_text("[]"), "is damaged"),
    ],
)
def test_bad_folders(call: Call, world: Path, earlier: dict[str, Path], spoil: Any, message: str) -> None:
    spoil(earlier["bridge"])
    result = call("check", world, "--set", f"bridge.weights={earlier['bridge']}")
    assert result.code == 1
    assert "bridge.weights" in result.err
    assert message in result.err


def test_weights_of_another_component_or_space_are_refused(call: Call, world: Path, earlier: dict[str, Path]) -> None:
    other = call("check", world, "--set", f"bridge={{type: c3, weights: {earlier['bridge']}}}")
    assert other.code == 1
    assert "holds the bridge 'mean_shift', expected a bridge 'c3'" in other.err
    manifest = earlier["bridge"] / "modbridge.json"
    content = json.loads(manifest.read_text())
    content["ports"]["text"]["space"]["id"] = "toy/other"
    manifest.write_text(json.dumps(content))
    foreign = call("check", world, "--set", f"bridge.weights={earlier['bridge']}")
    assert foreign.code == 1
    assert "were fitted on other text vectors: another space" in foreign.err


def test_altered_weights_are_refused_when_they_are_taken(call: Call, world: Path, earlier: dict[str, Path]) -> None:
    (earlier["decoder"] / "captions.txt").write_text("all the same")
    result = call("run", world, "--set", f"decoder.weights={earlier['decoder']}")
    assert result.code == 1
    assert "is not the file that was stored" in result.err


def test_other_weights_give_another_key(call: Call, world: Path, tmp_path: Path, earlier: dict[str, Path]) -> None:
    sets = ["--set", f"decoder.weights={earlier['decoder']}"]
    assert call("run", world, *sets, "--out", tmp_path / "a").code == 0
    (before,) = (tmp_path / "cache" / "fit_decoder").iterdir()
    moved = tmp_path / "moved"
    shutil.copytree(earlier["decoder"], moved)
    assert call("run", world, "--set", f"decoder.weights={moved}", "--out", tmp_path / "b").code == 0
    assert [before] == list((tmp_path / "cache" / "fit_decoder").iterdir())  # the same content under another name
    manifest = moved / "modbridge.json"
    manifest.write_text(manifest.read_text().replace('"seed": 0', '"seed": 1'))
    assert call("run", world, "--set", f"decoder.weights={moved}", "--out", tmp_path / "c").code == 0
    assert len(list((tmp_path / "cache" / "fit_decoder").iterdir())) == 2


def test_where_weights_came_from_is_handed_on(
    call: Call, world: Path, tmp_path: Path, earlier: dict[str, Path]
) -> None:
    kept = json.loads((earlier["bridge"] / "modbridge.json").read_text())
    taken = call(
        "run", world, "--set", f"bridge.weights={earlier['bridge']}", "--set", "seed=7", "--out", tmp_path / "b"
    )
    assert taken.code == 0, taken.err
    (placed,) = json.loads((tmp_path / "b" / "run.json").read_text())["cells"].values()
    manifest = json.loads((tmp_path / "b" / placed["bridge"] / "modbridge.json").read_text())
    assert (manifest["seed"], manifest["data"]) == (0, kept["data"])


def test_a_choice_by_pairs_is_not_forgotten(call: Call, world: Path, earlier: dict[str, Path]) -> None:
    manifest = earlier["decoder"] / "modbridge.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps({**content, "selection": {"by": "cider", "pairs": True}}))
    weights = ("--set", f"decoder.weights={earlier['decoder']}")
    (row,) = call("run", world, *weights, "--json").json["rows"]
    assert row["select"] == "cider"
    assert "pairs (selection)" in row["needs"]
    again = call("check", world, *weights, "--set", "select.by=cider")
    assert again.code == 1
    assert "there are none to choose among" in again.err


def test_a_sweep_may_not_change_what_weights_were_fitted_with(call: Call, world: Path, tmp_path: Path) -> None:
    block = "bridge={type: diffusion_bridge, frame: text, start_step: 20, augment_step: 10, prior: {type: ddpm, "
    block += "timesteps: 50, denoiser: gaussian}}"
    assert call("run", world, "--set", block, "--out", tmp_path / "run").code == 0
    (placed,) = json.loads((tmp_path / "run" / "run.json").read_text())["cells"].values()
    folder = tmp_path / "run" / placed["bridge"]
    whole = ("--set", f"bridge={{type: diffusion_bridge, weights: {folder}}}")
    part = (
        "--set",
        f"bridge={{type: diffusion_bridge, start_step: 20, prior: {{type: ddpm, weights: {folder}/prior}}}}",
    )
    part += ("--set", "bridge.augment_step=10", "--set", "bridge.frame=text")
    for sets in (whole, part):  # what changes the crossing alone may be swept
        result = call("check", world, *sets, "--set", "gap.sweep={start_step: [0, 10, 20]}")
        assert result.code == 0, result.err
    for sets, sweep in ((whole, "centre: [true, false]"), (whole, "prior.radius: [5, 1]"), (part, "prior.radius: [1]")):
        refused = call("check", world, *sets, "--set", f"gap.sweep={{{sweep}}}")
        assert refused.code == 1, sweep
        assert "would change the fit, but the weights" in refused.err


def test_weights_and_splits(call: Call, world: Path, earlier: dict[str, Path]) -> None:
    sets = ("--set", f"bridge.weights={earlier['bridge']}", "--set", "gap.fit=16")
    result = call("gap", world, "--no-report", "--json", *sets)
    assert result.code == 0, result.err
    assert "not fitted anew on each split" in result.err
    row = next(row for row in result.json["rows"] if row["bridge"] == "mean_shift")
    assert "weights (not fitted on the split)" in row["needs"]


def test_a_hub_address_is_told_apart_from_a_folder(call: Call, world: Path) -> None:
    result = call("check", world, "--set", "bridge.weights=hf://org/name")
    assert result.code == 1
    assert "expected a local folder, found the address hf://org/name" in result.err
