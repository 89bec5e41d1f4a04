"""Reading sound: formats, rates, channels, what is refused, and windows."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modbridge.audio import Sound, crop, drawn, load_audio, window_starts
from modbridge.errors import DataError

RATE = 48_000


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 96_000])
def test_any_rate_gives_the_same_tone_at_the_wanted_rate(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(1.0, rate), rate, subtype="FLOAT")
    found = load_audio(path, RATE)
    assert found.dtype == np.float32
    assert abs(len(found) - RATE) <= 1
    inner = slice(RATE // 10, -RATE // 10)  # a resampler's edges ring
    np.testing.assert_allclose(found[:RATE][inner], tone(1.0, RATE)[: len(found)][inner], atol=2e-4)


@pytest.mark.parametrize(
    ("name", "subtype", "step"),
    [
        ("a.wav", "PCM_U8", 2**-7),
        ("a.wav", "PCM_16", 2**-15),
        ("a.wav", "PCM_24", 2**-23),
        ("a.wav", "PCM_32", 2**-23),
        ("a.wav", "DOUBLE", 2**-23),
        ("a.flac", "PCM_24", 2**-23),
        ("a.aiff", "PCM_16", 2**-15),
        ("a.au", "PCM_16", 2**-15),
    ],
)
def test_bit_depths(tmp_path: Path, name: str, subtype: str, step: float) -> None:
    wave = tone(0.1, 16_000)
    soundfile.write(tmp_path / name, wave, 16_000, subtype=subtype)
    np.testing.assert_allclose(load_audio(tmp_path / name, 16_000), wave, atol=1.01 * step)


@pytest.mark.parametrize("name", ["a.ogg", "a.mp3"])
def test_lossy_formats(tmp_path: Path, name: str) -> None:
    wave = tone(1.0, 24_000)
    soundfile.write(tmp_path / name, wave, 24_000)
    found = load_audio(tmp_path / name, 24_000)
    assert abs(np.sqrt((found**2).mean()) / np.sqrt((wave**2).mean()) - 1) < 0.05


@pytest.mark.parametrize("channels", [2, 6])
def test_channels_are_averaged(tmp_path: Path, channels: int) -> None:
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, size=(800, channels))
    soundfile.write(tmp_path / "many.wav", wave, 16_000, subtype="FLOAT")
    np.testing.assert_allclose(load_audio(tmp_path / "many.wav", 16_000), wave.mean(1), atol=1e-6)
    np.testing.assert_allclose(load_audio(Sound(wave, 16_000), 16_000), wave.mean(1), atol=1e-6)


def test_integers_in_memory_are_scaled() -> None:
    for dtype, values, expected in [
        (np.int16, [-32768, 0, 16384], [-1, 0, 0.5]),
        (np.int32, [-(2**31), 0, 2**30], [-1, 0, 0.5]),
        (np.uint8, [0, 128, 192], [-1, 0, 0.5]),
    ]:
        np.testing.assert_allclose(load_audio(Sound(np.array(values, dtype), 16_000), 16_000), expected)


def test_silence_and_very_short_clips_are_fine(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "silence.wav", np.zeros(16_000), 16_000)
    assert not load_audio(tmp_path / "silence.wav", 32_000).any()
    soundfile.write(tmp_path / "short.wav", tone(0.01, 44_100), 44_100)
    assert abs(len(load_audio(tmp_path / "short.wav", 16_000)) - 160) <= 1
    one = load_audio(Sound(np.array([0.25, 0.25]), 48_000), 8_000)
    np.testing.assert_allclose(one, [0.25])


def broken(folder: Path) -> dict[str, Path]:
    """Files that must be refused, by what is wrong with them."""
    wave = np.random.default_rng(0).uniform(-0.5, 0.5, size=16_000)
    for name in ("wav", "flac", "ogg", "mp3", "aiff"):
        path = folder / f"cut.{name}"
        soundfile.write(path, wave, 16_000)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    (folder / "text.wav").write_text("no sound at all, only words " * 20)
    (folder / "empty.wav").write_bytes(b"")
    (folder / "headerless.raw").write_bytes(b"\0" * 1000)
    soundfile.write(folder / "none.wav", np.zeros(0), 16_000)
    soundfile.write(folder / "slow.wav", wave, 7)
    wave[5] = np.nan
    soundfile.write(folder / "nan.wav", wave, 16_000, subtype="FLOAT")
    wave[5] = np.inf
    soundfile.write(folder / "inf.wav", wave, 16_000, subtype="FLOAT")
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("cut.wav", "cut off"),
        ("cut.aiff", "cut off"),
        ("cut.ogg", "cut off"),
        ("cut.mp3", "cut off"),
        ("cut.flac", "cannot be read"),
        ("text.wav", "cannot be read"),
        ("empty.wav", "cannot be read"),
        ("headerless.raw", "cannot be read"),
        ("none.wav", "no samples"),
        ("slow.wav", "rate of 7 Hz"),
        ("nan.wav", "NaN or infinite"),
        ("inf.wav", "NaN or infinite"),
    ],
)
def test_broken_files_are_named(tmp_path: Path, name: str, told: str) -> None:
    path = broken(tmp_path)[name]
    with pytest.raises(DataError, match=told) as caught:
        load_audio(path, RATE)
    assert str(path) in str(caught.value)


def test_a_stream_of_unknown_length_is_read(tmp_path: Path) -> None:
    path = tmp_path / "stream.wav"
    soundfile.write(path, tone(0.1, 16_000), 16_000)
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[at + 4 : at + 8] = b"\xff\xff\xff\xff"  # as ffmpeg writes it into a pipe
    path.write_bytes(content)
    assert len(load_audio(path, 16_000)) == 1600


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        load_audio(tmp_path / "missing.wav", RATE)
    with pytest.raises(DataError, match="folder"):
        load_audio(str(tmp_path), RATE)


@pytest.mark.parametrize(
    ("item", "told"),
    [
        (np.zeros(100), "sample rate"),
        (None, "NoneType"),
        (Sound(np.zeros((2, 1000)), 16_000), "Turn"),
        (Sound(np.zeros((1, 2, 3)), 16_000), "shape"),
        (Sound(np.zeros(0), 16_000), "no samples"),
        (Sound(np.array([0.0, np.nan]), 16_000), "NaN"),
        (Sound(np.zeros(10), 10**9), "rate"),
        (Sound(np.zeros(10), 16_000.5), "rate"),  # type: ignore[arg-type]
        (Sound(np.zeros(10, bool), 16_000), "bool"),
    ],
)
def test_what_is_no_sound_is_refused(item: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        load_audio(item, RATE)


@pytest.mark.parametrize(
    ("total", "starts"),
    [(1, [0]), (10, [0]), (11, [0, 1]), (20, [0, 10]), (25, [0, 10, 15]), (30, [0, 10, 20])],
)
def test_windows_cover_the_clip_and_end_with_it(total: int, starts: list[int]) -> None:
    assert window_starts(total, 10) == starts


def test_crops() -> None:
    clip = np.arange(100, dtype=np.float32)
    assert crop(clip, 200, "random", 1) is clip
    assert crop(clip, 10, "start")[0] == 0
    assert crop(clip, 10, "centre")[0] == 45
    places = {float(crop(clip + i, 10, "random", 3)[0] - i) for i in range(300)}
    assert min(places) < 10  # all of the clip is within reach
    assert max(places) > 80
    assert {float(crop(clip, 91, "random", seed)[0]) for seed in range(200)} == set(range(10))


def test_a_random_crop_depends_on_seed_and_clip_alone() -> None:
    clip = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    np.random.seed(0)
    first = crop(clip, 10, "random", 5)
    np.random.seed(1)
    np.testing.assert_array_equal(first, crop(clip.copy(), 10, "random", 5))
    number = int(hashlib.sha256(b"5:crop:" + clip.tobytes()).hexdigest()[:32], 16)
    assert drawn(clip, 5, 991) == number * 991 // 2**128
    np.testing.assert_array_equal(first, clip[drawn(clip, 5, 991) :][:10])


def test_samples_beyond_float32_are_refused() -> None:
    with pytest.raises(DataError, match="beyond what float32 holds"), np.errstate(over="ignore"):
        load_audio(Sound(np.full(100, 1e300), 8000), 8000)


@pytest.mark.parametrize("mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_that_does_not_tell_its_length_is_refused(tmp_path: Path, mode: str) -> None:
    """Without its first frame, which holds the header, a file of variable bit rate would be read in part."""
    whole, bare = tmp_path / "whole.mp3", tmp_path / "bare.mp3"
    noise = 0.3 * np.random.default_rng(0).standard_normal(12 * 44_100)
    soundfile.write(str(whole), noise, 44_100, format="MP3", bitrate_mode=mode, compression_level=0.3)
    content = whole.read_bytes()
    rates = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320]  # kbit/s of MPEG 1, layer III
    first = 144_000 * rates[content[2] >> 4] // 44_100 + (content[2] >> 1 & 1)
    bare.write_bytes(content[first:])
    assert abs(len(load_audio(whole, 44_100)) - 12 * 44_100) < 3_000
    with pytest.raises(DataError, match=r"bare\.mp3: an MP3 without a header"):
        load_audio(bare, 44_100)
