"""What the core does for decoders that give another one words with its vectors: texts embedded by the run's encoder,
nested fits that are stages of their own, references told to oracles, and an encoder that knows more."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import modbridge
from modbridge.errors import ConfigError, PluginError
from modbridge.plugins.manager import Plugins
from modbridge.store.artefact import read_tensors
from modbridge.testing import MemoryFitting, build, build_config

from .conftest import TOY

Call = Callable[..., Any]

PLUGIN = '''\
from typing import Annotated, Any

import torch

from modbridge.config.component import Affects, Part
from modbridge.config.kinds import DecoderConfig
from modbridge.interfaces import Decoded, Decoder, Hints, TextVectors
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge_file_toy_plugin import COLOURS, Colours, ColoursConfig, Recite, ReciteConfig


class OuterConfig(DecoderConfig):
    """Embeds `words`, and has `writer` fitted with a hint. `note`: is stored, no more. `told`: is an oracle."""

    writer: Annotated[DecoderConfig, Part("decoder")]
    words: list[str] = ["red", "blue", "red"]
    hint: str = "seen"
    note: str = ""
    told: Annotated[bool, Affects("decode")] = False

    @property
    def reads_references(self):
        return self.told


class Outer(Decoder[OuterConfig]):
    def __init__(self, config, context):
        super().__init__(config, context)
        self.writer, self.vectors, self.references = context.parts["writer"], torch.empty(0), {}

    def fit(self, vectors, targets, fitting):
        embedded = fitting.embed_texts(self.config.words)
        self.vectors = embedded.values
        fitting.log(keys=",".join(embedded.keys), port=str(embedded.port))
        hints = Hints(lambda rows, epoch: [self.config.hint] * len(rows), [self.config.hint], self.config.hint,
                      self.config.hint)
        fitting.fit_decoder(self.writer, TextVectors(vectors.embeddings, vectors.batch, hints), targets)

    def tensors(self):
        return {"vectors": self.vectors}

    def load_tensors(self, tensors):
        self.vectors = tensors["vectors"]

    def tell(self, references):
        self.references = {key: list(texts) for key, texts in references.items()}

    def decode_batch(self, bridged, source, keys, seed):
        found = self.writer.decode_batch(bridged, source, keys, seed)
        return [Decoded(one.key, one.text, None, {"prompt": " / ".join(self.references.get(one.key, ["untold"]))})
                for one in found]


class TrainedConfig(ColoursConfig):
    @property
    def needs_fit(self):
        return True


class Trained(Colours):
    def fit(self, source, fitting):
        fitting.log(fit="trained", items=len(source))


@hookimpl
def modbridge_components(register):
    here = "modbridge_file_outer_plugin"
    for kind, name in (("decoder", "Outer"), ("encoder", "Trained")):
        register(ComponentSpec(kind=kind, name=f"toy_{name.lower()}", config=f"{here}:{name}Config",
                               impl=f"{here}:{name}", summary="toy"))
'''


@pytest.fixture
def outer(call: Call, world: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call `modbridge ARGS` with a decoder that has another one inside."""
    plugin = tmp_path / "outer_plugin.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    text = world.read_text(encoding="utf-8")
    inner = "decoder: {type: toy_outer, writer: {type: toy_recite, steps: 12}}"
    world.write_text(text.replace("decoder: {type: toy_recite, steps: 30}", inner), encoding="utf-8")
    assert inner in world.read_text(encoding="utf-8")
    return lambda *arguments: call(*arguments, "--plugin", TOY, "--plugin", plugin, toy=False)


def fits(cache: Path) -> dict[str, dict[str, Any]]:
    """The manifests of all fitted decoders, by key."""
    return {
        path.parent.name: json.loads(path.read_text(encoding="utf-8"))
        for path in cache.glob("fit_decoder/*/modbridge.json")
    }


def count(cache: Path) -> tuple[int, int, int]:
    """Sets of embedded vectors, outer decoders and inner ones."""
    types = [found["type"] for found in fits(cache).values()]
    return len(list((cache / "embed").iterdir())), types.count("toy_outer"), types.count("toy_recite")


def opened(run: Path, tmp_path: Path) -> Any:
    return modbridge.load(run, plugins=Plugins.discover(files=[TOY, tmp_path / "outer_plugin.py"]))


