"""Audio captioning's metrics: known answers, formulas by hand, toy models of the real classes in the real layout."""

from __future__ import annotations

import csv
import gzip
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modbridge.config.blocks import validate_block
from modbridge.errors import DataError, SetupError
from modbridge.interfaces import Decoded, Metric, Reference, Score
from modbridge.plugins.manager import Plugins

PREDICTIONS = ["A dog barks.", "rain falls on a roof", "a man a man a man speaks"]
REFERENCES = [
    ["A dog is barking", "The dog barks!"],
    ["rain falls", "it rains on a roof"],
    ["a man is speaking", "man"],
]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover(environ={"MODBRIDGE_PLUGINS": "metrics"})


def build(plugins: Plugins, **block: Any) -> Metric[Any]:
    config = validate_block("metric", block, plugins.registry)
    metric = plugins.registry.get("metric", block["type"]).load_impl()(config)
    assert isinstance(metric, Metric)
    return metric


def score(metric: Metric[Any], predictions: list[str], references: list[list[str]]) -> dict[str, Score]:
    return metric.score(
        [Decoded(f"k{i}", text) for i, text in enumerate(predictions)],
        [Reference(f"k{i}", tuple(texts)) for i, texts in enumerate(references)],
    )


def test_configs_are_light() -> None:
    code = "import sys, modbridge_metrics.aac_config, modbridge_metrics.plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "aac_metrics", "huggingface_hub"} & set(loaded)


# --- CIDEr-D: known answers (shared data's README), of both codes


@pytest.mark.parametrize("name", ["cider", "cider_d"])
def test_cider_d_of_the_readme(plugins: Plugins, name: str) -> None:
    predictions = ["a man is speaking", "rain falls"]
    references = [
        ["a man speaks.", "someone speaks.", "a man is speaking while a bird is chirping in the background"],
        ["rain is falling hard on a surface"],
    ]
    found = score(build(plugins, type=name), predictions, references)[name]
    assert found.corpus == pytest.approx(0.9614, abs=5e-5)
    assert found.items == pytest.approx((1.3641, 0.5587), abs=5e-5)


