"""Thirty real recordings through loading, resampling, windowing and an encoder of toy weights."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from modbridge_clap.plugin import TINY_MODEL

from modbridge.audio import crop, load_audio, window_starts
from modbridge.errors import DataError
from modbridge.testing import build

RATE = 48_000
MODEL = TINY_MODEL | {
    "features": {"sampling_rate": RATE, "max_length_s": 2, "hop_length": 1600, "fft_window_size": 1024},
}


@pytest.fixture(scope="module")
def recordings(requires_data: Path) -> list[Path]:
    files = sorted((requires_data / "audio" / "esc10").glob("*/*.ogg"))
    assert len(files) == 30
    return files


def encoder(**options: Any) -> Any:
    return build(
        "encoder",
        {"type": "hf_clap", "model": MODEL, "pretrained": "random", "tokenizer": {"type": "bytes"}} | options,
    )


def test_recordings_are_loaded_and_resampled(recordings: list[Path]) -> None:
    for path in recordings[:6]:
        samples, rate = soundfile.read(path, always_2d=True)
        found = load_audio(path, RATE)
        assert abs(len(found) - len(samples) * RATE / rate) <= 1
        mono = samples.mean(1)
        # the same energy below the lower rate's limit, by another road
        bins = np.fft.rfftfreq(len(mono), 1 / rate) < 0.4 * min(rate, RATE)
        wanted = (np.abs(np.fft.rfft(mono)[bins]) ** 2).sum() / len(mono) ** 2
        bins = np.fft.rfftfreq(len(found), 1 / RATE) < 0.4 * min(rate, RATE)
        energy = (np.abs(np.fft.rfft(found)[bins]) ** 2).sum() / len(found) ** 2
        assert energy == pytest.approx(wanted, rel=0.02)


def test_windows_cover_recordings(recordings: list[Path]) -> None:
    for path in recordings[:6]:
        samples = load_audio(path, RATE)
        covered = np.zeros(len(samples), dtype=bool)
        for at in window_starts(len(samples), 2 * RATE):
            covered[at : at + 2 * RATE] = True
        assert covered.all()
        assert len(crop(samples, 2 * RATE, "random", 1)) == min(len(samples), 2 * RATE)


@pytest.mark.parametrize("options", [{}, {"crop": "random"}, {"long_clips": "mean"}])
def test_one_batch_and_one_by_one(recordings: list[Path], options: dict[str, Any]) -> None:
    model = encoder(**options)
    together = model.encode(recordings, "audio").values
    assert together.shape == (30, 16)
    alone = torch.cat([model.encode([path], "audio").values for path in recordings])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    if "crop" not in options:  # a random window may fall into the silence that some end in
        assert len(torch.unique(together, dim=0)) == 30


def test_a_batch_with_a_corrupt_file_names_it(recordings: list[Path], tmp_path: Path) -> None:
    for path in recordings[:5]:
        shutil.copy(path, tmp_path / path.name)
    files = sorted(tmp_path.iterdir())
    content = files[3].read_bytes()
    for damage in (content[: len(content) // 2], b"", b"no sound" * 1000, content[:100] + bytes(len(content) - 100)):
        files[3].chmod(0o644)
        files[3].write_bytes(damage)
        with pytest.raises(DataError, match=files[3].name):
            encoder().encode(files, "audio")
