"""Diffusion Bridge + ViECap: every real-size config holds, says ViECap's recipe and figures, and runs in small.

All runs share one cache: one encoder, one prior, and for each bridge two language models, with and without entities.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modbridge.assembly.experiment import Experiment, load_experiment
from modbridge.config.pipeline import dump
from modbridge.plugins.manager import Plugins

CONFIGS = Path(__file__).parents[1] / "configs"
FOLDER = CONFIGS / "combined"
BRIDGES = ("none", "capdec", "decap", "diffusion_bridge")
ENTITIES = ("none", "raw", "bridged", "mix", "oracle", "random")
ROWS = [f"{bridge}/{entities}" for bridge in BRIDGES for entities in ENTITIES]
MASKS = {"mask_0": 0.0, "mask_0.2": 0.2, "mask_0.4": 0.4, "mask_0.6": 0.6}

# name: paths to be given; vocabulary, threshold, beams and epochs of the authors' scripts.
RECIPES = {
    "base": (["coco", "vinvl"], "coco", 0.4, 5, 15),
    "coco": (["coco", "vinvl"], "coco", 0.4, 5, 15),
    "flickr30k": (["vinvl", "flickr30k"], "vinvl", 0.3, 1, 30),
    "coco_to_flickr30k": (["coco", "vinvl", "flickr30k"], "vinvl", 0.2, 1, 15),
    "flickr30k_to_coco": (["coco", "vinvl", "flickr30k"], "coco", 0.2, 1, 30),
    "coco_to_nocaps": (["coco", "vinvl", "nocaps"], "vinvl", 0.2, 5, 15),
}
RUNS = tuple(name for name in RECIPES if name != "base")

# ViECap's README as printed there, in percent; "-": not given. Typed from the tables, not from the configs.
TABLES = {
    "coco": """
        row        bleu_4 meteor cider spice
        capdec/raw   27.2   24.8  92.9  18.2
        MAGIC           -      -  49.3     -
        DeCap           -      -  91.2     -
        CapDec          -      -  91.8     -""",
    "flickr30k": """
        row        bleu_4 meteor cider spice
        capdec/raw   21.4   20.1  47.9  13.6
        MAGIC           -      -  20.4     -
        DeCap           -      -  56.7     -
        CapDec          -      -  39.1     -""",
    "coco_to_flickr30k": """
        row        bleu_4 meteor cider spice
        capdec/raw   17.4   18.0  38.4  11.2
        MAGIC           -      -  17.5     -
        DeCap           -      -  35.7     -
        CapDec          -      -  35.7     -""",
    "flickr30k_to_coco": """
        row        bleu_4 meteor cider spice
        capdec/raw   12.6   19.3  54.2  12.5
        MAGIC           -      -  18.3     -
        DeCap           -      -  44.4     -
        CapDec          -      -  27.3     -""",
    "coco_to_nocaps": """
        row        cider spice
        capdec/raw  66.2   9.5
        DeCap       45.9     -
        CapDec      45.9     -""",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all runs of this file."""
    return tmp_path_factory.mktemp("combined")


def load(name: str, profile: str | None = None, folder: Path = FOLDER) -> Experiment:
    return load_experiment(folder / f"{name}.yaml", Plugins.discover(environ={}).registry, profile=profile)


def settings(experiment: Experiment, row: str) -> dict[str, Any]:
    (cell,) = [cell for cell in experiment.cells if cell.label == row]
    found: dict[str, Any] = dump(cell.config)
    return found


def printed(table: str) -> dict[str, dict[str, float]]:
    """A table as it was typed: {row: {column: percent}}."""
    head, *lines = [line.split() for line in table.strip().splitlines()]
    return {
        name: {column: float(value) for column, value in zip(head[1:], values, strict=True) if value != "-"}
        for name, *values in lines
    }


# --- what the configs say


@pytest.mark.parametrize("profile", [None, "smoke"])
@pytest.mark.parametrize("name", RECIPES)
def test_checks(name: str, profile: str | None) -> None:
    experiment = load(name, profile)
    assert experiment.to_be_given == ([] if profile else [f"paths.{path}" for path in RECIPES[name][0]])
    assert [cell.label for cell in experiment.cells] == ROWS
    assert not any(cell.config.selects_with_pairs for cell in experiment.cells)
    reported = experiment.first.config.reported
    assert reported is None or reported.comparable == (profile is None)


