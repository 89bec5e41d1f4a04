"""The entity-prompt decoder in whole runs, by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modbridge_viecap.decoder import ViecapDecoder
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

import modbridge
from modbridge.errors import DataError
from modbridge.plugins.manager import Plugins
from modbridge.stages import generate

Call = Callable[..., Any]
NAMES = ["red", "green", "blue", "purple"]
WORDS = "There are in image . , a picture it is all something red green blue purple yellow <end>"
TOY = Path(__file__).parents[3] / "tests" / "toy_plugin.py"


def opened(run: Path, **more: Any) -> Any:
    return modbridge.load(run, plugins=Plugins.discover(files=[TOY]), **more)


def stages(cache: Path, stage: str) -> set[str]:
    """The results of a stage."""
    return {path.name for path in (cache / stage).iterdir() if not path.name.startswith(".")}


def types(cache: Path) -> dict[str, str]:
    """The type of every fitted decoder."""
    found = {key: cache / "fit_decoder" / key / "modbridge.json" for key in stages(cache, "fit_decoder")}
    return {key: json.loads(path.read_text(encoding="utf-8"))["type"] for key, path in found.items()}


def predictions(folder: Path) -> list[dict[str, Any]]:
    """What a run wrote, or the only stage `generate` of a cache, which keeps details too."""
    (path,) = (
        folder.glob("generate/*/predictions.jsonl")
        if (folder / "generate").is_dir()
        else [folder / "predictions.jsonl"]
    )
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_from_run_to_caption(call: Call, world: Path, tmp_path: Path) -> None:
    """What is found is ViECap's softmax, here by numpy; the command line, the report and Python say the same."""
    run, images = tmp_path / "run", sorted((tmp_path / "world" / "images").glob("*.png"))[18:]
    assert call("run", world, "--out", run, "--json", "--set", "decoder.writer.steps=150").code == 0
    pipeline = opened(run)
    raw = pipeline.encode(images).values.double().numpy()
    names = np.stack([pipeline.encoder.encode([f"art of the {name}."], "text").values[0] for name in NAMES])
    cosines = raw @ names.astype(float).T / np.linalg.norm(raw, axis=1, keepdims=True)
    shares = np.exp(cosines / 0.2) / np.exp(cosines / 0.2).sum(1, keepdims=True)

    shown = call("caption", "--run", run, "--explain", *images).out.splitlines()
    told = call("caption", "--run", run, "--explain", "--json", *images).json["rows"]
    bare = call("caption", "--run", run, *images).out.splitlines()
    kept = predictions(tmp_path / "cache")
    decoded = pipeline.decode(images)
    for i, row in enumerate(shares):
        colour = ("red", "green", "blue")[i % 3]
        caption, entities, prompt = shown[5 * i : 5 * i + 3]
        best = (-row).argsort()[:3]
        assert prompt == f"  prompt       'There are {colour} in image.'"
        marks = [f"{NAMES[j]} {row[j]:.3f}{'' if row[j] >= 0.5 else ' (left out)'}" for j in best]
        assert entities == f"  entities     {', '.join(marks)}"
        assert caption == bare[i] == told[i]["caption"] == decoded[i].text == kept[i]["text"]
        assert told[i]["details"] == dict(decoded[i].details) == kept[i]["details"]
        assert [one["name"] for one in told[i]["details"]["entities"]] == [NAMES[j] for j in best]
        assert [one["score"] for one in told[i]["details"]["entities"]] == pytest.approx(row[best], abs=1e-6)
        assert [one["kept"] for one in told[i]["details"]["entities"]] == [True, False, False]
        assert colour in caption  # it learnt to say what the prompt names
    assert f"<mark>red {shares[0].max():.2f}</mark>" in (run / "report.html").read_text(encoding="utf-8")


