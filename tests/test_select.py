"""select: the decoder's weights are chosen by texts alone, or by pairs, which is said; or it is told what is amiss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session, StageFitting
from modbridge.interfaces import TextVectors
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.store.cache import Cache
from modbridge.talk import Talk

from .conftest import TOY, draw_world

Call = Callable[..., Any]

LM = "{n_layer: 1, n_head: 1, n_embd: 16}"
DECODER = (
    f"{{type: prefix_lm, lm: {LM}, tokenizer: words, prefix_length: 2, steps: 24, batch_size: 8, lr: 0.03, "
    f"generate: {{max_new_tokens: 6}}}}"
)
EPOCHS = [6, 12, 18, 24]  # 48 captions in batches of 8


@pytest.fixture
def judged(world: Path, tmp_path: Path) -> Path:
    """The tiny world with a decoder that can be judged, and six validation items."""
    draw_world(tmp_path / "world", 6, start=40)
    text = world.read_text().replace("{type: toy_recite, steps: 30}", DECODER)
    text = text.replace("bridge: mean_shift", "bridge: {type: c3, frame: text}")
    validation = '  validation: {type: jsonl, path: "${paths.data}/world40.jsonl", root: "${paths.data}/images"}\n'
    world.write_text(text.replace("encoder:", f"{validation}encoder:", 1))
    return world


def judgements(run: Path, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("select") == name and "value" in line]


def selection(run: Path) -> Any:
    (manifest,) = (run / "artefacts").glob("decoder-*/modbridge.json")
    return json.loads(manifest.read_text()).get("selection")


def decoders(cache: Path) -> set[str]:
    return {path.name for path in (cache / "fit_decoder").iterdir()}


# --- by text


def test_weights_are_chosen_by_validation_captions_and_no_medium(call: Call, judged: Path, tmp_path: Path) -> None:
    for number in range(40, 46):  # whoever looked at one of them would stumble
        (tmp_path / "world" / "images" / f"{number:03d}.png").write_bytes(b"no image")
    result = call("run", judged, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert row["select"] == "text_loss"
    assert row["needs"] == ["source", "text"]
    lines = judgements(tmp_path / "run", "text_loss")
    assert [line["step"] for line in lines] == EPOCHS
    best = min(lines, key=lambda line: line["value"])
    assert lines[-1]["best_step"] == best["step"]
    assert selection(tmp_path / "run") == {
        "by": "text_loss",
        "value": best["value"],
        "step": best["step"],
        "pairs": False,
    }
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert set(record["fingerprints"]) == {"train", "validation", "test"}
    assert record["needs"] == {"toy": ["source", "text"]}


@pytest.mark.parametrize("items", [None, 2])
def test_the_value_is_the_loss_of_the_kept_weights_under_noise_that_stays(
    judged: Path, tmp_path: Path, items: int | None
) -> None:
    plugins = Plugins.discover([TOY])
    experiment = load_experiment(
        judged, plugins.registry, sets=[f"select.items={json.dumps(items)}", "select.every=0.5"]
    )
    cell, session = experiment.first, Session(plugins, Cache(tmp_path / "cache"), Talk(quiet=True))
    found = fitted_decoder(session, cell)
    said = json.loads((found.folder / "modbridge.json").read_text())["selection"]
    logged = [json.loads(line) for line in (found.folder / "training.jsonl").read_text().splitlines()]
    values = {line["step"]: line["value"] for line in logged if line.get("select") == "text_loss"}
    assert list(values) == list(range(3, 25, 3))  # twice an epoch
    assert said["value"] == min(values.values())

    text = embeddings(session, cell, "validation", "text")
    bridge = fitted_bridge(session, cell, cell.config.bridge).bridge
    captions = [
        f"a {colour} picture" if number == "0" else f"it is all {colour}" for colour, number in named(text.keys)
    ]

    def loss(rows: list[int], epoch: int) -> float:
        part = text.select(rows)
        noisy = bridge.augment(part, cell.config.seed, epoch).values.clone()
        vectors = TextVectors(part, lambda which, _: noisy[list(which)])
        return found.decoder.text_loss(vectors, [captions[i] for i in rows])

    sizes = range(0, len(text), 2)  # both captions of an item stand together
    if items is None:
        assert loss(list(range(len(text))), 0) == pytest.approx(said["value"], rel=1e-5)
        assert loss(list(range(len(text))), 1) != pytest.approx(said["value"], rel=1e-5)  # other noise
    else:
        pairs = [loss([i, i + 1, j, j + 1], 0) for i in sizes for j in sizes if i < j]
        assert sum(value == pytest.approx(said["value"], rel=1e-5) for value in pairs) == 1


def named(keys: tuple[str, ...]) -> list[tuple[str, str]]:
    """(colour, number of the caption) of text keys like "040#1"."""
    return [(("red", "green", "blue")[int(key.split("#")[0]) % 3], key.split("#")[1]) for key in keys]


def test_only_what_the_choice_rests_on_is_in_the_key(call: Call, judged: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def fits(*sets: str) -> int:
        """How many decoders are new under these settings."""
        before = decoders(cache) if (cache / "fit_decoder").is_dir() else set()
        result = call("run", judged, "--until", "fit_decoder", *[part for text in sets for part in ("--set", text)])
        assert result.code == 0, result.err
        return len(decoders(cache) - before)

    assert fits("data.validation=null") == 1
    assert fits("select.by=last") == 0  # the same weights
    assert fits("select.by=last", "select.every=3") == 0
    assert fits() == 1
    assert fits("select.by=text_loss") == 0  # the default where validation items are given
    assert fits("metrics=[bleu]", "decoder.generate.num_beams=2") == 0
    assert fits("select.every=2") == 1
    assert fits("select.items=3") == 1
    path = tmp_path / "world" / "world40.jsonl"
    path.write_text(path.read_text().replace("a red picture", "a picture in red"))
    assert fits() == 1
    assert fits("select.by=last") == 0


# --- by pairs


def test_a_metric_takes_pairs_and_every_row_says_so(call: Call, judged: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = call(
        "run", judged, "--out", run, "--json", "--set", "select.by=bleu_1", "--vary", "evaluate.input=source,text"
    )
    assert result.code == 0, result.err
    for row in result.json["rows"]:
        assert "pairs (selection)" in row["needs"]
        assert row["select"] == "bleu_1"
        assert "it takes pairs" in row["notes"]["select"]
    assert "by bleu_1, on validation media with their captions: it takes pairs" in (run / "table.md").read_text()
    assert all("pairs (selection)" in needs for needs in json.loads((run / "run.json").read_text())["needs"].values())
    lines = judgements(run, "bleu_1")
    assert [line["step"] for line in lines] == EPOCHS * 2  # one decoder read bridged media, the other texts
    for part in (lines[:4], lines[4:]):
        values = [line["value"] for line in part]
        assert 0 <= min(values) < max(values) <= 1
        assert part[-1]["best_step"] == EPOCHS[values.index(max(values))]


def test_by_a_metric_the_bridge_the_search_and_the_media_count(call: Call, judged: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    both = ["--set", "select.by=bleu_1", "--set", "augment={type: c3, frame: text}"]

    def fits(*more: str) -> int:
        before = decoders(cache) if (cache / "fit_decoder").is_dir() else set()
        result = call("run", judged, "--until", "fit_decoder", *both, *more)
        assert result.code == 0, result.err
        return len(decoders(cache) - before)

    assert fits() == 1
    assert fits("--set", "metrics=[cider]") == 0
    assert fits("--set", "bridge=identity") == 1
    assert fits("--set", "decoder.generate.num_beams=2") == 1
    (tmp_path / "world" / "images" / "041.png").write_bytes(b"no image")
    broken = call("run", judged, "--until", "fit_decoder", *both)
    assert broken.code == 1
    assert "'041'" in broken.err


def test_variants_that_choose_differently_are_told_apart(call: Call, judged: Path, tmp_path: Path) -> None:
    result = call("run", judged, "--out", tmp_path / "run", "--vary", "select.by=last,text_loss")
    assert result.code == 0, result.err
    heading, *rows = result.out.splitlines()
    assert "select" in heading
    assert ["last" in rows[0], "text_loss" in rows[1]] == [True, True]


# --- what is refused, before any work


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["select.by=text_loss", "data.validation=null"], ["select.by", "data.validation is missing", "by: last"]),
        (["select.by=cider", "data.validation=null"], ["select.by", "data.validation is missing"]),
        (["select.by=meteer"], ["select.by", "no such metric: 'meteer'", "did you mean 'meteor'?"]),
        (["select.by=lats"], ["did you mean 'last'?"]),
        (["select.by=bleu"], ["'bleu' fills several columns", "bleu_4"]),
        (["decoder=toy_recite"], ["select", "'toy_recite' cannot be judged while it trains", "by: last"]),
        (["decoder=toy_recite", "select.by=cider"], ["'toy_recite' cannot be judged while it trains"]),
        (["select.every=0"], ["select.every", "greater than 0"]),
    ],
)
def test_a_choice_that_cannot_be_made(
    call: Call, judged: Path, tmp_path: Path, sets: list[str], told: list[str]
) -> None:
    result = call("run", judged, "--out", tmp_path / "run", *[part for text in sets for part in ("--set", text)])
    assert result.code == 1
    assert all(text in result.err for text in told), result.err
    assert not (tmp_path / "cache").exists()


def test_a_metric_without_its_java(call: Call, judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("JAVA_HOME", raising=False)
    result = call("run", judged, "--out", tmp_path / "run", "--set", "select.by=meteor")
    assert result.code == 1
    assert "select.by: 'meteor' cannot be computed here" in result.err
    assert "Java" in result.err
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("split", ["test", "train"])
def test_validation_items_that_are_no_validation(call: Call, judged: Path, split: str) -> None:
    number = {"train": 0, "test": 24}[split]
    judged.write_text(judged.read_text().replace("world40", f"world{number}"))
    result = call("check", judged)
    assert result.code == 1
    assert f"data.validation: is the very source of data.{split}" in result.err
    assert call("check", judged, "--set", "select.by=last").code == 0


def test_a_decoder_that_forgets_the_judge(call: Call, judged: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "forgetful.py"
    plugin.write_text(
        """\
