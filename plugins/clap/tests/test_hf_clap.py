"""The `hf_clap` encoder against transformers' own ClapProcessor and ClapModel, on toy models saved and loaded."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from modbridge_clap.hf_clap_features import ClapFeatures
from modbridge_clap.plugin import TINY_MODEL
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import (
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    CLIPConfig,
    PreTrainedTokenizerFast,
)

from modbridge.audio import Sound
from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.testing import build, build_config

WORDS = "a dog barks heavy rain falls on roof people are talking while music plays the cat"
TEXTS = ["a dog barks", "the cat", "heavy rain falls on the roof while people are talking", "unknown things"]
RANDOM = {"type": "hf_clap", "model": TINY_MODEL, "pretrained": "random", "tokenizer": {"type": "bytes"}}


def words_tokenizer() -> Any:
    names = ["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(WORDS.split())]
    tokenizer = Tokenizer(WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing("<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)])
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )  # fmt: skip


def save_model(folder: Path, *, fused: bool = False, rate: int = 16_000, dim: int = 32, **features: Any) -> Path:
    """A toy CLAP of one second's windows, with the weights' deviations widened so that inputs matter."""
    torch.manual_seed(0)
    audio = {
        "spec_size": 64, "num_mel_bins": 64, "patch_size": 8, "patch_stride": [8, 8], "window_size": 4,
        "patch_embeds_hidden_size": 8, "hidden_size": 16, "depths": [1, 1], "num_attention_heads": [2, 2],
        "enable_fusion": fused, "fusion_type": "aff_2d" if fused else None, "aff_block_r": 2,
    }  # fmt: skip
    tokenizer = words_tokenizer()
    text = {
        "vocab_size": len(tokenizer), "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 12, "pad_token_id": 1,
    }  # fmt: skip
    model: Any = ClapModel(ClapConfig(projection_dim=dim, audio_config=audio, text_config=text))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 0.3)
        model.audio_model.audio_encoder.batch_norm.running_mean.fill_(-30.0)
        model.audio_model.audio_encoder.batch_norm.running_var.fill_(200.0)
    settings = {
        "sampling_rate": rate, "max_length_s": 1, "hop_length": rate // 62, "fft_window_size": 512,
        "frequency_max": rate // 2, "truncation": "fusion" if fused else "rand_trunc",
    } | features  # fmt: skip
    model.save_pretrained(folder)
    processor: Any = ClapProcessor
    processor(ClapFeatureExtractor(**settings), tokenizer).save_pretrained(folder)
    if not (folder / "preprocessor_config.json").is_file():  # transformers 5 writes one file for all
        ClapFeatureExtractor(**settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def unfused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("unfused"))


@pytest.fixture(scope="module")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("fused"), fused=True)


def clap(folder: Path, **options: Any) -> Any:
    return build("encoder", {"type": "hf_clap", "model": str(folder), **options})


def clip(seconds: float, rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """A gliding tone and noise, so that every window differs."""
    random = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 400 * t) * t) + 0.05 * random.normal(size=len(t))).astype(np.float32)


def number(samples: np.ndarray, seed: int, name: str, count: int) -> int:
    """The documented draw: 128 bits of a hash of seed, name and samples, spread over 0..count-1."""
    told = hashlib.sha256(f"{seed}:{name}:".encode() + samples.astype("<f4").tobytes()).hexdigest()
    return int(told[:32], 16) * count // 2**128


class Reference:
    """transformers' own processor and model, called directly."""

    def __init__(self, folder: Path) -> None:
        self.processor: Any = ClapProcessor.from_pretrained(folder)
        model: Any = ClapModel.from_pretrained(folder)
        self.model: Any = model.eval()
        self.rate = self.processor.feature_extractor.sampling_rate

    def audio(self, samples: np.ndarray, longer: bool = False) -> torch.Tensor:
        given = self.processor(audio=samples, sampling_rate=self.rate, return_tensors="pt")
        with torch.inference_mode():
            found = self.model.get_audio_features(
                input_features=given["input_features"].float(), is_longer=torch.tensor([[longer]])
            )
        return self.unit(found)

    def text(self, text: str) -> torch.Tensor:
        given = self.processor(text=[text], return_tensors="pt", truncation=True, max_length=10)
        with torch.inference_mode():
            return self.unit(self.model.get_text_features(given["input_ids"], given["attention_mask"]))

    @staticmethod
    def unit(found: Any) -> torch.Tensor:
        values = found if isinstance(found, torch.Tensor) else found.pooler_output
        return torch.nn.functional.normalize(values, dim=-1)