def save_lm(folder: Path) -> Path:
    """A tiny pretrained language model, which knows its words already."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS.split())}, unk_token="<end>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=backend, eos_token="<end>")
    tokenizer.save_pretrained(folder)
    end, size = tokenizer.eos_token_id, len(WORDS.split())
    shape = GPT2Config(
        vocab_size=size, n_positions=48, n_embd=16, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(shape).save_pretrained(folder)
    return folder


def test_the_writer_is_trained_once(call: Call, world: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    lm = [
        f"--set=decoder.writer.lm={save_lm(tmp_path / 'lm')}",
        "--set=decoder.writer.tokenizer=null",
        "--set=decoder.writer.steps=4",
    ]

    def ran(*sets: str) -> tuple[int, int]:
        """How many writers, and how many other decoders, a run fits anew."""
        before = types(cache) if (cache / "fit_decoder").is_dir() else {}
        result = call("run", world, *lm, "--until", "generate", *(f"--set={text}" for text in sets))
        assert result.code == 0, result.err
        new = [kind for key, kind in types(cache).items() if key not in before]
        return new.count("prefix_lm"), new.count("viecap")

    assert ran() == (1, 1)
    soft = "{type: softmax, temperature: 0.2, threshold: "
    for retrieval in (
        soft + "0.1}",
        soft + "auto}",
        soft + "0.1, source: bridged}",
        soft + "0.1, source: mix}",
        "oracle",
        "random",
        "none",
        "cosine",
    ):
        assert ran(f"decoder.retrieval={retrieval}") == (0, 0), retrieval
    assert ran("decoder.retrieval=frequency") == (0, 1)
    assert ran("decoder.retrieval={type: memory, captions: 3}") == (0, 0)
    assert ran("decoder.vocabulary.names=[red, green, blue, yellow]") == (0, 1)
    assert ran("decoder.vocabulary.templates=['a {}']") == (0, 1)
    assert ran("decoder.vocabulary.names=[red, green]") == (1, 1)  # other names in the training captions
    assert ran("decoder.entities.mask=0.1") == (1, 1)
    assert ran("decoder.layout=soft_only") == (1, 1)
    assert ran("decoder.layout=soft_only", "decoder.vocabulary.names=[red, green]") == (0, 1)
    assert ran("bridge=capdec") == (1, 1)
    assert ran("seed=1", "bridge=mean_shift") == (1, 1)


def test_a_writer_that_learns_its_words_learns_those_of_each_vocabulary(
    call: Call, world: Path, tmp_path: Path
) -> None:
    """What it knows must not depend on the vocabulary that some earlier run looked for."""
    known = {}
    for names in ("red, green, blue, purple", "red, green, blue, yellow"):
        sets = [f"--set=decoder.vocabulary.names=[{names}]", "--set=decoder.writer.steps=4"]
        assert call("run", world, *sets, "--out", tmp_path / names).code == 0
        (path,) = (tmp_path / names).glob("artefacts/decoder-*/writer/tokenizer.json")
        known[names] = set(json.loads(path.read_text(encoding="utf-8"))["model"]["vocab"])
    first, second = known.values()
    assert first - second == {"purple"}
    assert second - first == {"yellow"}


def test_a_vocabulary_without_its_file_is_told_before_anything_runs(call: Call, world: Path, tmp_path: Path) -> None:
    refused = call(
        "run", world, "--set", "decoder.vocabulary={type: vinvl, path: absent.json}", "--out", tmp_path / "r"
    )
    assert refused.code == 1
    assert "decoder.vocabulary: the vocabulary 'vinvl' is not at absent.json" in refused.err
    assert not (tmp_path / "cache" / "embed").exists()


def test_an_oracle_names_what_the_captions_say(call: Call, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("run", world, "--out", run, "--set", "decoder.retrieval=oracle").code == 0
    assert [one["details"]["prompt"] for one in predictions(tmp_path / "cache")] == [
        f"There are {colour} in image." for colour in ("red", "green", "blue", "red", "green", "blue")
    ]
    refused = call("caption", "--run", run, tmp_path / "world" / "images" / "018.png")
    assert refused.code == 1
    assert "is an oracle: it reads the captions of the test items, and new items have none" in refused.err
    with pytest.raises(DataError, match="is an oracle"):
        opened(run).decode([tmp_path / "world" / "images" / "018.png"])


def test_a_writer_can_be_selected_by_a_metric_under_an_oracle(call: Call, world: Path, tmp_path: Path) -> None:
    lines = []
    for name, pixel in (("red", (210, 40, 40)), ("blue", (50, 70, 200))):
        Image.new("RGB", (8, 8), pixel).save(tmp_path / "world" / "images" / f"{name}.png")
        lines.append(json.dumps({"image": f"{name}.png", "captions": [f"a {name} picture", f"all of it is {name}"]}))
    other = tmp_path / "world" / "other.jsonl"
    other.write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = f"{{type: jsonl, path: {other}, root: {tmp_path / 'world' / 'images'}}}"
    chosen = ["--set", f"data.validation={source}", "--set", "select.by=bleu_1", "--set", "decoder.retrieval=oracle"]
    done = call("run", world, *chosen, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    first = (tmp_path / "run" / "predictions.jsonl").read_text(encoding="utf-8").splitlines()[0]
    assert json.loads(first)["details"]["prompt"] == "There are red in image."


def test_captions_that_were_written_are_kept(call: Call, world: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(generate, "CHUNK", 2)
    small = ["--set", "decoder.writer.decode_batch_size=2"]
    calm = tmp_path / "calm"
    assert call("run", world, *small, "--out", calm, "--cache", tmp_path / "other").code == 0
    seen: list[str] = []
    decode = ViecapDecoder.decode_batch

    def watched(self: Any, bridged: Any, source: Any, keys: Any, seed: int) -> Any:
        if stop and len(seen) == 4:
            raise KeyboardInterrupt
        seen.extend(keys)
        return decode(self, bridged, source, keys, seed)

    monkeypatch.setattr(ViecapDecoder, "decode_batch", watched)
    stop = True
    assert call("run", world, *small, "--out", tmp_path / "run").code == 130
    first, stop = list(seen), False
    seen.clear()
    assert call("run", world, *small, "--out", tmp_path / "run").code == 0
    assert (len(first), len(seen), len({*first, *seen})) == (4, 2, 6)
    assert predictions(tmp_path / "run") == predictions(calm)


def test_a_fitted_decoder_is_taken_up_by_weights(call: Call, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert call("run", world, "--out", run).code == 0
    (kept,) = (run / "artefacts").glob("decoder-*")
    base = ["run", world, "--set", f"decoder={{type: viecap, weights: {kept}}}"]
    assert call(*base, "--out", tmp_path / "same").code == 0
    assert predictions(tmp_path / "same") == predictions(run)
    images = sorted((tmp_path / "world" / "images").glob("*.png"))[18:]
    assert opened(tmp_path / "same").decode(images) == opened(run).decode(images)
    search = "decoder.retrieval={type: softmax, threshold: 0.9, temperature: 0.5}"
    assert call(*base, "--set", search, "--out", tmp_path / "other").code == 0
    found = opened(tmp_path / "other").decode(images)
    assert {one.details["prompt"] for one in found} == {"There are something in image."}
    for change, message in (
        ("decoder.layout=hard_first", "decoder"),
        ("decoder.prompt.template='Seen: {entities}'", "decoder.prompt.template: is 'Seen: {entities}', but"),
        ("decoder.vocabulary={type: names, names: [red, lion]}", "decoder.vocabulary.names: is ['red', 'lion'], but"),
        ("decoder.entities.mask=0.9", "decoder.entities.mask: is 0.9, but"),
    ):
        refused = call(*base, "--set", change)
        assert refused.code == 1, change
        assert message in refused.err, change


# What is refused


def test_a_writer_that_reads_no_words_is_told_at_its_line(call: Call, world: Path) -> None:
    refused = call("check", world, "--set", "decoder.writer=toy_recite")
    assert refused.code == 1
    assert (
        "the decoder 'toy_recite' reads no words beside the vectors; expected one that does (prefix_lm)" in refused.err
    )
    assert "decoder" in refused.err
    assert call("check", world, "--set", "decoder.writer=toy_recite", "--set", "decoder.layout=soft_only").code == 0


def test_mistakes_are_told(call: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n", encoding="utf-8")
    (tmp_path / "twice.txt").write_text("red\nblue\nRed\n", encoding="utf-8")
    for change, message in (
        ("decoder.vocabulary.names=[]", "decoder.vocabulary.names"),
        ("decoder.vocabulary.names=[red, Red]", "red: found more than once"),
        ("decoder.prompt={template: There are things}", "must hold {entities} exactly once"),
        (f"decoder.vocabulary={{names: null, path: {tmp_path / 'empty.txt'}}}", "empty.txt"),
        (f"decoder.vocabulary={{names: null, path: {tmp_path / 'twice.txt'}}}", "twice.txt"),
        (f"decoder.vocabulary={{names: null, path: {tmp_path / 'nowhere.txt'}}}", "nowhere.txt"),
        ("decoder.writer.lm.n_positions=12", "the language model has 12"),
        ("decoder.retrieval={type: softmax, threshold: auto, source: near}", "decoder.retrieval.source"),
        ("bridge={type: mean_shift, direction: to_source}", None),
    ):
        more = ["--set", "decoder.retrieval={type: softmax, source: bridged}"] if message is None else []
        refused = call("run", world, "--set", change, *more)
        assert refused.code == 1, change
        assert (message or "Set retrieval.source to raw") in refused.err, change


def test_captions_that_say_no_name(call: Call, world: Path, tmp_path: Path) -> None:
    lions = [
        "--set",
        "decoder.vocabulary={names: [lion, tiger], templates: ['{}']}",
        "--set",
        "decoder.entities.mask=0",
    ]
    refused = call("run", world, *lions, "--set", "decoder.retrieval={type: softmax, threshold: auto}")
    assert refused.code == 1
    assert "none of 36 training texts says a name of the vocabulary" in refused.err
    none = ["--set", "decoder.retrieval={type: softmax, threshold: 1.0, temperature: 1.0}"]
    assert call("run", world, *lions, *none).code == 0
    found = predictions(tmp_path / "cache")
    assert {one["details"]["prompt"] for one in found} == {"There are something in image."}
    assert all(len(one["details"]["entities"]) == 2 for one in found)


@pytest.fixture
def coco500(requires_data: Path, world: Path, tmp_path: Path) -> Path:
    """The toy's decoder on stored ViT-B/16 vectors of COCO."""
    text, folder = world.read_text(encoding="utf-8"), requires_data / "embeddings"
    vectors = "vectors: {image: {array: image, keys: image_id}, text: {array: text, keys: image_id}}"
    file = f"file: {folder / 'coco500_clip_vitb16.npz'}, {vectors}"
    source = f"type: precomputed, {file}, captions: {folder / 'coco500_captions.jsonl'}, key_field: image_id"
    head = f"""\
name: coco500
data:
  train: {{{source}, first: embedded_caption, rows: [0, 40]}}
  test: {{{source}, first: embedded_caption, rows: [40, 50]}}
encoder: {{type: precomputed, {file}, space: open_clip/ViT-B-16/openai}}
"""
    config = tmp_path / "coco500.yaml"
    config.write_text(head + text[text.index("bridge:") :], encoding="utf-8")
    return config