@pytest.mark.parametrize("name", RUNS)
def test_the_papers_figures(name: str) -> None:
    reported = load(name).first.config.reported
    assert reported is not None
    assert "ViECap (ICCV 2023)" in reported.source
    expected = printed(TABLES[name])
    assert {row: set(figures) for row, figures in reported.rows.items()} == {row: set(f) for row, f in expected.items()}
    for row, figures in reported.rows.items():
        for column, value in figures.items():
            assert math.isclose(100 * value, expected[row][column], abs_tol=1e-9), (row, column)


@pytest.mark.parametrize("name", RECIPES)
def test_the_authors_settings(name: str) -> None:
    """Sections 1.3 to 1.7 of the fact sheet, read from the authors' code; `capdec/raw` is ViECap."""
    _, vocabulary, threshold, beams, epochs = RECIPES[name]
    config = settings(load(name), "capdec/raw")
    decoder, writer = config["decoder"], config["decoder"]["writer"]
    assert decoder["layout"] == "soft_first"
    assert (decoder["prompt"]["joiner"], decoder["prompt"]["empty"]) == (", ", "something")
    assert (decoder["vocabulary"]["type"], decoder["training_vocabulary"]["type"]) == (vocabulary, "vinvl")
    entities, retrieval = decoder["entities"], decoder["retrieval"]
    assert (entities["mask"], entities["most"]) == (0.4, 10)
    assert all(entities[name] for name in ("people", "stop_words", "in_vocabulary"))
    assert (retrieval["type"], retrieval["source"], retrieval["standardise"]) == ("softmax", "raw", False)
    assert (retrieval["temperature"], retrieval["threshold"], retrieval["top_k"]) == (0.01, threshold, 3)
    mapper = writer["mapper"]
    assert (mapper["type"], mapper["project_length"], mapper["layers"], mapper["heads"]) == ("transformer", 10, 8, 8)
    assert (mapper["ratio"], writer["prefix_length"]) == (2.0, 10)
    assert (writer["train_lm"], writer["end_of_sentence"], writer["max_tokens"]) == ("full", "authors", None)
    assert (writer["epochs"], writer["batch_size"], writer["lr"], writer["weight_decay"]) == (epochs, 80, 2e-5, 0.0)
    assert (writer["warmup"], writer["schedule"], writer["clip"]) == (5000, "linear", None)
    generate = writer["generate"]
    assert (generate["num_beams"], generate["max_new_tokens"], generate["stop"]) == (beams, 64, ".")
    assert config["bridge"]["type"] == "capdec"
    assert config["bridge"]["noise_std"] ** 2 == pytest.approx(0.016)
    assert (config["augment"], config["augment_draws"], config["select"]["by"]) == (None, "fresh", "last")


@pytest.mark.parametrize("name", ["coco", "flickr30k", "coco_to_flickr30k", "flickr30k_to_coco"])
def test_data_encoder_and_bridge_are_those_of_diffusion_bridge(name: str) -> None:
    ours = settings(load(name), "diffusion_bridge/raw")
    theirs = dump(load(name, folder=CONFIGS / "diffusion_bridge").first.config)
    for part in ("data", "encoder", "bridge"):
        assert ours[part] == theirs[part], part


@pytest.mark.parametrize("name", RECIPES)
def test_rows_differ_in_bridge_and_entities_alone(name: str) -> None:
    experiment = load(name)
    kinds = {"none": "identity", "capdec": "capdec", "decap": "memory", "diffusion_bridge": "diffusion_bridge"}
    for row in ROWS:
        bridge, entities = row.split("/")
        config, raw = settings(experiment, row), settings(experiment, "diffusion_bridge/raw")
        assert config["bridge"]["type"] == kinds[bridge]
        retrieval = config["decoder"].pop("retrieval")
        if entities == "none":
            assert config["decoder"]["layout"] == "soft_only"
        else:
            found = retrieval["source"] if retrieval["type"] == "softmax" else retrieval["type"]
            assert found == entities
            raw["decoder"].pop("retrieval")
            assert config["decoder"] == raw["decoder"]
        assert {k: v for k, v in config.items() if k not in ("bridge", "decoder")} == {
            k: v for k, v in raw.items() if k not in ("bridge", "decoder")
        }