def test_texts_are_embedded_by_the_runs_encoder_once(outer: Any, world: Path, tmp_path: Path) -> None:
    run, cache = tmp_path / "run", tmp_path / "cache"
    assert outer("run", world, "--out", run).code == 0
    pipeline = opened(run, tmp_path)
    expected = pipeline.encoder.encode(["red", "blue", "red"], "text").values
    assert torch.equal(pipeline.decoder.vectors, expected)
    assert not torch.equal(expected[0], expected[1])
    (folder,) = (run / "artefacts").glob("decoder-*")
    first = json.loads((folder / "training.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert first == {"keys": "0,1,2", "port": "raw 8-d text vectors of toy/colours"}
    before = count(cache)
    assert outer("run", world, "--out", run, "--set", "decoder.note=again").code == 0
    assert count(cache) == (before[0], 2, 1)
    assert outer("run", world, "--out", run, "--set", "decoder.words=[green, blue]").code == 0
    assert count(cache) == (before[0] + 1, 3, 1)
    again = opened(run, tmp_path)
    assert torch.equal(again.decoder.vectors, again.encoder.encode(["green", "blue"], "text").values)


def test_an_encoder_that_looks_up_embeds_no_other_texts(outer: Any, world: Path, tmp_path: Path) -> None:
    keys, generator = [f"i{n}" for n in range(6)], np.random.default_rng(0)
    vectors = {side: generator.normal(size=(6, 8)).astype(np.float32) for side in ("image", "text")}
    np.savez(tmp_path / "v.npz", keys=np.array(keys), image=vectors["image"], text=vectors["text"])
    lines = [json.dumps({"key": key, "captions": [f"a {key}"]}) for key in keys]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    file = f"type: precomputed, file: {tmp_path / 'v.npz'}, "
    file += "vectors: {image: {array: image, keys: keys}, text: {array: text, keys: keys}}"
    source = f"{{{file}, captions: {tmp_path / 'captions.jsonl'}, key_field: key}}"
    text = world.read_text(encoding="utf-8")
    world.write_text(
        f"data: {{train: {source}, test: {source}}}\nencoder: {{{file}, space: made/up}}\n"
        + text[text.index("bridge:") :],
        encoding="utf-8",
    )
    refused = outer("run", world)
    assert refused.code == 1
    assert "toy.yaml:2: encoder: 'precomputed' only looks up stored vectors" in refused.err
    assert "choose an encoder that computes vectors, or give a vocabulary with vectors of its own" in refused.err


def test_a_nested_decoder_is_fitted_once_and_shared(outer: Any, world: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"

    def ran(*sets: str) -> int:
        code: int = outer("run", world, *(f"--set={text}" for text in sets)).code
        return code

    assert ran() == 0
    for change, expected in (
        ("decoder.note=other", (2, 1)),
        ("decoder.told=true", (2, 1)),
        ("decoder.writer.loud=true", (2, 1)),
        ("decoder.writer.steps=13", (3, 2)),
        ("decoder.hint=heard", (4, 3)),
        ("seed=1", (5, 4)),
        ("bridge=capdec", (6, 5)),
        ("encoder.batch_size=3", (6, 5)),
    ):
        assert ran(change) == 0, change
        assert count(cache)[1:] == expected, change
    logs: dict[str, list[Any]] = {}
    for key, manifest in fits(cache).items():
        lines = (cache / "fit_decoder" / key / "training.jsonl").read_text(encoding="utf-8").splitlines()
        logs.setdefault(manifest["type"], []).append([json.loads(line) for line in lines])
    for lines in logs["toy_outer"]:  # what the nested fit logged stands in the outer log too, however it came there
        assert lines[1:] in logs["toy_recite"]
        assert "loss" in lines[-1]


def test_a_nested_decoder_is_the_one_that_was_fitted(outer: Any, world: Path, tmp_path: Path) -> None:
    """Loud and quiet share the nested decoder, and each still writes in its own way."""
    for name, value in (("quiet", "false"), ("loud", "true")):
        assert outer("run", world, "--out", tmp_path / name, f"--set=decoder.writer.loud={value}").code == 0
    quiet, loud = (
        [json.loads(line)["text"] for line in (tmp_path / name / "predictions.jsonl").read_text().splitlines()]
        for name in ("quiet", "loud")
    )
    assert [text.upper() for text in quiet] == loud != quiet
    inner = next(key for key, manifest in fits(tmp_path / "cache").items() if manifest["type"] == "toy_recite")
    own = read_tensors(tmp_path / "cache" / "fit_decoder" / inner / "model.safetensors")
    for folder in (tmp_path / "quiet" / "artefacts").glob("decoder-*"):
        stored = read_tensors(folder / "writer" / "model.safetensors")
        assert all(torch.equal(stored[name], own[name]) for name in own)


def test_a_nested_decoder_may_come_from_weights(outer: Any, world: Path, tmp_path: Path) -> None:
    assert outer("run", world, "--out", tmp_path / "run").code == 0
    (folder,) = (tmp_path / "run" / "artefacts").glob("decoder-*")
    block = f"decoder.writer={{type: toy_recite, weights: {folder / 'writer'}}}"
    again = outer("run", world, "--out", tmp_path / "again", "--set", block, "--set", "seed=3")
    assert again.code == 0, again.err
    assert count(tmp_path / "cache")[1:] == (2, 1)
    (taken,) = (tmp_path / "again" / "artefacts").glob("decoder-*")
    first, second = (read_tensors(at / "writer" / "model.safetensors") for at in (folder, taken))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_oracles_are_told_what_is_not_scored(outer: Any, world: Path, tmp_path: Path) -> None:
    def told(*sets: str) -> set[str]:
        cache = tmp_path / "-".join(("told", *sets)).replace("/", "")
        result = outer("run", world, "--cache", cache, *(f"--set={text}" for text in sets), "--until", "generate")
        assert result.code == 0, result.err
        (path,) = cache.glob("generate/*/predictions.jsonl")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len(lines) == 9
        return {line["details"]["prompt"] for line in lines}

    colours = ("red", "green", "blue")
    assert told() == {"untold"}
    assert told("decoder.told=true") == {f"a {colour} picture / it is all {colour}" for colour in colours}
    others = ("decoder.told=true", "evaluate.references=others")
    assert told(*others) == {f"a {colour} picture" for colour in colours}
    assert told(*others, "evaluate.caption=1") == {f"it is all {colour}" for colour in colours}


def test_what_an_oracle_is_told_decides_its_captions(outer: Any, world: Path, tmp_path: Path) -> None:
    def written(*sets: str) -> int:
        assert outer("run", world, *(f"--set={text}" for text in sets), "--until", "generate").code == 0
        return len(list((tmp_path / "cache" / "generate").iterdir()))

    assert [written("decoder.told=true"), written("decoder.told=true", "evaluate.references=others")] == [1, 2]
    assert [written(), written("evaluate.references=others")] == [3, 3]  # nobody is told


def test_an_encoder_may_know_more_than_the_captioner(outer: Any, world: Path, tmp_path: Path) -> None:
    def ran(*sets: str) -> Any:
        return outer("run", world, "--set", "encoder=toy_trained", *(f"--set={text}" for text in sets))

    more = "data.encoder={type: jsonl, path: '${paths.data}/world24.jsonl', root: '${paths.data}/images'}"
    result = ran()
    assert result.code == 0, result.err
    assert ran(more).code == 0
    logs = [path.read_text(encoding="utf-8") for path in (tmp_path / "cache").glob("fit_encoder/*/training.jsonl")]
    assert sorted(json.loads(log)["items"] for log in logs) == [9, 24]
    assert len(list((tmp_path / "cache" / "fit_bridge").iterdir())) == 2  # another encoder is another space
    refused = outer("check", world, "--set", more)
    assert refused.code == 1
    assert "data.encoder: is what the encoder is trained on, but 'toy_colours' is not trained by the run" in refused.err
    sound = more.replace("type: jsonl", "type: jsonl, modality: audio")
    assert (
        "data.encoder: gives audio items, but data.train gives image items" in outer("check", world, "--set", sound).err
    )


def test_decoders_read_no_words_unless_they_say_so() -> None:
    block = {"type": "prefix_lm", "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16}, "tokenizer": "words"}
    assert build_config("decoder", block).reads_references is False
    from modbridge.config.kinds import DecoderConfig
    from modbridge.interfaces import Decoder

    with pytest.raises(ValueError, match=r"'bare' reads no words beside the vectors; expected one that does"):
        DecoderConfig(type="bare").with_hints("soft_first")
    decoder: Any = build("decoder", block)
    with pytest.raises(PluginError, match="'prefix_lm' reads no words"):
        Decoder.decode_hinted(decoder, torch.zeros(1, 16), None, ["a"], ["k"], 0)


def test_the_stand_in_for_fits_embeds_texts_by_what_they_say() -> None:
    first, second = MemoryFitting().embed_texts(["red", "blue", "red"]), MemoryFitting(7).embed_texts(["blue", "red"])
    assert torch.equal(first.values[[1, 0]], second.values)
    assert torch.equal(first.values[0], first.values[2])
    assert first.values.norm(dim=1).tolist() == pytest.approx([1.0] * 3)

    def refuse(texts: Any) -> Any:
        raise ConfigError("looks up")

    with pytest.raises(ConfigError, match="looks up"):
        MemoryFitting(embed=refuse).embed_texts(["red"])
