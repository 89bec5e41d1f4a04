"""The `laion_clap` encoder: what it refuses, what it leaves alone, and vectors that depend on the item alone."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from laion_clap.training.data import float32_to_int16, get_audio_features, get_mel, int16_to_float32
from modbridge_laion_clap.checkpoint import read_checkpoint
from modbridge_laion_clap.features import LaionFeatures, sixteen_bits

from modbridge.audio import Sound
from modbridge.clips import stacked
from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.testing import build, build_config

RATE, LENGTH, HOP = 48_000, 480_000, 480
AUDIO = {
    "sample_rate": RATE, "window_size": 1024, "hop_size": HOP, "mel_bins": 64, "fmin": 50, "fmax": 14_000,
}  # fmt: skip


def noise(seconds: float, seed: int = 0) -> Any:
    return (0.1 * np.random.default_rng(seed).standard_normal(round(seconds * RATE))).astype(np.float32)


def features(long_clips: str = "crop", where: Any = "centre", seed: int = 0, *, fused: bool = False) -> LaionFeatures:
    mel = (lambda samples: get_mel(samples, AUDIO)) if fused else None
    return LaionFeatures(LENGTH, HOP, mel, int16=False, long_clips=long_clips, where=where, seed=seed)


# What it refuses


def test_no_tokenizers_offline(reference: Any, empty_cache: Callable[[], Path]) -> None:
    folder = empty_cache()
    with pytest.raises(SetupError, match=r"roberta-base is not in the cache.*hf download roberta-base.*tokenizers"):
        build("encoder", reference.config(tokenizers=None))
    with pytest.raises(SetupError, match=r"no such folder.*hf download roberta-base"):
        build("encoder", reference.config(tokenizers=str(folder)))
    (folder / "models--bert-base-uncased").mkdir(parents=True)
    with pytest.raises(SetupError, match=r"no models--roberta-base.*hf download roberta-base"):
        build("encoder", reference.config(tokenizers=str(folder)))


def test_a_tokenizer_of_another_size(reference: Any, tmp_path: Path) -> None:
    """transformers makes a tokenizer of five tokens of a folder without the files, and does not say so."""
    snapshot = tmp_path / "models--roberta-base" / "snapshots" / "x"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"model_type": "roberta"}')
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("x")
    with pytest.raises(ArtefactError, match="roberta-base"):
        build("encoder", reference.config(tokenizers=str(tmp_path)))


def test_checkpoints_of_another_network(reference: Any, tmp_path: Path) -> None:
    with pytest.raises(ArtefactError, match=r"not those of HTSAT-base.*`audio_model: HTSAT-tiny` with `fusion: false`"):
        build("encoder", reference.config(audio_model="HTSAT-base"))
    with pytest.raises(
        ArtefactError, match=r"with fusion: \d+ missing.*`audio_model: HTSAT-tiny` with `fusion: false`"
    ):
        build("encoder", reference.config(fusion=True))
    torch.save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "other.pt")
    with pytest.raises(ArtefactError, match=r"1 unknown \(fc\.weight\).*hf_clap"):
        build("encoder", reference.config(checkpoint=str(tmp_path / "other.pt")))


def test_files_that_are_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a checkpoint")
    (tmp_path / "empty.pt").write_bytes(b"")
    torch.save({"state_dict": {}}, tmp_path / "bare.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"w": torch.randn(1000)}, tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:2000])
    for name in ("text", "empty", "bare", "list", "cut"):
        with pytest.raises(ArtefactError, match=f"{name}.pt"):
            read_checkpoint(tmp_path / f"{name}.pt")


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return (Path.touch, (self.target,))


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.zeros(1)}, "extra": Hostile(tmp_path / "ran")}, tmp_path / "bad.pt")
    with pytest.raises(ArtefactError, match=r"could run code"):
        read_checkpoint(tmp_path / "bad.pt")
    assert not (tmp_path / "ran").exists()


def test_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"fusion: true"):
        build_config("encoder", {"type": "laion_clap", "checkpoint": "x.pt", "long_clips": "fusion"})
    with pytest.raises(DataError, match=r"no such file.*lukewys/laion_clap"):
        build_config("encoder", {"type": "laion_clap", "checkpoint": str(tmp_path / "x.pt")}).emits("audio")
    for name, content in (("a", b"1"), ("b", b"2")):
        (tmp_path / f"{name}.pt").write_bytes(content)
    ports = [build_config("encoder", {"type": "laion_clap", "checkpoint": str(tmp_path / f"{n}.pt")}).emits("audio")
             for n in "ab"]  # fmt: skip
    assert ports[0].space.dim == 512
    assert ports[0].space != ports[1].space


# What it leaves alone

AROUND = """
import os, random, sys
import numpy, torch, transformers
from huggingface_hub import constants
names = "BertTokenizer RobertaTokenizer BartTokenizer RobertaModel"
classes = [getattr(transformers, name) for name in names.split()]
def state():
    return (list(sys.path), dict(os.environ), constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE, random.getstate(),
            numpy.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes(),
            ["from_pretrained" in vars(c) for c in classes], [c.from_pretrained.__func__ for c in classes])