from modbridge.config.kinds import DecoderConfig
from modbridge.interfaces import Decoded, Decoder
from modbridge.plugins import ComponentSpec, hookimpl


class Config(DecoderConfig):
    pass


class Forgetful(Decoder[Config]):
    def fit(self, vectors, targets, fitting):
        pass

    def text_loss(self, vectors, targets):
        return 1.0

    def decode_batch(self, bridged, source, keys, seed):
        return [Decoded(key, "a") for key in keys]


@hookimpl
def modbridge_components(register):
    parts = {"config": "modbridge_file_forgetful:Config", "impl": "modbridge_file_forgetful:Forgetful"}
    register(ComponentSpec(kind="decoder", name="forgetful", summary="", **parts))
"""
    )
    options = ("--plugin", plugin, "--set", "decoder=forgetful")
    result = call("run", judged, *options)
    assert result.code == 3
    assert "'forgetful' was to be selected by text_loss" in result.err
    assert "fitting.judge" in result.err
    assert call("run", judged, *options, "--set", "select.by=last").code == 0


# --- interrupted


@pytest.mark.parametrize("by", ["text_loss", "bleu_1"])
def test_an_interrupted_choice_goes_on_to_the_same_files(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    plugins = Plugins.discover([TOY])
    cell = load_experiment(judged, plugins.registry, sets=[f"select.by={by}"]).first

    def fit(cache: str) -> dict[str, bytes]:
        session = Session(plugins, Cache(tmp_path / cache), Talk(quiet=True), checkpoint_seconds=0)
        folder = fitted_decoder(session, cell).folder
        return {path.name: path.read_bytes() for path in folder.iterdir()}

    calm = fit("calm")
    whole, left = StageFitting.checkpoint, iter(range(16))

    def stop(self: StageFitting, *given: Any, **more: Any) -> None:
        whole(self, *given, **more)
        if next(left, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr(StageFitting, "checkpoint", stop)
    with pytest.raises(KeyboardInterrupt):
        fit("broken")
    monkeypatch.setattr(StageFitting, "checkpoint", whole)
    assert list((tmp_path / "broken" / "work").rglob("checkpoint-*"))
    assert fit("broken") == calm
    assert {"model.safetensors", "training.jsonl", "modbridge.json"} <= calm.keys()


def test_validation_items_that_are_test_items_are_refused(call: Call, judged: Path, tmp_path: Path) -> None:
    path = f"{tmp_path}/world/../world/world24.jsonl"  # the test file by another name, in part
    result = call("run", judged, "--set", f"data.validation.path={path}", "--set", "data.validation.limit=5")
    assert result.code == 1
    assert "5 of 5 items of data.validation are items of data.test too" in result.err
