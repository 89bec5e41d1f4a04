"""Encoder, bridge and decoder trained together: what trains, from where, and who reads what came of it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import modbridge
from modbridge import training
from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.pipeline import Pipeline
from modbridge.assembly.session import Session, StageFitting
from modbridge.interfaces import BuildContext, TextVectors
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.stages.generate import generated
from modbridge.store.cache import Cache

from .conftest import COLOURS, TOY, draw_world
from .test_engine import Apart, ApartConfig

TEACHER = Path(__file__).parent / "teacher_plugin.py"
SEQUENCES = Path(__file__).parent / "sequence_plugin.py"
Call = Callable[..., Any]

TAUGHT = """\
decoder_input: source
encoder: {type: toy_taught, objective: &teacher {type: toy_teacher, steps: 20}, steps: 20}
bridge: identity
decoder:
  type: prefix_lm
  lm: {n_layer: 1, n_head: 2, n_embd: 16, n_positions: 32, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}
  tokenizer: words
  steps: 5
  batch_size: 16
  lr: 1e-3
  generate: {num_beams: 1, max_new_tokens: 8}
decoders:
  image: {type: toy_painter, teacher: *teacher}
metrics: [bleu]
"""


@pytest.fixture
def taught(world: Path, one_thread: None) -> Path:
    """A pipeline whose encoder the run trains, with a decoder that can be tuned and one that paints."""
    head = world.read_text("utf-8").split("encoder:")[0]
    world.write_text(head + TAUGHT, encoding="utf-8")
    return world


@pytest.fixture
def run(call: Call, taught: Path, tmp_path: Path) -> Callable[..., Any]:
    """Run the config, with `tune` and more."""

    def of(name: str, *more: str, tune: str | None = None) -> Any:
        sets = [] if tune is None else ["--set", f"tune={tune}"]
        return call("run", taught, "--plugin", TEACHER, "--out", tmp_path / name, "--json", *sets, *more)

    return of


def loaded(*folders: Path) -> list[Pipeline]:
    plugins = Plugins.discover([str(TOY), str(TEACHER)])
    return [modbridge.load(folder, plugins=plugins) for folder in folders]


def weights(folder: Path, part: str) -> dict[str, torch.Tensor]:
    placed = json.loads((folder / "run.json").read_text("utf-8"))["cells"]["toy"][part]
    return load_file(folder / placed / "model.safetensors")


def changed(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> set[str]:
    assert one.keys() == other.keys()
    return {name for name in one if not torch.equal(one[name], other[name])}


def pictures() -> list[np.ndarray[Any, Any]]:
    return [np.full((8, 8, 3), colour, dtype=np.uint8) for colour in COLOURS.values()]


def test_names_say_what_trains(run: Any, tmp_path: Path) -> None:
    assert run("plain").code == 0
    before = tmp_path / "plain"
    cases = {
        "[{train: [decoder.mapper], steps: 3, lr: 1e-3}]": ("decoder.mapper", set()),
        "[{train: ['decoder.lm.*.wte.*', 'decoder.mapper.*'], steps: 3}]": (
            "decoder.mapper decoder.lm.transformer.wte",
            set(),
        ),
        "[{train: [encoder], steps: 3, lr: 1e-2}]": ("", {"net.weight", "net.bias"}),
        "[{train: [encoder.net.bias, decoder.lm], steps: 3}]": ("decoder.lm", {"net.bias"}),
        "[{train: [decoder.mapper], steps: 2}, {train: [encoder.net.weight], steps: 2}]": (
            "decoder.mapper",
            {"net.weight"},
        ),
    }
    for number, (tune, (trained, encoder)) in enumerate(cases.items()):
        done = run(f"tuned{number}", tune=tune)
        assert done.code == 0, done.err
        after = tmp_path / f"tuned{number}"
        moved = {f"decoder.{name}" for name in changed(weights(before, "decoder"), weights(after, "decoder"))}
        assert all(any(name.startswith(one) for one in trained.split()) for name in moved), moved
        assert all(any(name.startswith(one) for name in moved) for one in trained.split()), moved
        assert changed(weights(before, "encoder"), weights(after, "encoder")) == encoder


def test_the_first_step_follows_the_gradient(run: Any, tmp_path: Path) -> None:
    """Adam's first step moves every number by the learning rate against the sign of its derivative, which is taken here
    as the difference of the loss at two points."""
    rate = 1e-3
    assert run("plain").code == 0
    done = run("tuned", tune=f"[{{train: [encoder], steps: 1, batch_size: 48, lr: {rate}, weight_decay: 0}}]")
    assert done.code == 0, done.err
    (plain,) = loaded(tmp_path / "plain")
    rows = [json.loads(line) for line in (tmp_path / "world" / "world0.jsonl").read_text("utf-8").splitlines()]
    colours = torch.stack(
        [torch.from_numpy(np.asarray(Image.open(tmp_path / "world" / "images" / row["image"])) / 255.0) for row in rows]
    )
    x = colours.double().mean((1, 2)).repeat_interleave(2, dim=0)
    texts = [caption for row in rows for caption in row["captions"]]
    net = plain.encoder.modules()["net"]
    flat = torch.cat([net.weight.flatten(), net.bias]).detach().double()

    def loss(numbers: torch.Tensor) -> float:
        weight, bias = numbers[:-8].view(8, 3), numbers[-8:]
        vectors = plain.encode(pictures()[:1]).select([0] * len(texts))
        vectors = replace(vectors, values=(x @ weight.T + bias).float())
        return plain.decoder.text_loss(TextVectors(vectors, lambda rows, epoch: vectors.values[list(rows)]), texts)

    tuned = weights(tmp_path / "tuned", "encoder")
    moved = torch.cat([tuned["net.weight"].flatten(), tuned["net.bias"]]).double() - flat
    slopes = torch.tensor(
        [(loss(flat + e) - loss(flat - e)) / 2e-2 for e in torch.eye(len(flat)).double() * 1e-2]
    ).double()
    clear = slopes.abs() > 1e-4
    assert clear.sum() > 20
    assert torch.allclose(moved[clear], -rate * slopes[clear].sign(), rtol=0.02)


def test_captions_come_from_the_tuned_encoder_and_images_from_the_first(run: Any, tmp_path: Path) -> None:
    assert run("plain").code == 0
    done = run("tuned", tune="[{train: [encoder, decoder], steps: 200, batch_size: 16, lr: 1e-2}]")
    assert done.code == 0, done.err
    plain, tuned = loaded(tmp_path / "plain", tmp_path / "tuned")
    texts = [json.loads(line)["text"] for line in (tmp_path / "tuned" / "predictions.jsonl").read_text().splitlines()]
    colours = list(COLOURS)
    assert all(colours[number % 3] in text for number, text in enumerate(texts, 24))
    files = [tmp_path / "world" / "images" / f"{number:03d}.png" for number in range(24, 33)]
    assert tuned.caption(files) == texts
    assert not torch.equal(tuned.encode(files).values, plain.encode(files).values)
    assert torch.equal(tuned.encode(files, to="image").values, plain.encode(files).values)
    painted = [np.asarray(one.image) for one in tuned.decode(files, to="image")]
    assert all(np.array_equal(a, b.image) for a, b in zip(painted, plain.decode(files, to="image"), strict=True))
    lines = [json.loads(line) for line in (tmp_path / "tuned" / "predictions-image.jsonl").read_text().splitlines()]
    stored = [np.asarray(Image.open(tmp_path / "tuned" / line["image"])) for line in lines]
    assert all(np.array_equal(a, b) for a, b in zip(painted, stored, strict=True))
    with pytest.raises(modbridge.errors.PortError):
        tuned.decode(plain.encode(files))
    log = [json.loads(line) for line in (tmp_path / "tuned" / "metrics.jsonl").read_text().splitlines()]
    assert [line["fit"] for line in log if "trained" in line] == ["tune 1"]
    assert {"prefix_lm", "taught", "teacher"} <= {line.get("fit") for line in log}


def test_only_what_is_new_is_done(run: Any) -> None:
    tune = "[{train: [encoder, decoder], steps: 3}]"
    assert run("plain").code == 0
    first = run("tuned", tune=tune)
    # tune; by the tuned encoder media and texts of both splits; bridge, crossing, measures, captions, scores.
    assert "10 stages done" in first.err, first.err
    again = run("tuned", tune=tune)
    assert "0 stages done" in again.err
    assert again.json["rows"] == first.json["rows"]


def test_everything_can_be_left_to_tuning(run: Any, tmp_path: Path) -> None:
    steps = [
        "{train: [decoder.mapper], steps: 40, lr: 1e-2, stored: false}",
        "{train: [decoder], steps: 60, lr: 1e-2, stored: false}",
        "{train: [decoder, encoder], steps: 60, lr: 1e-2}",
    ]
    done = run("left", "--set", "decoder.steps=0", tune=f"[{', '.join(steps)}]")
    assert done.code == 0, done.err
    texts = [json.loads(line)["text"] for line in (tmp_path / "left" / "predictions.jsonl").read_text().splitlines()]
    assert sum(list(COLOURS)[number % 3] in text for number, text in enumerate(texts, 24)) >= 8
    assert "embed: train" not in done.err
    kept = run("kept", "--set", "decoder.steps=0", tune=f"[{steps[0].replace(', stored: false', '')}]")
    live = run("live", "--set", "decoder.steps=0", tune=f"[{steps[0]}]")
    assert kept.code == live.code == 0, kept.err + live.err
    one, other = weights(tmp_path / "kept", "decoder"), weights(tmp_path / "live", "decoder")
    assert all(torch.allclose(one[name], other[name], atol=1e-5) for name in one)


def test_what_cannot_be_tuned_is_told_before_anything_is_done(run: Any) -> None:
    ok = "[{train: [encoder, decoder], steps: 1}]"
    cases = {
        ("[{train: [mapper], steps: 1}]",): "names nothing of encoder, bridge or decoder",
        ("[{train: [decoder]}]",): "tune.0.steps",
        (ok, "decoder_input=text"): "set decoder_input: source",
        (ok, "decoder={type: toy_recite}"): "toy_recite",
        (ok, "bridge=mean_shift"): "fitted on vectors (source, text) of the encoder",
        (ok, "evaluate.input=text"): "the oracle decodes vectors of texts",
        (ok, "encoder={type: toy_colours}", "decoders=null"): "keeps none of its weights",
        ("[]", "decoder.steps=0"): "takes no step of its own",
    }
    for (tune, *sets), told in cases.items():
        done = run("bad", *(part for one in sets for part in ("--set", one)), tune=tune)
        assert done.code == 1, (tune, sets, done.err)
        assert told in done.err, done.err


def test_a_name_of_nothing_and_a_part_that_nothing_reaches(run: Any) -> None:
    unknown = run("run", tune="[{train: [decoder.head], steps: 1}]")
    assert unknown.code == 1
    assert "no parameter is called decoder.head" in unknown.err
    assert "decoder.lm, decoder.mapper, encoder.net" in unknown.err
    deaf = run("run", "--set", "bridge={type: toy_deaf}", tune="[{train: [encoder], steps: 1}]")
    assert deaf.code == 3
    assert "no gradient of the decoder 'prefix_lm' arrives at encoder.net" in deaf.err


def test_names_of_later_steps_are_looked_up_before_the_first(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def train(label: str, **how: Any) -> None:
        raise AssertionError(label)

    monkeypatch.setattr("modbridge.stages.tune.train", train)
    done = run("run", tune="[{train: [decoder], steps: 1}, {train: [decoder.head, encoder.net], steps: 1}]")
    assert done.code == 1, done.err
    assert "tune.1.train: no parameter is called decoder.head" in done.err


def test_a_bridge_is_tuned(run: Any, tmp_path: Path) -> None:
    bent, files = ("--set", "bridge=toy_bent"), pictures()
    assert run("plain", *bent).code == 0
    done = run("tuned", *bent, tune="[{train: [bridge, encoder.net.bias], steps: 5, lr: 1e-2}]")
    assert done.code == 0, done.err
    assert changed(weights(tmp_path / "plain", "bridge"), weights(tmp_path / "tuned", "bridge")) == {
        "net.weight",
        "net.bias",
    }
    assert changed(weights(tmp_path / "plain", "bridge"), weights(tmp_path / "tuned", "untuned.bridge")) == set()
    plain, tuned = loaded(tmp_path / "plain", tmp_path / "tuned")
    texts = [json.loads(line)["text"] for line in (tmp_path / "tuned" / "predictions.jsonl").read_text().splitlines()]
    assert tuned.caption([tmp_path / "world" / "images" / f"{number:03d}.png" for number in range(24, 33)]) == texts
    painted = zip(plain.decode(files, to="image"), tuned.decode(files, to="image"), strict=True)
    assert all(np.array_equal(a.image, b.image) for a, b in painted)
    parted = run("parted", *bent, "--set", "gap.fit=16", tune="[{train: [bridge], steps: 1}]")
    assert parted.code == 1
    assert "gap.fit" in parted.err


def test_tuning_starts_from_weights_that_are_given(run: Any, taught: Path, tmp_path: Path) -> None:
    assert run("plain").code == 0
    placed = json.loads((tmp_path / "plain" / "run.json").read_text("utf-8"))["cells"]["toy"]["decoder"]
    given = f"decoder={{type: prefix_lm, weights: {tmp_path / 'plain' / placed}}}"
    tune = "[{train: [encoder, decoder.mapper], steps: 2}]"
    assert run("fitted", tune=tune).code == 0
    done = run("given", "--set", given, tune=tune)
    assert done.code == 0, done.err
    assert not changed(weights(tmp_path / "fitted", "decoder"), weights(tmp_path / "given", "decoder"))
    draw_world(tmp_path / "world", 6, start=40)
    judged = f"data.validation={{type: jsonl, path: '{tmp_path}/world/world40.jsonl', root: '{tmp_path}/world/images'}}"
    done = run("judged", "--set", given, "--set", judged, tune="[{train: [decoder.mapper], steps: 2}]")
    assert done.code == 0, done.err
    assert isinstance(loaded(tmp_path / "judged")[0].caption(pictures())[0], str)
    parts = []
    for scale in (1, 2):
        bent = ("--set", f"bridge={{type: toy_bent, scale: {scale}}}", "--set", "decoders=null")
        assert run(f"bent{scale}", *bent).code == 0
        placed = json.loads((tmp_path / "bent1" / "run.json").read_text("utf-8"))["cells"]["toy"]["decoder"]
        given = f"decoder={{type: prefix_lm, weights: {tmp_path / 'bent1' / placed}}}"
        done = run(f"on{scale}", *bent, "--set", given, tune="[{train: [decoder.mapper], steps: 3, lr: 1e-2}]")
        assert done.code == 0, done.err
        parts.append(weights(tmp_path / f"on{scale}", "decoder"))
    assert changed(*parts)  # a field that changes only the crossing changes what the decoder is trained on


def test_items_that_can_be_read_again_are_trained_on(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "world" / "images" / "003.png"
    whole, times = file.read_bytes(), (file.stat().st_atime_ns, file.stat().st_mtime_ns)

    def written(content: bytes) -> None:  # as after a fault of the disk: name, size and time are what they were
        file.write_bytes(content)
        os.utime(file, ns=times)

    draw_world(tmp_path / "world", 6, start=40)
    elsewhere = f"data.encoder={{type: jsonl, path: '{tmp_path}/world/world40.jsonl', root: '{tmp_path}/world/images'}}"
    more = ("--set", elsewhere, "--set", "decoder.steps=0", "--on-error", "skip")
    for name, content, captions in (("part", bytes(len(whole)), 46), ("whole", whole, 48)):
        written(content)
        done = run(name, *more, tune="[{train: [decoder], steps: 3}]")
        assert done.code == 0, done.err
        log = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        assert [line["captions"] for line in log if "trained" in line] == [captions]


def test_the_device_holds_one_decoder_while_it_is_tuned(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Language models are large: neither the fitted one nor that of the cell before stays beside the one in hand."""
    held = []

    def decoders() -> int:
        gc.collect()
        return sum(type(one).__name__ == "PrefixLmDecoder" for one in gc.get_objects())

    def train(label: str, **how: Any) -> float:
        held.append(decoders())
        return training.train(label, **how)

    before = decoders()
    monkeypatch.setattr("modbridge.stages.tune.train", train)
    done = run("run", "--vary", "tune.0.steps=1,2,3", tune="[{train: [encoder, decoder], steps: 1}]")
    assert done.code == 0, done.err
    assert held == [before + 1] * 3


