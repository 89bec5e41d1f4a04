"""Pairs: how many are known (`data.pairs`), decoders trained on media (`decoder_input: source`), and what tables say of
either and of missing items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.interfaces import TextVectors
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.store.cache import Cache
from modbridge.talk import Talk

from .conftest import TOY, draw_world
from .test_select import DECODER

Call = Callable[..., Any]


def image_vector(path: Path) -> torch.Tensor:
    """What the toy encoder makes of an image, computed here."""
    colour = torch.tensor(np.asarray(Image.open(path), np.float32).mean((0, 1)) / 255)
    base = Draw.of(("red", "green", "blue"), 1).normal(8)
    return torch.nn.functional.normalize(colour @ base * 2 + Draw.of(["image"], 0).normal(8)[0], dim=0)


def decoder_memory(cache: Path) -> tuple[torch.Tensor, list[str]]:
    """The vectors that the one fitted toy decoder remembers, and their captions."""
    (folder,) = (cache / "fit_decoder").iterdir()
    return load_file(folder / "model.safetensors")["memory"], (folder / "captions.txt").read_text().split("\n")


def test_a_supervised_decoder_learns_from_media(call: Call, world: Path, tmp_path: Path) -> None:
    sets = ["--set", "bridge.type=identity", "--set", "decoder_input=source"]
    result = call("run", world, *sets, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert (row["augment"], row["training"]) == ("supervised", "captioner paired, bridge untrained")
    assert row["needs"] == ["pairs", "source", "text"]
    memory, captions = decoder_memory(tmp_path / "cache")
    images = [image_vector(tmp_path / "world" / "images" / f"{i:03d}.png") for i in range(24)]
    torch.testing.assert_close(memory, torch.stack([images[i] for i in range(24) for _ in range(2)]))
    assert captions[2:4] == ["a green picture", "it is all green"]


def test_a_supervised_decoder_is_given_what_it_learnt_from(call: Call, world: Path, tmp_path: Path) -> None:
    """Under mean shift too: vectors of training and of test go through the same bridge."""
    result = call("run", world, "--set", "decoder_input=source", "--out", tmp_path / "run", "--json")
    assert result.json["rows"][0]["training"] == "captioner paired, bridge unpaired"
    memory, _ = decoder_memory(tmp_path / "cache")
    (bridge,) = (tmp_path / "cache" / "fit_bridge").iterdir()
    fitted = load_file(bridge / "model.safetensors")
    image = image_vector(tmp_path / "world" / "images" / "005.png").double()
    shifted = image - fitted["source_mean"] + fitted["text_mean"]
    torch.testing.assert_close(memory[10], torch.nn.functional.normalize(shifted, dim=0).float())


def test_known_pairs_bound_what_is_learnt(call: Call, world: Path, tmp_path: Path) -> None:
    """Five pairs are five of the ten, the supervised decoder sees no others, and another seed draws others."""
    seen = {}
    for name, sets in {"five": [5, 0], "ten": [10, 0], "other": [5, 1]}.items():
        cache = tmp_path / f"cache-{name}"
        call(
            *("run", world, "--set", "bridge.type=identity", "--set", "decoder_input=source", "--cache", cache),
            *("--set", f"data.pairs={sets[0]}", "--set", f"seed={sets[1]}", "--until", "fit_decoder"),
        )
        memory, _ = decoder_memory(cache)
        seen[name] = {tuple(round(v, 5) for v in row) for row in memory.tolist()}
    assert [len(found) for found in seen.values()] == [5, 10, 5]  # two captions of one image have one vector
    assert seen["five"] < seen["ten"]
    assert seen["five"] != seen["other"]


def test_paired_bridges_see_the_known_pairs_alone(call: Call, world: Path, tmp_path: Path) -> None:
    """Ridge on six known pairs: its means are those of six images, as the fit says of itself."""
    sets = ["--set", "bridge.type=ridge", "--set", "data.pairs=6", "--set", "augment.type=identity"]
    result = call("run", world, *sets, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert row["training"] == "captioner text-only, bridge paired"
    assert row["notes"]["data.pairs"] == "6 training items are known as pairs"
    logs = (tmp_path / "cache" / "fit_bridge").glob("*/training.jsonl")
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    assert next(line["pairs"] for line in lines if "pairs" in line) == 12  # two captions each
    again = call("run", world, *sets, "--set", "data.pairs=24", "--out", tmp_path / "run2", "--json")
    assert again.json["rows"][0]["paired_cosine"] != row["paired_cosine"]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        (["data.pairs=25"], "only 24 training items have a text and a image vector"),
        (["data.pairs=0"], "data.pairs"),
        (["decoder_input=source", "augment.type=capdec"], "trains the decoder on media"),
        (["decoder_input=audio"], "decoder_input"),
    ],
)
def test_mistakes_are_told(call: Call, world: Path, sets: list[str], said: str) -> None:
    options = [part for value in ["bridge.type=ridge", *sets] for part in ("--set", value)]
    result = call("run", world, *options)
    assert result.code == 1
    assert said in result.err


def test_unpaired_media_teach_no_supervised_decoder(call: Call, world: Path, tmp_path: Path) -> None:
    draw_world(tmp_path / "world", 6, start=40)
    other = f"{{type: jsonl, path: {tmp_path}/world/world40.jsonl, root: {tmp_path}/world/images}}"
    result = call("check", world, "--set", f"data.unpaired={other}", "--set", "decoder_input=source")
    assert result.code == 1
    assert "media that no text belongs to" in result.err


def test_a_supervised_decoder_is_selected_by_the_loss_given_media(world: Path, tmp_path: Path) -> None:
    """The kept value is the loss of validation captions given the bridged vectors of their images."""
    draw_world(tmp_path / "world", 6, start=40)
    plugins = Plugins.discover([TOY])
    folder = f"{tmp_path}/world"
    sets = ["decoder_input=source", "select.every=0.5", f"decoder={DECODER}"]
    sets += [f"data.validation={{type: jsonl, path: {folder}/world40.jsonl, root: {folder}/images}}"]
    cell = load_experiment(world, plugins.registry, sets=sets).first
    session = Session(plugins, Cache(tmp_path / "cache"), Talk(quiet=True))
    found = fitted_decoder(session, cell)
    said = json.loads((found.folder / "modbridge.json").read_text())["selection"]
    assert (said["by"], said["pairs"]) == ("text_loss", True)
    text = embeddings(session, cell, "validation", "text")
    images = embeddings(session, cell, "validation", "image")
    bridged = fitted_bridge(session, cell, cell.config.bridge).bridge.cross(images).values.clone()
    twice = bridged.repeat_interleave(2, dim=0)
    targets = [f"{words}" for i in range(6) for words in captions_of(40 + i)]
    loss = found.decoder.text_loss(TextVectors(text, lambda rows, _: twice[list(rows)]), targets)
    assert said["value"] == pytest.approx(loss, rel=1e-5)
    unbridged = found.decoder.text_loss(TextVectors(text, lambda rows, _: text.values[list(rows)].clone()), targets)
    assert said["value"] != pytest.approx(unbridged, rel=1e-3)


def captions_of(number: int) -> list[str]:
    colour = ("red", "green", "blue")[number % 3]
    return [f"a {colour} picture", f"it is all {colour}"]


def test_missing_files_are_counted_under_every_table(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "images" / "030.png").unlink()
    for verb, out in (("run", "run"), ("gap", "gap")):
        result = call(verb, world, "--set", "data.test.missing=skip", "--out", tmp_path / out)
        assert result.code == 0, result.err
        assert "data.test: 8 items; left out, as missing or broken: 1" in result.out, verb
        assert "030" in result.out
