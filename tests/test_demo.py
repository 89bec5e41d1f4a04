"""The demo: its world, its metric, its probe, and the whole of it at the smoke profile."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import modbridge
from modbridge.demo.config import DrawnScenesConfig, ObjectsExactConfig
from modbridge.demo.kinds import KINDS
from modbridge.demo.objects import ObjectsExact, named_objects
from modbridge.demo.probe import accuracy
from modbridge.demo.scenes import BACKGROUNDS, COLOURS, SHAPES, DrawnScenes
from modbridge.errors import DataError
from modbridge.interfaces import Decoded, Reference
from modbridge.spaces import Embeddings
from modbridge.testing import toy_port

ROWS = [
    (bridge, augment)
    for bridge in ("identity", "mean_shift", "diffusion_bridge")
    for augment in ("none", "noise", "diffusion")
]
COLUMNS = (
    "gap_norm", "paired_cosine", "unpaired_cosine", "centred_paired_cosine", "r_at_1", "centred_r_at_1", "cider",
    "bleu_4", "objects_exact",
)  # fmt: skip


def scenes(**fields: object) -> DrawnScenes:
    return DrawnScenes(DrawnScenesConfig(type="drawn_scenes", **{"count": 60, **fields}))


def test_the_world_is_decided_by_seed_and_split() -> None:
    one, again = scenes(seed=3), scenes(seed=3)
    assert one.fingerprint() == again.fingerprint()
    assert np.array_equal(one.media(7), again.media(7))
    for other in (scenes(seed=4), scenes(seed=3, split="test"), scenes(seed=3, name_one=0.5)):
        assert other.fingerprint() != one.fingerprint()
    assert not np.array_equal(scenes(seed=3, split="test").media(0), one.media(0))


def test_captions_say_only_what_is_there() -> None:
    source = scenes(captions=6, count=200)
    words = {"a", "big", "small", "and", "left", "of", "above", "on", *SHAPES, *COLOURS, *BACKGROUNDS}
    partial = 0
    for row in range(len(source)):
        there = {(colour, shape) for colour, shape in source.facts(row)["objects"]}
        for text in source.texts(row):
            assert set(text.split()) <= words
            assert named_objects(text) <= there
            assert named_objects(text)
            partial += named_objects(text) != there
    assert 0.05 < partial / 1200 < 0.5


def test_pictures_show_the_colours_that_the_facts_name() -> None:
    source = scenes(count=120, two=0.0)
    for row in range(len(source)):
        ((colour, _),) = source.facts(row)["objects"]
        pixels = source.media(row).astype(float).reshape(-1, 3)
        assert np.abs(pixels - COLOURS[colour]).sum(1).min() < 60


def test_objects_exact_by_hand() -> None:
    truth = Reference("k", ("x",), {"objects": [["red", "circle"], ["blue", "cross"]]})
    captions = {
        "a red circle": 1, "a big red circle above a blue cross": 1, "a red cross": 0,
        "a red circle and a blue square": 0, "a picture": 0, "": 0,
    }  # fmt: skip
    predictions = [Decoded("k", text) for text in captions]
    metric = ObjectsExact(ObjectsExactConfig(type="objects_exact"))
    found = metric.score(predictions, [truth] * len(predictions))["objects_exact"]
    assert list(found.items) == list(captions.values())
    assert found.corpus == pytest.approx(2 / 6)
    with pytest.raises(DataError, match="drawn_scenes and synthesised_sounds only"):
        metric.score(predictions[:1], [Reference("k", ("x",))])


def test_the_probe_reads_what_is_linear_and_nothing_else() -> None:
    there = torch.rand(600, len(KINDS["image"]), generator=torch.Generator().manual_seed(0)) < 0.1
    mixed = there.float() @ torch.randn(len(KINDS["image"]), 32, generator=torch.Generator().manual_seed(1))
    keys = tuple(map(str, range(600)))
    vectors = Embeddings(mixed, toy_port(32), keys)
    noise = Embeddings(torch.randn(600, 32, generator=torch.Generator().manual_seed(2)), toy_port(32), keys)
    fit, test = range(400), range(400, 600)
    seen = accuracy(vectors.select(fit), there[:400], vectors.select(test), there[400:])
    blind = accuracy(noise.select(fit), there[:400], noise.select(test), there[400:])
    assert seen["objects"] > 0.97
    assert seen["colours"] >= seen["objects"]
    assert blind["objects"] < 0.4


def modbridge_cli(*arguments: str, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modbridge", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=_environment(cache))


def _environment(cache: Path) -> dict[str, str]:
    import os

    return {**os.environ, "MODBRIDGE_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}


def test_the_smoke_demo_fills_its_table_and_its_run_can_be_used(tmp_path: Path) -> None:
    cache, out = tmp_path / "cache", tmp_path / "demo"
    done = modbridge_cli("demo", "--profile", "smoke", "--out", str(out), "--json", cache=cache)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {(row["bridge"], row["augment"]): row for row in result["rows"]}
    assert list(rows) == [*ROWS, ("oracle", "none")]
    for row in rows.values():
        assert all(isinstance(row[column], float) for column in COLUMNS)
        assert row["n"] == 24
    for bridge in ("identity", "mean_shift", "diffusion_bridge"):
        # One floor and one ceiling, and vectors that do not depend on the decoder's training.
        assert len({rows[bridge, augment]["gap_norm"] for augment in ("none", "noise", "diffusion")}) == 1
    assert rows["oracle", "none"]["paired_cosine"] == pytest.approx(1.0)
    assert rows["mean_shift", "none"]["gap_norm"] < rows["identity", "none"]["gap_norm"]
    assert set(result["probe"]) == {"objects", "colours", "shapes"}
    report = (out / "report.html").read_text(encoding="utf-8")
    assert report.count("data:image/png") == 13  # the clouds and twelve samples
    assert (out / "figures" / "clouds.png").is_file()

    again = modbridge_cli("demo", "--profile", "smoke", "--out", str(out), "--json", cache=cache)
    assert json.loads(again.stdout) == result
    assert "0 stages done" in again.stderr

    picture = tmp_path / "scene.png"
    Image.fromarray(scenes(split="test", count=1).media(0)).save(picture)
    pipeline = modbridge.load(out)
    said = pipeline.caption([str(picture), Image.open(picture)])
    assert said[0] == said[1]
    assert set(said[0].split()) <= {"a", "big", "small", "and", "left", "of", "above", "on"} | {
        *SHAPES, *COLOURS, *BACKGROUNDS
    }  # fmt: skip
    names = [station.name for station in pipeline.explain([picture])[0]]
    assert names[0] == "encoded"
    assert names[-1] == "bridged"
    assert len(names) == 7  # encoded, centred, four steps on the way, bridged