def test_entities_are_judged_by_the_vocabulary_that_is_looked_for() -> None:
    for name in RECIPES:
        config = dump(load(name).first.config)
        metrics = {metric["type"]: metric for metric in config["metrics"]}
        assert metrics["entities"]["vocabulary"] == config["decoder"]["vocabulary"]
        assert metrics["chair"]["vocabulary"]["type"] == "coco"


def test_masking_changes_the_mask_alone() -> None:
    experiment, demo = load("masking"), settings(load("demo"), "diffusion_bridge/raw")
    assert [cell.label for cell in experiment.cells] == list(MASKS)
    for row, mask in MASKS.items():
        config = settings(experiment, row)
        assert config["decoder"]["entities"].pop("mask") == mask
        for part in ("data", "encoder", "bridge", "augment", "decoder", "metrics"):
            expected = demo[part]
            if part == "decoder":
                expected = {**expected, "entities": {k: v for k, v in expected["entities"].items() if k != "mask"}}
            assert config[part] == expected, part


# --- what they give, in small


def test_the_whole_grid_in_small(call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    smoke = ("--profile", "smoke", "--cache", cache, "--out", out)
    done = call("run", FOLDER / "coco_to_flickr30k.yaml", *smoke, toy=False)
    assert done.code == 0, done.err
    written = json.loads((out / "table.json").read_text("utf-8"))
    assert [row["cell"] for row in written["rows"]] == ROWS
    assert set(written["reported"]["rows"]) == {"capdec/raw", "MAGIC", "DeCap", "CapDec"}
    for row in written["rows"]:
        entities = row["cell"].split("/")[1]
        assert all(math.isfinite(row[column]) for column in ("cider", "bleu_4", "chair_s", "object_recall"))
        if entities == "none":
            assert row["entity_recall"] is None
        else:
            assert 0.0 <= row["entity_recall"] <= 1.0
        if entities == "oracle":
            assert row["entity_precision"] == row["entity_recall"] == 1.0
    # Names by raw vectors, and drawn ones, have nothing to do with the bridge.
    for entities in ("raw", "random"):
        assert len({row["entity_recall"] for row in written["rows"] if row["cell"].endswith(f"/{entities}")}) == 1
    for text in (done.out, (out / "table.md").read_text("utf-8"), (out / "report.html").read_text("utf-8")):
        assert "ViECap (ICCV 2023)" in text
        assert "toy world" in text
        assert "not measured here" in text
    # All ways to find entities share one language model a bridge, and none of them is trained for `retrieval`.
    found = {stage: len(list((cache / stage).iterdir())) for stage in ("fit_encoder", "fit_prior", "fit_decoder")}
    assert found == {"fit_encoder": 1, "fit_prior": 1, "fit_decoder": 2 * 2 * len(BRIDGES)}


@pytest.mark.parametrize("name", [name for name in RUNS if name != "coco_to_flickr30k"])
def test_compares_in_small(name: str, call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    smoke = ("--profile", "smoke", "--cache", cache, "--out", tmp_path / "compared", "--no-cost")
    rows = ("--rows", "diffusion_bridge/raw", "--rows", "diffusion_bridge/mix")
    done = call("compare", FOLDER / f"{name}.yaml", *smoke, *rows, "--json", toy=False)
    assert done.code == 0, done.err
    assert {row["row"] for row in done.json["rows"]} == {
        "diffusion_bridge/none", "diffusion_bridge/raw", "diffusion_bridge/mix",
    }  # fmt: skip
    assert all(math.isfinite(row["cider"]) for row in done.json["rows"])


def test_bridged_vectors_may_be_brought_back_among_texts(call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    """The other way to join the two spaces: the decoder then lives where ViECap's does."""
    config = FOLDER / "coco.yaml"
    checked = call("check", config, "--profile", "smoke", "--set", "bridge.frame=text", toy=False)
    assert "-> raw 64-d image vectors" in checked.out.split("diffusion_bridge/raw:")[1].splitlines()[1]
    smoke = ("--profile", "smoke", "--cache", cache, "--out", tmp_path / "compared", "--no-cost")
    done = call(
        "compare", config, *smoke, "--set", "bridge.frame=text", "--rows", "diffusion_bridge/mix", "--json", toy=False
    )
    assert done.code == 0, done.err
    assert {row["row"] for row in done.json["rows"]} == {"diffusion_bridge/none", "diffusion_bridge/mix"}


def test_a_ready_made_writer_serves_every_bridge(call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    """As with the authors' checkpoint: it learnt on raw texts, and no language model is trained any more."""
    alone = tmp_path / "alone.yaml"
    text = "name: alone\nmain: alone\ngrid: null\nvariants: {alone: {bridge: identity}}\n"
    alone.write_text(f"extends: {FOLDER / 'coco.yaml'}\n{text}", "utf-8")
    smoke = ("--profile", "smoke", "--cache", cache)
    run = tmp_path / "run"
    done = call("run", alone, *smoke, "--out", run, toy=False)
    assert done.code == 0, done.err
    (writer,) = (run / "artefacts").glob("decoder-*/writer")
    before = len(list((cache / "fit_decoder").iterdir()))
    given = ("--set", f"decoder.writer.weights={writer}", "--set", "bridge.frame=text", "--baseline", "none/raw")
    done = call(
        "compare", FOLDER / "coco.yaml", *smoke, *given, "--rows", "*/raw", "--out", tmp_path / "compared",
        "--no-cost", "--json", toy=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    rows = {row["row"]: row for row in done.json["rows"]}
    assert set(rows) == {f"{bridge}/raw" for bridge in BRIDGES}
    assert rows["none/raw"]["cider"] == json.loads((run / "table.json").read_text("utf-8"))["rows"][0]["cider"]
    assert len(list((cache / "fit_decoder").iterdir())) == before + len(BRIDGES)  # vocabularies, no language model


def test_masking_in_small(call: Callable[..., Any], tmp_path: Path) -> None:
    done = call(
        "compare", FOLDER / "masking.yaml", "--profile", "smoke", "--seeds", "0,", "--rows", "mask_0", "--no-cost",
        "--cache", tmp_path / "cache", "--out", tmp_path / "compared", "--json", toy=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert {row["row"] for row in done.json["rows"]} == {"mask_0", "mask_0.4"}


# --- files of the real layouts, at a small size

SIZES = """\
extends: {config}
encoder:
  type: open_clip
  model:
    embed_dim: 32
    vision_cfg: {{image_size: 32, layers: [1, 1, 1, 1], width: 8, head_width: 8}}
    text_cfg: {{context_length: 20, width: 16, heads: 2, layers: 1}}
  tokenizer: {{type: words}}
  train: {{epochs: 2, batch_size: 12, lr: 2e-3, warmup: 1, logit_scale: 20}}
bridge:
  prior: {{denoiser: {{init_dim: 4}}, steps: 10, batch_size: 8}}
decoder:
  writer:
    lm: {lm}
    mapper: {{type: transformer, project_length: 2, layers: 1, heads: 2}}
    prefix_length: 2
    epochs: 2
    batch_size: 8
"""
THINGS = ("dog", "cat", "car", "umbrella", "traffic light", "kite")


def photographs(folder: Path, names: list[str]) -> None:
    (folder / "images").mkdir(parents=True)
    for number, name in enumerate(names):
        Image.new("RGB", (16, 16), (30 * (number % 6) + 20, 200 - 20 * (number % 6), 90)).save(folder / "images" / name)


def said_of(number: int) -> list[str]:
    thing = THINGS[number % 6]
    return [f"A woman near a {thing}.", f"The {thing} and a man."]


def karpathy(folder: Path, dataset: str, splits: dict[str, int]) -> None:
    """A file of Karpathy's splits, with its pictures."""
    chosen = [split for split, count in splits.items() for _ in range(count)]
    names = [f"{dataset}_{number:03d}.png" for number in range(len(chosen))]
    photographs(folder, names)
    images = [
        {"filename": name, "split": split, "sentences": [{"raw": text} for text in said_of(number)]}
        for number, (name, split) in enumerate(zip(names, chosen, strict=True))
    ]
    (folder / f"dataset_{dataset}.json").write_text(json.dumps({"dataset": dataset, "images": images}), "utf-8")


def nocaps(folder: Path) -> None:
    """NoCaps' file is in COCO's own layout."""
    names = [f"{number:016x}.png" for number in range(6)]
    photographs(folder, names)
    images = [{"id": i, "file_name": name, "domain": "in-domain"} for i, name in enumerate(names)]
    texts = [(i, text) for i in range(6) for text in said_of(i)]
    annotations = [{"id": n, "image_id": i, "caption": text} for n, (i, text) in enumerate(texts)]
    (folder / "nocaps_val_4500_captions.json").write_text(json.dumps({"images": images, "annotations": annotations}))


def language_model(folder: Path) -> Path:
    """A GPT-2 of random weights, with a tokenizer of words."""
    words = "! There are in image . , something A The a and near woman man person"
    known = [*words.split(), *(word for thing in THINGS for word in thing.split()), "<|endoftext|>"]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    shape: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 128}
    ends: dict[str, Any] = {"bos_token_id": len(known) - 1, "eos_token_id": len(known) - 1}
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=len(known), **shape, **ends)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with COCO, Flickr30k, NoCaps, VinVL's list and GPT-2, in their layouts."""
    folder = tmp_path_factory.mktemp("real")
    karpathy(folder / "coco", "coco", {"train": 18, "restval": 6, "val": 6, "test": 6})
    karpathy(folder / "flickr30k", "flickr30k", {"train": 24, "val": 6, "test": 6})
    nocaps(folder / "nocaps")
    (folder / "vinvl").mkdir()
    names = {name: n for n, name in enumerate([*THINGS, "man", "woman", "person", "light"])}
    (folder / "vinvl" / "vgcocooiobjects_v1_class2ind.json").write_text(json.dumps(names), "utf-8")
    language_model(folder / "gpt2")
    return folder


@pytest.mark.parametrize("name", ["coco_to_flickr30k", "flickr30k_to_coco", "coco_to_nocaps"])
def test_runs_on_files_of_the_real_layouts(name: str, real: Path, call: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing but sizes and the encoder is changed: vocabularies, thresholds, search and metrics are the config's."""
    config = tmp_path / "small.yaml"
    config.write_text(SIZES.format(config=FOLDER / f"{name}.yaml", lm=real / "gpt2"), "utf-8")
    given = [word for path in RECIPES[name][0] for word in ("--set", f"paths.{path}={real / path}")]
    plain = {0: "cider", 1: "bleu", 2: "vocab", 3: "rouge_l"}  # those that need no Java
    metrics = [word for n, metric in plain.items() for word in ("--set", f"metrics.{n}={metric}")]
    rows = ("--rows", "capdec/raw", "--rows", "diffusion_bridge/raw", "--rows", "diffusion_bridge/oracle")
    out = tmp_path / "compared"
    done = call(
        "compare", config, *given, *metrics, *rows, "--cache", real / "cache", "--out", out, "--no-cost", "--json",
        toy=False,
    )  # fmt: skip
    assert done.code == 0, done.err
    table = {row["row"]: row for row in done.json["rows"]}
    assert set(table) == {"capdec/raw", "diffusion_bridge/none", "diffusion_bridge/raw", "diffusion_bridge/oracle"}
    # Every item's captions say a thing, a man and a woman; the oracle names the thing and a person. That is all in
    # COCO's list, where men and women are persons; in VinVL's they stand apart, and a person is neither.
    oracle = table["diffusion_bridge/oracle"]
    expected = (1.0, 1.0) if RECIPES[name][1] == "coco" else (1 / 2, 1 / 3)
    assert (oracle["entity_precision"], oracle["entity_recall"]) == pytest.approx(expected)
    assert all(math.isfinite(row["cider"]) for row in table.values())
