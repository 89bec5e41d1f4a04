"""Training `hf_clap` in the run: it learns, its artefact brings it back, and transformers reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_clap.plugin import TINY_MODEL
from safetensors.torch import save_file
from transformers import ClapFeatureExtractor, ClapModel

from modbridge.audio import Sound
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ArtefactError
from modbridge.interfaces.source import Source
from modbridge.testing import MemoryFitting, build

RATE = 8_000
PITCHES = {"deep": 200, "low": 400, "middle": 800, "high": 1600, "shrill": 3000}


class Tones(Source[SourceConfig]):
    """Tones of five pitches in some noise, of any loudness, with two captions each."""

    def __init__(self, per_pitch: int, seed: int = 0) -> None:
        super().__init__(SourceConfig(type="tones"))
        random = np.random.default_rng(seed)
        self.names = [name for name in PITCHES for _ in range(per_pitch)]
        time = np.arange(RATE) / RATE
        self.sounds = [
            random.uniform(0.1, 0.8) * np.sin(2 * np.pi * PITCHES[name] * random.uniform(0.93, 1.07) * time)
            + 0.02 * random.normal(size=RATE)
            for name in self.names
        ]

    def keys(self) -> list[str]:
        return [f"t{i}" for i in range(len(self.names))]

    def media(self, row: int) -> Any:
        return Sound(self.sounds[row], RATE)

    def texts(self, row: int) -> tuple[str, ...]:
        return (f"A {self.names[row]} tone.", f"here something sounds {self.names[row]}")

    def fingerprint(self) -> str:
        return "tones"


TEXT = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}  # so small a model needs all it has
AUDIO: Any = TINY_MODEL["audio_config"]
MODEL = TINY_MODEL | {"text_config": TEXT | NO_DROPOUT, "audio_config": AUDIO | NO_DROPOUT}
TRAINED = {
    "type": "hf_clap",
    "model": MODEL,
    "tokenizer": {"type": "words"},
    "train": {"epochs": 60, "batch_size": 20, "lr": 4e-3, "warmup": 20, "logit_scale": 20.0},
}


def test_training_learns_pitches_and_the_artefact_brings_them_back(tmp_path: Path) -> None:
    encoder: Any = build("encoder", TRAINED)
    with pytest.raises(ArtefactError, match="not yet"):
        encoder.encode(["a deep tone"], "text")
    fitting = MemoryFitting()
    encoder.fit(Tones(8), fitting)
    fresh = Tones(4, seed=1)
    items = [fresh.media(row) for row in range(len(fresh))]
    sounds = encoder.encode(items, "audio").values
    texts = encoder.encode([f"a {name} tone" for name in PITCHES], "text").values
    nearest = [list(PITCHES)[i] for i in (sounds @ texts.T).argmax(dim=1).tolist()]
    assert np.mean([a == b for a, b in zip(nearest, fresh.names, strict=True)]) > 0.7  # chance: 0.2
    losses = [row["loss"] for row in fitting.logged if "loss" in row]
    assert losses[-1] < 2  # log 20 = 3.0 where nothing is told apart, log 4 = 1.4 where pitches are, four of each

    encoder.save_extra(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "clap"
    words = json.loads((tmp_path / "vocabulary.json").read_text())["words"]
    assert words == sorted({"a", "tone", "here", "something", "sounds", *PITCHES})
    again: Any = build("encoder", TRAINED, seed=5)
    again.load_extra(tmp_path)
    again.load_tensors(encoder.tensors())
    assert torch.equal(again.encode(items, "audio").values, sounds)
    assert torch.equal(again.encode([f"a {name} tone" for name in PITCHES], "text").values, texts)

    # what was saved is a model folder that transformers reads without modbridge
    state = {name.removeprefix("network."): value.contiguous() for name, value in encoder.tensors().items()}
    save_file(state, tmp_path / "model.safetensors", {"format": "pt"})
    own: Any = ClapModel.from_pretrained(tmp_path)
    extractor: Any = ClapFeatureExtractor.from_pretrained(tmp_path)
    given = extractor(np.asarray(items[0].samples), sampling_rate=RATE, return_tensors="pt")
    with torch.inference_mode():
        found = own.eval().get_audio_features(given["input_features"].float())
    vector = found if isinstance(found, torch.Tensor) else found.pooler_output
    torch.testing.assert_close(torch.nn.functional.normalize(vector, dim=-1), sounds[:1], atol=1e-5, rtol=0)


def test_a_damaged_artefact_is_told(tmp_path: Path) -> None:
    encoder: Any = build("encoder", TRAINED | {"train": {"epochs": 1, "batch_size": 8}})
    encoder.fit(Tones(2), MemoryFitting())
    encoder.save_extra(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ArtefactError, match="cannot be read"):
        build("encoder", TRAINED).load_extra(tmp_path)


@pytest.mark.parametrize("tokenizer", ["words", "bytes"])
def test_training_is_a_function_of_its_seed(tokenizer: str) -> None:
    block = TRAINED | {
        "model": TINY_MODEL, "tokenizer": {"type": tokenizer}, "train": {"epochs": 1, "batch_size": 8},
    }  # fmt: skip
    states = []
    for seed in (0, 0, 1):
        encoder: Any = build("encoder", block)
        encoder.fit(Tones(4), MemoryFitting(seed=seed))
        states.append(encoder.tensors())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert any(not torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert encoder.encode(["a tone that was never heard " * 9, ""], "text").values.shape == (2, 16)