@pytest.mark.parametrize("metric", ["cider", "cider_d"])
@pytest.mark.parametrize(("name", "answer"), [("example_1", 0.4017), ("example_2", 0.6343)])
def test_cider_d_of_real_captioners(
    plugins: Plugins, requires_data: Path, metric: str, name: str, answer: float
) -> None:
    with open(requires_data / "metrics" / "aac" / f"{name}.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    references = [[row[f"caption_{i}"] for i in range(1, 6)] for row in rows]
    built = build(plugins, type=metric, tokenizer="whitespace")
    found = score(built, [row["caption_predicted"] for row in rows], references)[metric]
    assert found.corpus == pytest.approx(answer, abs=5e-5)
    assert len(found.items) == len(rows)


@pytest.mark.parametrize("metric", ["cider", "cider_d"])
def test_cider_d_of_audiocaps(plugins: Plugins, requires_data: Path, metric: str) -> None:
    captions: dict[str, list[str]] = {}
    with gzip.open(requires_data / "captions" / "audiocaps_test.csv.gz", "rt", newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            words = re.findall("[a-z0-9']+", row["caption"].lower())  # the reading of "lower-cased and stripped"
            captions.setdefault(row["youtube_id"], []).append(" ".join(words))
    built = build(plugins, type=metric, tokenizer="whitespace")
    found = score(built, [c[0] for c in captions.values()], [c[1:] for c in captions.values()])[metric]
    assert found.corpus == pytest.approx(0.8981, abs=5e-5)


@pytest.mark.parametrize("name", ["cider_d", "vocab"])
def test_an_empty_prediction_and_bad_items(plugins: Plugins, name: str) -> None:
    metric = build(plugins, type=name)
    found = score(metric, ["", *PREDICTIONS[1:]], REFERENCES)[name]
    assert found.corpus is not None
    if found.items:
        assert found.items[0] == 0
    with pytest.raises(DataError, match="'k1' has no references"):
        score(metric, ["a", "b"], [["a"], []])


def test_one_item_has_no_cider_d(plugins: Plugins) -> None:
    found = score(build(plugins, type="cider_d"), ["a dog"], [["a dog"]])["cider_d"]
    assert (found.corpus, found.items) == (None, ())
    assert "at least two items" in found.note


def test_vocab_by_hand(plugins: Plugins) -> None:
    found = score(build(plugins, type="vocab"), ["a dog barks", "a dog"], [["a dog barks loudly now"], ["the dog"]])
    assert found["vocab"].corpus == 3
    assert found["vocab_ratio_full"].corpus == pytest.approx(3 / 6)
    assert found["vocab_ratio_avg"].corpus == pytest.approx(3 / 6)  # one reference an item: nothing to draw


# --- SPIDEr: the formula, with SPICE's numbers given (its program needs Java 8 to 14)


@pytest.fixture
def spice(monkeypatch: pytest.MonkeyPatch) -> None:
    from modbridge_metrics import aac_config, spice

    items = (0.2, math.nan, 0.4)
    monkeypatch.setattr(aac_config, "spice_lacking", lambda: None)
    monkeypatch.setattr(spice.Spice, "measure", lambda *_: {"spice": Score(0.3, items, note="without 1 of 3 items")})


def test_spider(plugins: Plugins, spice: None) -> None:
    cider = score(build(plugins, type="cider"), PREDICTIONS, REFERENCES)["cider"].items
    found = score(build(plugins, type="spider"), PREDICTIONS, REFERENCES)["spider"]
    first, third = (cider[0] + 0.2) / 2, (cider[2] + 0.4) / 2
    assert found.items[::2] == pytest.approx((first, third))
    assert math.isnan(found.items[1])
    assert found.corpus == pytest.approx((first + third) / 2)
    assert found.note == "without 1 of 3 items"
    assert "at least two" in score(build(plugins, type="spider"), ["a"], [["a"]])["spider"].note


# --- FENSE: toy weights of the real classes


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    texts = [*PREDICTIONS, *(text for texts in REFERENCES for text in texts)]
    words = sorted({w for text in texts for w in re.findall(r"\w+|[.!]", text.lower())})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(vocab=str(folder / "vocab.txt"), do_lower_case=True).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(vocab_size=5 + len(words), max_position_embeddings=64, **sizes)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def models(bert: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A Sentence-BERT folder, and a detector whose checkpoint has the published keys, old position_ids included.

    The detector's "error" is decided by hand: its bias is high and the first coordinate of the encoding weighs in.
    """
    import torch
    from aac_metrics.functional.fer import BERTFlatClassifier
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    folder = tmp_path_factory.mktemp("fense")
    transformer = Transformer(str(bert))
    SentenceTransformer(modules=[transformer, Pooling(16)], device="cpu").save(str(folder / "sbert"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        detector = BERTFlatClassifier(str(bert), 6)
        torch.nn.init.normal_(detector.clf.weight, std=8)
    state = {**detector.state_dict(), "encoder.embeddings.position_ids": torch.arange(64)[None]}
    path = folder / "toy.ckpt"
    torch.save({"model_type": str(bert), "num_classes": 6, "state_dict": state}, path)
    return {"sbert": str(folder / "sbert"), "echecker": str(path)}


def test_fense_is_fense_of_aac_metrics(plugins: Plugins, models: dict[str, str], bert: Path) -> None:
    import torch
    from aac_metrics.functional.fense import fense
    from aac_metrics.functional.fer import BERTFlatClassifier
    from sentence_transformers import SentenceTransformer

    held = torch.load(models["echecker"], weights_only=True)
    detector = BERTFlatClassifier(str(bert), 6)
    detector.load_state_dict({k: v for k, v in held["state_dict"].items() if not k.endswith("position_ids")})
    sentences = SentenceTransformer(models["sbert"], device="cpu")
    corpus, items = fense(PREDICTIONS, REFERENCES, sbert_model=sentences, echecker=detector.eval(), device="cpu")
    found = score(build(plugins, type="fense", **models), PREDICTIONS, REFERENCES)
    for column in ("fense", "sbert_sim", "fer"):
        assert found[column].corpus == pytest.approx(float(corpus[column]), abs=1e-6)
        assert found[column].items == pytest.approx(items[column].tolist(), abs=1e-6)
    assert [found[c].higher_is_better for c in found] == [True, True, False]
    # SBERT-sim by hand: the mean cosine to the references.
    vectors = sentences.encode([PREDICTIONS[0], *REFERENCES[0]], normalize_embeddings=True)
    assert found["sbert_sim"].items[0] == pytest.approx(float((vectors[1:] @ vectors[0]).mean()), abs=1e-5)


def test_the_penalty(plugins: Plugins, models: dict[str, str], monkeypatch: pytest.MonkeyPatch, spice: None) -> None:
    from modbridge_metrics import fense, spider

    for module in (fense, spider):
        monkeypatch.setattr(module, "errors_of", lambda *_: [1.0, 0.0, 0.0])
    found = score(build(plugins, type="fense", **models), PREDICTIONS, REFERENCES)
    similar = found["sbert_sim"].items
    assert found["fense"].items == pytest.approx((similar[0] * 0.1, similar[1], similar[2]))
    assert found["fer"].corpus == pytest.approx(1 / 3)
    plain = score(build(plugins, type="spider"), PREDICTIONS, REFERENCES)["spider"].items
    block = {"type": "spider_fl", "echecker": models["echecker"]}
    fluent = score(build(plugins, **block), PREDICTIONS, REFERENCES)["spider_fl"]
    assert fluent.items[::2] == pytest.approx((plain[0] * 0.1, plain[2]))
    assert fluent.corpus == pytest.approx((plain[0] * 0.1 + plain[2]) / 2)


def test_what_is_missing_is_said_and_nothing_is_fetched(
    plugins: Plugins, models: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    def refuse(*_: Any) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("FENSE_DATA", str(tmp_path))
    monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(tmp_path))
    metric = build(plugins, type="fense")
    reason = metric.config.missing()
    assert reason is not None
    assert "paraphrase-TinyBERT-L6-v2" in reason
    assert "aac-metrics-download" in reason
    assert score(metric, PREDICTIONS, REFERENCES) == {c: Score(None, note=reason) for c in metric.config.columns}
    reason = build(plugins, type="fense", sbert=models["sbert"]).config.missing()
    assert reason is not None
    assert str(tmp_path / "echecker_clotho_audiocaps_base.ckpt") in reason
    (tmp_path / "bad.ckpt").write_bytes(b"no checkpoint")
    bad = build(plugins, type="fense", sbert=models["sbert"], echecker=str(tmp_path / "bad.ckpt"))
    assert "no checkpoint of an error detector" in str(bad.config.missing())
    assert build(plugins, type="fense", **models).config.missing() is None


def test_a_detector_of_other_shapes(plugins: Plugins, models: dict[str, str], tmp_path: Path) -> None:
    import torch

    held = torch.load(models["echecker"], weights_only=True)
    held["state_dict"].pop("clf.bias")
    torch.save(held, tmp_path / "cut.ckpt")
    metric = build(plugins, type="fense", sbert=models["sbert"], echecker=str(tmp_path / "cut.ckpt"))
    with pytest.raises(SetupError, match=r"cut\.ckpt cannot be used"):
        score(metric, PREDICTIONS, REFERENCES)