def same(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=0)


# --- parity -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["unfused", "fused"])
def test_texts_and_short_clips_as_transformers_has_them(kind: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(kind)
    encoder, reference = clap(folder), Reference(folder)
    texts = encoder.encode(TEXTS, "text").values
    same(texts, torch.cat([reference.text(text) for text in TEXTS]))
    clips = [clip(seconds, seed=i) for i, seconds in enumerate((1.0, 0.3, 0.51, 0.01))]
    sounds = encoder.encode([Sound(c, 16_000) for c in clips], "audio").values
    same(sounds, torch.cat([reference.audio(c) for c in clips]))
    for values in (texts, sounds):
        assert values.dtype == torch.float32
        torch.testing.assert_close(values.norm(dim=1), torch.ones(len(values)))
        assert torch.pdist(values).min() > 1e-3


def test_crops_of_long_clips(unfused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference, long = Reference(unfused), clip(2.7)
    room = len(long) - 16_000
    for options, start in (
        ({}, room // 2),
        ({"crop": "centre"}, room // 2),
        ({"crop": "start"}, 0),
        ({"crop": "random"}, number(long, 0, "crop", room + 1)),
        ({"crop": "random", "crop_seed": 7}, number(long, 7, "crop", room + 1)),
    ):
        found = clap(unfused, **options).encode([Sound(long, 16_000)], "audio").values
        same(found, reference.audio(long[start : start + 16_000]))
        with monkeypatch.context() as patch:  # the extractor's own crop, where it happens to draw the same
            patch.setattr(np.random, "randint", lambda low, high=None, start=start: start)
            same(found, reference.audio(long))


def test_the_mean_of_windows(unfused: Path, fused: Path) -> None:
    long = clip(2.25)
    for folder in (unfused, fused):
        reference = Reference(folder)
        windows = torch.cat([reference.audio(long[at : at + 16_000]) for at in (0, 16_000, 20_000)])
        for options in ({}, {"batch_size": 2}):
            found = clap(folder, long_clips="mean", **options).encode([Sound(long, 16_000)], "audio").values
            same(found, torch.nn.functional.normalize(windows.mean(0, keepdim=True), dim=-1))


def test_fusion_of_long_clips(fused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = Reference(fused)
    extractor = reference.processor.feature_extractor
    for seconds, seed in ((2.7, 0), (1.05, 0), (2.7, 3)):
        long = clip(seconds)
        names = iter(["front", "middle", "back"])

        def choose(options: Any, long: np.ndarray = long, seed: int = seed, names: Any = names) -> int:
            return int(options[number(long, seed, next(names), len(options))])

        monkeypatch.setattr(np.random, "choice", choose)
        found = clap(fused, crop_seed=seed).encode([Sound(long, 16_000)], "audio").values
        same(found, reference.audio(long, longer=True))
    barely = clip(1.0)
    barely = np.concatenate([barely, barely[: extractor.hop_length // 2]])
    if len(barely) // extractor.hop_length == 16_000 // extractor.hop_length:  # longer, but not by a frame
        same(clap(fused).encode([Sound(barely, 16_000)], "audio").values, reference.audio(barely))


def test_a_fused_model_may_crop(fused: Path) -> None:
    long = clip(2.0)
    found = clap(fused, long_clips="crop").encode([Sound(long, 16_000)], "audio").values
    same(found, Reference(fused).audio(long[8_000:24_000]))


@pytest.mark.parametrize("padding", ["repeatpad", "repeat", "pad"])
def test_short_clips_are_padded_as_the_model_says(tmp_path: Path, padding: str) -> None:
    folder = save_model(tmp_path, padding=padding)
    short = clip(0.3)
    same(clap(folder).encode([Sound(short, 16_000)], "audio").values, Reference(folder).audio(short))


def test_rate_window_and_dimension_are_the_models(tmp_path: Path) -> None:
    folder = save_model(tmp_path, rate=32_000, dim=1024, max_length_s=2, hop_length=1100, fft_window_size=1024)
    encoder = clap(folder)
    assert encoder.sample_rate == 32_000
    assert encoder.config.emits("audio").space == encoder.config.emits("text").space
    assert encoder.config.emits("audio").space.dim == 1024
    long = clip(3.0, 32_000)
    found = encoder.encode([Sound(long, 32_000)], "audio").values
    assert found.shape == (1, 1024)
    same(found, Reference(folder).audio(long[16_000:80_000]))
    assert encoder.encode([Sound(clip(3.0, 8_000), 8_000)], "audio").values.shape == (1, 1024)


@pytest.mark.parametrize(
    "settings",
    [
        {"truncation": "rand_trunc"},
        {"truncation": "fusion"},
        {"truncation": "rand_trunc", "sampling_rate": 8_000, "max_length_s": 1, "hop_length": 130,
         "fft_window_size": 256, "feature_size": 16, "frequency_min": 50, "frequency_max": 4_000},
    ],
)  # fmt: skip
def test_features_are_those_of_the_extractor(settings: dict[str, Any]) -> None:
    extractor: Any = ClapFeatureExtractor(**settings)
    samples = clip(extractor.max_length_s, extractor.sampling_rate)
    samples[: len(samples) // 4] = 0
    wanted = extractor(samples, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_features"][0]
    found = ClapFeatures(extractor, "crop", "centre", 0)(samples).windows[0]
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-4)


# --- what vectors depend on -------------------------------------------------------------------------------------------

WAYS = [("unfused", "crop"), ("unfused", "mean"), ("fused", "fusion"), ("fused", "mean"), ("fused", None)]


@pytest.mark.parametrize(("kind", "long_clips"), WAYS)
def test_vectors_depend_on_nothing_but_clip_and_seed(
    kind: str, long_clips: str | None, request: pytest.FixtureRequest
) -> None:
    encoder = clap(request.getfixturevalue(kind), crop="random", **({"long_clips": long_clips} if long_clips else {}))
    items = [Sound(clip(seconds, seed=i), 16_000) for i, seconds in enumerate((2.3, 0.4, 1.0, 1.7, 3.4, 0.2))]
    np.random.seed(1)
    together = encoder.encode(items, "audio").values
    np.random.seed(2)
    same(together, torch.cat([encoder.encode([item], "audio").values for item in items]))
    same(together.flip(0), encoder.encode(items[::-1], "audio").values)
    short = [items[1], items[2], items[5]]  # a batch with none that is long
    same(encoder.encode(short, "audio").values, together[[1, 2, 5]])
    state: Any = np.random.get_state()
    encoder.encode(items, "audio")
    after: Any = np.random.get_state()
    np.testing.assert_array_equal(state[1], after[1])


def test_texts_alone_and_together(unfused: Path) -> None:
    encoder = clap(unfused)
    together = encoder.encode(TEXTS, "text").values
    same(together, torch.cat([encoder.encode([text], "text").values for text in TEXTS]))
    assert encoder.encode([], "text").values.shape == (0, 32)
    with pytest.raises(DataError, match="text"):
        encoder.encode([3], "text")


def test_seeds_and_crops_enter_the_key_but_not_the_space(unfused: Path) -> None:
    def config(**options: Any) -> Any:
        return build_config("encoder", {"type": "hf_clap", "model": str(unfused), **options})

    plain = config()
    for options in ({"crop": "random"}, {"crop_seed": 1}, {"long_clips": "mean"}):
        assert config(**options).key_fields() != plain.key_fields()
        assert config(**options).emits("audio") == plain.emits("audio")
    assert config(batch_size=2, workers=3).key_fields() == plain.key_fields()


def test_the_space_names_the_very_weights(unfused: Path, tmp_path: Path) -> None:
    def space(folder: Path) -> str:
        return str(build_config("encoder", {"type": "hf_clap", "model": str(folder)}).emits("text").space.id)

    copy = tmp_path / unfused.name
    copy.mkdir()
    for file in unfused.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert space(copy) == space(unfused)
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(bytes(data))
    assert space(copy) != space(unfused)


def test_an_encoder_can_be_sent_to_a_worker(unfused: Path) -> None:
    encoder = clap(unfused)
    twin = pickle.loads(pickle.dumps(encoder))
    item = Sound(clip(1.5), 16_000)
    prepared = twin.prepare(item, "audio")
    assert prepared.windows.device.type == "cpu"
    assert torch.equal(prepared.windows, encoder.prepare(item, "audio").windows)
    assert torch.equal(twin.prepare("a dog", "text"), encoder.prepare("a dog", "text"))


def test_both_generations_of_transformers(unfused: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """4.57 gives the vectors, 5 an object that holds them."""
    encoder = clap(unfused)
    items = [Sound(clip(0.5), 16_000)]
    wanted = {"audio": encoder.encode(items, "audio").values, "text": encoder.encode(TEXTS, "text").values}
    for wrap in (lambda values: values * 3, lambda values: SimpleNamespace(pooler_output=values * 3)):
        with monkeypatch.context() as patch:
            for name in ("get_audio_features", "get_text_features"):
                patch.setattr(ClapModel, name, answering(getattr(ClapModel, name), wrap))
            same(encoder.encode(items, "audio").values, wanted["audio"])
            same(encoder.encode(TEXTS, "text").values, wanted["text"])


def answering(real: Any, wrap: Any) -> Any:
    return lambda self, **inputs: wrap(Reference.unit(real(self, **inputs)))


def test_lower_precision_is_close(unfused: Path) -> None:
    items = [Sound(clip(0.5, seed=i), 16_000) for i in range(3)]
    exact = clap(unfused).encode(items, "audio").values
    rough = clap(unfused, precision="bf16").encode(items, "audio").values
    assert rough.dtype == torch.float32
    assert 1e-6 < (exact - rough).abs().max() < 0.1


def test_configs_are_light() -> None:
    code = (
        "import sys\n"
        "from modbridge_clap.hf_clap_config import HfClapConfig\n"
        "assert HfClapConfig(model='laion/clap-htsat-unfused').emits('audio').space.dim == 512\n"
        "heavy = {'torch', 'transformers', 'numpy', 'soundfile'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- inline models ----------------------------------------------------------------------------------------------------


def test_random_weights_are_the_same_every_time_and_leave_the_global_stream_alone() -> None:
    before = torch.random.get_rng_state()
    one, two = build("encoder", RANDOM), build("encoder", RANDOM, seed=9)
    assert torch.equal(before, torch.random.get_rng_state())
    items = [Sound(clip(0.7, 8_000), 8_000), Sound(clip(1.7, 8_000), 8_000)]
    found: Any = one.encode(items, "audio").values  # type: ignore[attr-defined]
    assert torch.equal(found, two.encode(items, "audio").values)  # type: ignore[attr-defined]
    assert found.shape == (2, 16)
    texts: Any = one.encode(["a dog", "a d\u00f6g", "a dog " * 50, ""], "text").values  # type: ignore[attr-defined]
    assert torch.pdist(texts).min() > 1e-4
    space = build_config("encoder", RANDOM).emits("text").space
    other = build_config("encoder", RANDOM | {"model": TINY_MODEL | {"projection_dim": 8}}).emits("text").space
    assert (space.dim, other.dim) == (16, 8)
    assert space.id != other.id


def changed(part: str, **settings: Any) -> dict[str, Any]:
    return {"model": TINY_MODEL | {part: TINY_MODEL[part] | settings}}  # type: ignore[operator]


FOLDER = {"type": "hf_clap", "model": "laion/clap-htsat-unfused", "pretrained": None, "tokenizer": None}


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"pretrained": None}, "neither"),
        ({"train": {}}, "both"),
        ({"tokenizer": None}, "tokenizer"),
        ({"tokenizer": {"type": "words"}}, "needs `train`"),
        ({"model": {"projection_dim": 4}}, "audio_config"),
        ({"model": TINY_MODEL | {"projection_dim": True}}, "projection_dim"),
        ({"model": TINY_MODEL | {"more": 1}}, "more"),
        (changed("text_config", vocab_size=10), "vocab_size"),
        (changed("audio_config", num_mel_bins="many"), "num_mel_bins"),
        (changed("audio_config", spec_size=40), "spec_size"),
        (changed("audio_config", window_size=8), "window_size"),
        (changed("audio_config", num_attention_heads=[2]), "num_attention_heads"),
        (changed("audio_config", hidden_size=10), "hidden_size"),
        (changed("features", hop_length=50), "frames"),
        (changed("features", max_length_s=0.0001), "whole number"),
        (changed("features", frequency_max=5000), "frequency_max"),
        (changed("features", feature_size=20), "mel bins"),
        (changed("features", truncation="fusion"), "truncation"),
        ({"long_clips": "fusion"}, "fused"),
        ({"revision": "abc"}, "revision"),
        (FOLDER | {"train": {}}, "inline"),
        (FOLDER | {"model": "a b"}, "id on the hub"),
    ],
)
def test_mistakes_in_the_config_are_told(block: dict[str, Any], says: str) -> None:
    whole = {name: value for name, value in (RANDOM | block).items() if value is not None}
    with pytest.raises(ConfigError, match=says):
        build_config("encoder", whole)


def test_unknown_settings_of_an_inline_model_are_told() -> None:
    for part, name, near in (
        ("audio_config", "num_mel_bin", "num_mel_bins"),
        ("text_config", "hidden_sizes", "hidden_size"),
        ("features", "hop", "Known are"),
    ):
        with pytest.raises(DataError, match=f"{name}.*{near}"):
            build("encoder", RANDOM | changed(part, **{name: 3}))
    with pytest.raises(DataError, match="cannot be built"):
        build("encoder", RANDOM | changed("text_config", num_attention_heads=3))


# --- bad input --------------------------------------------------------------------------------------------------------


def test_sounds_of_every_sort_have_vectors_of_length_one(unfused: Path, fused: Path, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    soundfile.write(tmp_path / "short.wav", clip(0.01), 16_000)
    soundfile.write(tmp_path / "stereo.wav", np.stack([clip(0.5), clip(0.5, seed=1)], axis=1), 16_000)
    soundfile.write(tmp_path / "slow.wav", clip(0.5, 8_000), 8_000)
    soundfile.write(tmp_path / "deep.wav", clip(1.5), 16_000, subtype="PCM_24")
    files = sorted(tmp_path.glob("*.wav"))
    for folder in (unfused, fused):
        found = clap(folder).encode([str(path) for path in files], "audio").values
        torch.testing.assert_close(found.norm(dim=1), torch.ones(5))
    both = clap(unfused).encode([tmp_path / "stereo.wav"], "audio").values
    mean, _ = soundfile.read(tmp_path / "stereo.wav")
    same(both, Reference(unfused).audio(mean.mean(1).astype(np.float32)))


def test_what_is_no_sound_is_named(unfused: Path, tmp_path: Path) -> None:
    (tmp_path / "words.wav").write_text("only words")
    soundfile.write(tmp_path / "nan.wav", np.full(100, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "good.wav", clip(0.2), 16_000)
    encoder = clap(unfused)
    for name in ("words.wav", "nan.wav"):
        with pytest.raises(DataError, match=name):
            encoder.encode([tmp_path / "good.wav", tmp_path / name], "audio")
    with pytest.raises(DataError, match="rate"):
        encoder.encode([np.zeros(100)], "audio")


# --- bad models -------------------------------------------------------------------------------------------------------


def broken(source: Path, folder: Path, leave_out: tuple[str, ...] = ()) -> Path:
    for file in source.iterdir():
        if file.name not in leave_out:
            (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_a_model_of_another_architecture_is_told(unfused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path)
    CLIPConfig().save_pretrained(folder)
    with pytest.raises(DataError, match="'clip'"):
        clap(folder)


def test_weights_of_another_architecture_are_never_made_up(unfused: Path, fused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    save_file({"encoder.weight": torch.zeros(3)}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtefactError, match="missing"):
        clap(folder)
    some = {name: value for name, value in weights.items() if name != "audio_projection.linear2.bias"}
    save_file(some, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtefactError, match=r"1 missing \(audio_projection.linear2.bias\)"):
        clap(folder)
    save_file(
        weights | {"text_projection.linear1.bias": torch.zeros(5)}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(ArtefactError, match=r"text_projection\.linear1\.bias|shape|size"):
        clap(folder)
    (folder / "model.safetensors").write_bytes((fused / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(ArtefactError, match="cannot load"):
        clap(folder)
    computed = {name: value for name, value in weights.items() if not name.endswith("position_ids")}
    save_file(computed, folder / "model.safetensors", {"format": "pt"})  # as older files are
    same(clap(folder).encode(TEXTS, "text").values, clap(unfused).encode(TEXTS, "text").values)


def test_features_that_do_not_go_with_the_model_are_told(unfused: Path, fused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink(missing_ok=True)
    ClapFeatureExtractor().save_pretrained(folder)  # its default truncation is for fused models
    with pytest.raises(DataError, match="rand_trunc"):
        clap(folder)
    with pytest.raises(DataError, match="no fusion"):
        clap(unfused, long_clips="fusion")


def test_a_tokenizer_that_is_missing_or_another_is_told(unfused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path, ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"))
    with pytest.raises(ArtefactError, match=r"(?i)tokenizer"):
        clap(folder)
    small = Tokenizer(WordLevel({"<unk>": 0, "<pad>": 1}, unk_token="<unk>"))
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=small, unk_token="<unk>", pad_token="<pad>").save_pretrained(folder)
    with pytest.raises(ArtefactError, match="has 2 tokens"):
        clap(folder)


def test_a_text_tower_of_one_vector_is_told(unfused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.linear1.weight"] = torch.zeros_like(weights["text_projection.linear1.weight"])
    weights["text_projection.linear2.bias"] = torch.ones_like(weights["text_projection.linear2.bias"])
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtefactError, match="same vector"):
        clap(folder)


def test_a_text_tower_of_nearly_one_vector_is_warned_of(unfused: Path, tmp_path: Path) -> None:
    folder = broken(unfused, tmp_path)
    weights = load_file(folder / "model.safetensors")
    weights["text_projection.linear2.bias"] = torch.full_like(weights["text_projection.linear2.bias"], 4.0)
    (folder / "model.safetensors").unlink()
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.warns(UserWarning, match="collapsed"):
        clap(folder)


def test_the_hub_offline_fails_at_once_and_paths_are_told_apart(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SetupError, match="hf download laion/clap-htsat-unfused"):
        build("encoder", {"type": "hf_clap", "model": "laion/clap-htsat-unfused"})
    assert time.monotonic() - start < 5
    with pytest.raises(DataError, match="no such folder"):
        build_config("encoder", {"type": "hf_clap", "model": str(tmp_path / "none")}).emits("text")
    with pytest.raises(DataError, match=r"config\.json"):
        build_config("encoder", {"type": "hf_clap", "model": str(tmp_path)}).emits("text")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clap"}))
    with pytest.raises(DataError, match="no weights"):
        build_config("encoder", {"type": "hf_clap", "model": str(tmp_path)}).emits("text")