@pytest.fixture
def language_model(tmp_path: Path) -> Path:
    """A tiny GPT-2 with its tokenizer, as save_pretrained writes them."""
    folder, words = tmp_path / "lm", ["<unk>", "<end>", *["a", "it", "is", "all", "picture"], *COLOURS]
    backend = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>", unk_token="<unk>").save_pretrained(folder)
    shape: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}
    GPT2LMHeadModel(GPT2Config(vocab_size=len(words), bos_token_id=1, eos_token_id=1, **shape)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(("train_lm", "name"), [("full", "lm"), ("lora", "adapter"), ("frozen", "mapper")])
def test_a_pretrained_language_model(
    run: Any, language_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_lm: str, name: str
) -> None:
    fields = (
        f"type: prefix_lm, lm: {language_model}, tokenizer: null, train_lm: {train_lm}, steps: 2, precision: bfloat16"
    )
    sets = ("--set", f"decoder={{{fields}, generate: {{num_beams: 1, max_new_tokens: 8}}}}", "--set", "decoders=null")
    tune = f"[{{train: [encoder, decoder.{name}], steps: 3, lr: 1e-2}}]"
    assert run("plain", *sets).code == 0
    done = run("tuned", *sets, tune=tune)
    assert done.code == 0, done.err
    moved = changed(weights(tmp_path / "plain", "decoder"), weights(tmp_path / "tuned", "decoder"))
    assert moved
    assert all(one.startswith(f"{name}.") for one in moved)
    texts = [json.loads(line)["text"] for line in (tmp_path / "tuned" / "predictions.jsonl").read_text().splitlines()]
    files = [tmp_path / "world" / "images" / f"{number:03d}.png" for number in range(24, 33)]
    assert loaded(tmp_path / "tuned")[0].caption(files) == texts
    if train_lm == "full":  # then the artefact holds all of it, and the hub is not asked again

        def load_lm(name: str) -> Any:
            raise AssertionError(name)

        monkeypatch.setattr("modbridge_captioning.parts.load_lm", load_lm)
        again = run("again", *sets, "--set", "decoder.generate.max_new_tokens=6", tune=tune)
        assert again.code == 0, again.err


def test_workers_elsewhere_find_the_tuned_parts(taught: Path, tmp_path: Path) -> None:
    plugins, found = Plugins.discover([str(TOY), str(TEACHER)]), []
    sets = ["tune=[{train: [encoder, decoder], steps: 3, lr: 1e-2}]"]
    for name in ("here", "apart"):
        (cell,) = load_experiment(taught, plugins.registry, sets=sets).cells
        session = Session(plugins, Cache(tmp_path / name), shard_rows=5)
        if name == "apart":
            session.engine = Apart(ApartConfig(), BuildContext())
        texts = [one.text for one in generated(session, cell).predictions]
        images = [image.read_bytes() for image in generated(session, cell.others["image"]).images]
        found.append((embeddings(session, cell, "test", "image").values.tolist(), texts, images))
    assert isinstance(session.engine, Apart)
    assert session.engine.asked
    assert found[0] == found[1]


def test_batch_normalisation_keeps_what_it_came_with(run: Any, tmp_path: Path) -> None:
    norm = ("--set", "encoder.norm=true")
    assert run("plain", *norm).code == 0
    done = run("tuned", *norm, tune="[{train: [encoder], steps: 3, lr: 1e-2}]")
    assert done.code == 0, done.err
    moved = changed(weights(tmp_path / "plain", "encoder"), weights(tmp_path / "tuned", "encoder"))
    assert moved == {"net.weight", "net.bias", "norm.weight", "norm.bias"}


def test_an_encoder_with_batches_of_its_own_form(run: Any, tmp_path: Path) -> None:
    tune = "[{train: [encoder, decoder.mapper], steps: 3, lr: 1e-2}]"
    for name in ("toy_taught", "toy_boxed"):
        encoder = f"encoder={{type: {name}, objective: {{type: toy_teacher, steps: 20}}, steps: 20}}"
        done = run(name, "--set", encoder, tune=tune)
        assert done.code == 0, done.err
    one, other = (weights(tmp_path / name, "encoder") for name in ("toy_taught", "toy_boxed"))
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_media_that_cannot_be_encoded_in_a_step(run: Any, tmp_path: Path) -> None:
    rng, keys = np.random.default_rng(0), [f"{number:03d}" for number in range(33)]
    image, text = rng.normal(size=(33, 8)), rng.normal(size=(66, 8))
    np.savez(tmp_path / "v.npz", image=image, text=text, keys=np.array(keys), twice=np.repeat(keys, 2))
    vectors = "{image: {array: image, keys: keys}, text: {array: text, keys: twice}}"
    stored = f"encoder={{type: precomputed, file: {tmp_path}/v.npz, space: s, vectors: {vectors}}}"
    done = run("run", "--set", stored, "--set", "decoders=null", tune="[{train: [decoder], steps: 1, stored: false}]")
    assert done.code == 1, done.err
    assert "tune.0.stored: the encoder 'precomputed' only looks up stored vectors" in done.err, done.err
    ragged = ("--plugin", SEQUENCES, "--set", "encoder=stripes", "--set", "decoders=null")
    for sets in (("stored: false", 1), ("stored: true", 0)):
        tune = f"[{{train: [decoder], steps: 1, {sets[0]}}}]"
        done = run("ragged", *ragged, "--set", "decoder.mapper=tokens", tune=tune)
        assert done.code == sets[1], done.err
        assert ("found raw" in done.err) == bool(sets[1]), done.err


def test_the_verb_embed_makes_what_is_there_before_tuning(call: Call, run: Any, taught: Path, tmp_path: Path) -> None:
    tune = "tune=[{train: [encoder], steps: 1}]"
    found = [call("embed", taught, "--plugin", TEACHER, "--json", *more) for more in ((), ("--set", tune))]
    assert found[0].json == found[1].json


def test_null_takes_tuning_away(run: Any, taught: Path) -> None:
    with taught.open("a", encoding="utf-8") as file:
        file.write("tune:\n- {train: [decoder], steps: 2}\n")
    assert run("tuned").code == 0
    plain = run("plain", tune="null")
    assert plain.code == 0, plain.err
    assert "tune" not in plain.err


def test_a_killed_tuning_ends_with_the_same_bytes(run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its second step, it goes on there, and both steps end as if nothing had been."""
    tune = "[{train: [decoder], steps: 6, lr: 1e-3}, {train: [encoder, decoder.mapper], steps: 6, lr: 1e-3}]"
    assert run("calm", tune=tune).code == 0
    saved, counted = StageFitting.checkpoint, {"tune 2": 0}

    def checkpoint(self: StageFitting, name: str, state: Any, *, force: bool = False) -> None:
        saved(self, name, state, force=True)
        if name in counted:
            counted[name] += 1
            if counted[name] == 3:
                raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(StageFitting, "checkpoint", checkpoint)
        stopped = run("killed", "--cache", str(tmp_path / "other"), tune=tune)
        assert stopped.code == 130
        done = run("killed", "--cache", str(tmp_path / "other"), tune=tune)
    assert done.code == 0, done.err
    assert "going on from step 3" in done.err
    for part in ("encoder", "decoder"):
        assert not changed(weights(tmp_path / "calm", part), weights(tmp_path / "killed", part))


def test_two_processes_tune_as_one_does(run: Any, taught: Path, tmp_path: Path) -> None:
    tune = "[{train: [decoder.mapper], steps: 2, batch_size: 7}, {train: [encoder, decoder], steps: 3, batch_size: 7}]"
    assert run("one", tune=tune).code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "modbridge", "run", taught]
    options = ["--plugin", TEACHER, "--plugin", TOY, "--cache", tmp_path / "two", "--out", tmp_path / "both"]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""}
    words = [str(word) for word in (*command, *options, "--set", f"tune={tune}")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300, env=quiet)
    assert done.returncode == 0, done.stderr
    for part, prefix, count in (("encoder", "net.", 2), ("decoder", "mapper.", 4)):
        one, both = weights(tmp_path / "one", part), weights(tmp_path / "both", part)
        compared = [name for name in one if name.startswith(prefix)]
        assert len(compared) == count
        for name in compared:
            torch.testing.assert_close(one[name], both[name], rtol=0, atol=1e-5)