before = state()
from modbridge_laion_clap.package import draw_network
draw_network("HTSAT-tiny", False)
after = state()
sys.exit([i for i, (a, b) in enumerate(zip(before, after)) if a != b] or 0)
"""


def test_import_and_network_change_nothing_around_them() -> None:
    done = subprocess.run([sys.executable, "-c", AROUND], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


# Vectors that depend on the item alone


def test_vectors_do_not_depend_on_the_batch(reference: Any, encoder: Any) -> None:
    for items, modality in ((reference.sounds, "audio"), (reference.texts, "text")):
        together = encoder.encode(items, modality).values
        alone = torch.cat([encoder.encode([item], modality).values for item in items])
        assert torch.allclose(together, alone, atol=1e-5)
        assert torch.allclose(together.norm(dim=1), torch.ones(len(items)), atol=1e-6)
        assert torch.equal(together, encoder.encode(items, modality).values)


def test_fused_vectors_do_not_depend_on_the_batch(fused: Any, fused_encoder: Any) -> None:
    np.random.seed(0)
    together = fused_encoder.encode(fused.sounds[:5], "audio").values
    np.random.seed(1)
    alone = torch.cat([fused_encoder.encode([item], "audio").values for item in fused.sounds[:5]])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_corrupt_file_is_named(encoder: Any, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "good.wav", noise(1), RATE)
    (tmp_path / "bad.wav").write_text("no sound")
    with pytest.raises(DataError, match=r"bad\.wav"):
        encoder.encode([tmp_path / "good.wav", tmp_path / "bad.wav"], "audio")
    with pytest.raises(DataError, match="NaN"):
        encoder.encode([Sound(np.full(RATE, np.nan), RATE)], "audio")
    with pytest.raises(DataError, match="a text was expected"):
        encoder.encode([3], "text")


def test_the_mean_of_windows(reference: Any, encoder: Any) -> None:
    """Of 25 s: windows from 0, 10 and 15 s."""
    clip = noise(25)
    mean = build("encoder", reference.config(int16=False, long_clips="mean"))
    found = mean.encode([Sound(clip, RATE)], "audio").values[0]
    parts = [Sound(clip[at * RATE : (at + 10) * RATE], RATE) for at in (0, 10, 15)]
    wanted = torch.nn.functional.normalize(encoder.encode(parts, "audio").values.mean(0), dim=0)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_short_clips_are_padded_as_by_the_package() -> None:
    for seconds in (0.01, 3.0, 7.3, 10.0):
        clip = noise(seconds)
        wanted = get_audio_features({}, torch.from_numpy(clip), LENGTH, "fusion", "repeatpad", AUDIO)
        assert torch.equal(features()(clip).windows[0], wanted["waveform"])
        found = features("fusion", fused=True)(clip)
        assert torch.equal(found.windows[0], wanted["mel_fusion"])
        assert not found.longer


def test_crops_of_long_clips() -> None:
    clip = noise(25)
    assert np.array_equal(features(where="start")(clip).windows[0], clip[:LENGTH])
    assert np.array_equal(features(where="centre")(clip).windows[0], clip[360_000 : 360_000 + LENGTH])
    np.random.seed(0)
    drawn = [features(where="random", seed=seed)(clip).windows[0] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_fusion_of_long_clips() -> None:
    """A window of each third, and the whole at their length; numpy's global generator stays where it is."""
    clip = noise(25)
    before = np.random.get_state()[1].copy()
    found = features("fusion", fused=True)(clip)
    assert np.array_equal(np.random.get_state()[1], before)
    assert found.longer
    assert found.windows.shape == (1, 4, 1001, 64)
    mel = get_mel(torch.from_numpy(clip), AUDIO)
    starts = [
        next(at for at in range(len(mel) - 1000) if torch.equal(mel[at], window[0])) for window in found.windows[0, 1:]
    ]
    thirds = np.array_split(np.arange(len(mel) - 1000), 3)
    assert all(start in third for start, third in zip(starts, thirds, strict=True))
    for start, window in zip(starts, found.windows[0, 1:], strict=True):
        assert torch.equal(mel[start : start + 1001], window)
    assert torch.allclose(found.windows[0, 0].mean(), mel.mean(), atol=0.1)


def test_sixteen_bits_are_the_packages() -> None:
    clip = np.concatenate([noise(1) * 8, np.float32([-2, -1, 0, 1, 2, 1e-6])])
    assert np.array_equal(sixteen_bits(clip), int16_to_float32(float32_to_int16(clip)))


def test_prepared_clips_travel_between_processes() -> None:
    clip = features()(noise(1))
    assert torch.equal(pickle.loads(pickle.dumps(clip)).windows, clip.windows)
    assert stacked([clip, clip])["windows"].shape == (2, LENGTH)
