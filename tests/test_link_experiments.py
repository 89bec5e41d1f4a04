"""The experiments of Diffusion-Link: every config holds at paper size, and runs in small over one shared cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modbridge.assembly.experiment import load_experiment
from modbridge.config.pipeline import dump
from modbridge.plugins.manager import Plugins

FOLDER = Path(__file__).parents[1] / "configs" / "diffusion_link"
ROWS = {
    "base": ["diffusion_link"],
    "zero_shot": ["without", "mean_shift", "capdec", "memory", "diffusion_link/text_only", "diffusion_link", "oracle"],
    "supervised": ["without", "diffusion_link"],
    "losses": ["both", "no_topology", "no_cross_sample", "neither"],
    "steps": [f"{calls}/{start}" for calls in ("one_step", "five_steps") for start in (50, 100, 200, 400, 600)],
    "audiocaps_to_clotho": ["without", "diffusion_link"],
    "clotho_to_audiocaps": ["without", "diffusion_link"],
    "retrieval": ["memory/plain", "memory/retrieved", "diffusion_link/plain", "diffusion_link/retrieved"],
    "wsac": ["raw", "nearest_caption", "memory", "diffusion_link"],
}
TEXT_ONLY, PAIRED = "captioner text-only, bridge text-only", "captioner text-only, bridge paired"


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("link-experiments")


def load(name: str, *sets: str) -> Any:
    return load_experiment(FOLDER / f"{name}.yaml", Plugins.discover(environ={}).registry, sets=sets)


def test_every_config_is_tested_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {*ROWS, "gap", "coco500"}


def test_at_paper_size_the_link_is_what_is_known_of_it() -> None:
    """Three residual blocks and SEED's numbers; DRCap's captioner; LAION's CLAP on AudioCaps' own splits."""
    config = dump(load("base").first.config)
    prior = config["bridge"]["prior"]
    assert (prior["denoiser"]["type"], prior["denoiser"]["num_blocks"]) == ("residual_mlp", 3)
    assert (prior["schedule"], prior["timesteps"], prior["loss"], prior["batch_size"]) == (
        "scaled_linear",
        1000,
        "l1",
        300,
    )
    assert (prior["cross_sample"], prior["topology"]) == (1.0, 1.0)
    assert 0.99 < prior["steps"] / (300 * 49838 / 300) < 1.01  # 300 epochs over AudioCaps in batches of 300
    assert config["decoder"]["lora"] == {"r": 8, "alpha": 32.0, "dropout": 0.05, "targets": None}
    assert config["decoder"]["prompt"]["text"] == "Describe the audio you hear."
    assert load("base").first.plan.text.space.dim == 512


def test_the_ablations_change_what_they_name_and_nothing_else() -> None:
    cells = {cell.label: dump(cell.config) for cell in load("losses").cells}
    for label, cell in cells.items():
        prior = cell["bridge"]["prior"]
        assert (prior["cross_sample"] == 0) == (label in ("no_cross_sample", "neither"))
        assert (prior["topology"] == 0) == (label in ("no_topology", "neither"))
        prior |= {"cross_sample": 1.0, "topology": 1.0}
    assert len({json.dumps(cell, sort_keys=True) for cell in cells.values()}) == 1


@pytest.mark.parametrize("name", ROWS)
def test_each_experiment_runs_in_small(
    name: str, cache: Path, call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(cache))
    result = call("run", FOLDER / f"{name}.yaml", "--profile", "smoke", "--out", tmp_path / "out", "--json", toy=False)
    assert result.code == 0, result.err
    rows = result.json["rows"]
    assert len(rows) == len(ROWS[name])
    if name != "base":
        assert [row["cell"] for row in rows] == ROWS[name]
    for row in rows:
        assert row["n"] == 16
        assert all(row[column] is not None for column in ("cider_d", "rouge_l", "vocab"))
        supervised = "captioner paired" in row["training"]
        assert supervised == (name == "supervised")
        if row["bridge"] == "diffusion_link" and not supervised:
            assert row["training"] == PAIRED, row["cell"]
        if row["bridge"] == "diffusion_link (text-only)":
            assert row["training"] == TEXT_ONLY


def test_the_gap_analysis_runs_in_small(
    cache: Path, call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(cache))
    result = call("gap", FOLDER / "gap.yaml", "--profile", "smoke", "--out", tmp_path / "gap", "--json", toy=False)
    assert result.code == 0, result.err
    found = {row["bridge"] for row in result.json["rows"]}
    assert {"identity", "ridge", "procrustes", "pls_svd", "diffusion_link", "diffusion_link (text-only)"} <= found


def test_rows_that_nothing_else_tells_apart_are_named(
    cache: Path, call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(cache))
    result = call("run", FOLDER / "losses.yaml", "--profile", "smoke", "--out", tmp_path / "out", toy=False)
    for name in ROWS["losses"]:
        assert any(line.startswith(f"{name} ") for line in result.out.splitlines()), result.out


def test_the_link_crosses_real_image_vectors(requires_data: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    """In small: every row of coco500, and the closed form already beats mean shift on the centred cosine."""
    result = call(
        *("compare", FOLDER / "coco500.yaml", "--profile", "smoke", "--set", f"paths.data={requires_data}"),
        *(part for row in ("link/affine", "mean_shift") for part in ("--rows", row)),
        *("--out", tmp_path / "out", "--json"),
        toy=False,
    )
    assert result.code == 0, result.err
    rows = {row["row"]: row for row in result.json["rows"]}
    assert rows["link/affine"]["centred_paired_cosine"] > rows["mean_shift"]["centred_paired_cosine"] + 0.1
