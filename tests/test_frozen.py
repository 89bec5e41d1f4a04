"""What an earlier version stored is read today, and gives what it gave then."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import modbridge
from modbridge.errors import ArtefactError, ConfigError
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings, Port
from modbridge.store.artefact import load_weights, read_manifest
from modbridge.testing import build, build_config

TESTS = Path(__file__).parent
FROZEN = TESTS / "frozen" / "schema-1"
COLOURS = ((220, 30, 30), (30, 200, 40), (40, 60, 220))


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover([TESTS / "toy_plugin.py"])


@pytest.fixture(scope="module")
def expected() -> dict[str, Any]:
    return dict(json.loads((TESTS / "frozen" / "expected.json").read_text("utf-8")))


def artefact(cell: str, kind: str) -> Path:
    return FROZEN / str(json.loads((FROZEN / "run.json").read_text("utf-8"))["cells"][cell][kind])


@pytest.mark.parametrize("cell", ["shift", "bridged"])
def test_an_old_run_captions_as_it_did(cell: str, plugins: Plugins, expected: dict[str, Any]) -> None:
    pipeline = modbridge.load(FROZEN, cell=cell, plugins=plugins)
    pictures = [Image.new("RGB", (8, 8), colour) for colour in COLOURS]
    bridged = pipeline.bridge.cross(pipeline.encode(pictures)).values
    assert torch.allclose(bridged, torch.tensor(expected[cell]["bridged"]), atol=1e-5)
    assert pipeline.caption(pictures) == expected[cell]["captions"]


def test_an_old_bridge_is_taken_as_weights(plugins: Plugins, expected: dict[str, Any]) -> None:
    folder = artefact("bridged", "bridge")
    ports = {name: Port.from_json(port) for name, port in read_manifest(folder)["ports"].items()}
    block = {"type": "diffusion_bridge", "weights": str(folder)}
    bridge = build("bridge", block, ports=ports, registry=plugins.registry)
    load_weights(bridge, str(folder))
    pipeline = modbridge.load(FROZEN, cell="bridged", plugins=plugins)
    pictures = pipeline.encode([Image.new("RGB", (8, 8), colour) for colour in COLOURS])
    same = Embeddings(pictures.values, ports["source"], pictures.keys)
    found = bridge.cross(same).values  # type: ignore[attr-defined]
    assert torch.allclose(found, torch.tensor(expected["bridged"]["bridged"]), atol=1e-5)


def test_a_field_that_was_spelt_otherwise_is_taken_over(plugins: Plugins) -> None:
    folder = artefact("shift", "decoder")
    assert read_manifest(folder)["config"]["end_of_sentence"] is True
    config = build_config("decoder", {"type": "prefix_lm", "weights": str(folder)}, plugins.registry)
    assert config.end_of_sentence == "taught"
    with pytest.raises(ConfigError, match="end_of_sentence"):
        build_config("decoder", {"type": "prefix_lm", "end_of_sentence": True}, plugins.registry)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "newer"
    shutil.copytree(artefact("shift", "bridge"), folder)
    manifest = json.loads((folder / "modbridge.json").read_text("utf-8"))
    (folder / "modbridge.json").write_text(json.dumps(manifest | {"schema": manifest["schema"] + 1}), "utf-8")
    with pytest.raises(ArtefactError, match="newer version: upgrade modbridge"):
        read_manifest(folder)