def test_names_of_another_space_are_refused_before_anything_runs(
    call: Call, coco500: Path, requires_data: Path, tmp_path: Path
) -> None:
    """The trap that all three share: 512 numbers each, image vectors of ViT-B/16, names of ViT-B/32."""
    folder = requires_data / "embeddings"
    names = (
        f"{{type: precomputed, path: {folder / 'imagenet1000_clip_text_vitb32.npz'}, vectors: text, "
        f"names: {folder / 'imagenet1000_names.json'}, separator: ',', space: SPACE}}"
    )
    wrong = names.replace("SPACE", "open_clip/ViT-B-32/openai")
    for command in ("check", "run"):
        refused = call(command, coco500, "--set", f"decoder.vocabulary={wrong}")
        assert refused.code == 1
        assert "another space (of the same size, but trained apart)" in refused.err
        assert "open_clip/ViT-B-32/openai" in refused.err
        assert "open_clip/ViT-B-16/openai" in refused.err
    assert not (tmp_path / "cache" / "embed").exists()
    right = names.replace("SPACE", "open_clip/ViT-B-16/openai")
    assert call("check", coco500, "--set", f"decoder.vocabulary={right}").code == 0


def test_a_vocabulary_that_must_be_embedded_needs_an_encoder_that_embeds(call: Call, coco500: Path) -> None:
    refused = call("run", coco500, "--set", "decoder.vocabulary=coco")
    assert refused.code == 1
    assert "only looks up stored vectors" in refused.err
    assert "a vocabulary with vectors of its own (precomputed)" in refused.err
