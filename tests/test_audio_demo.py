"""The audio demo as a whole, at the smoke profile."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import modbridge
from modbridge.audio import load_audio
from modbridge.demo.config import SynthesisedSoundsConfig
from modbridge.demo.sounds import BACKGROUNDS, PITCHES, RATE, TIMBRES, SynthesisedSounds

UNPAIRED = [("mean_shift", "none"), ("diffusion_bridge", "none"), ("diffusion_link (text-only)", "none")]
PAIRED = [
    ("procrustes", "none"),
    ("ridge", "none"),
    ("pls_svd", "none"),
    ("diffusion_link", "none"),
    ("diffusion_link", "diffusion"),
]


def test_the_smoke_demo_fills_its_table_and_captions_a_recording(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, "-m", "modbridge", "demo", "--modality=audio", "--profile=smoke", "--json", f"--out={out}"],
        env={**os.environ, "MODBRIDGE_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    rows = {(row["bridge"], row["augment"]): row for row in result["rows"]}
    assert set(rows) == {("identity", "none"), *UNPAIRED, *PAIRED, ("oracle", "none")}
    assert rows["oracle", "none"]["paired_cosine"] == pytest.approx(1.0)
    for method in (*UNPAIRED, *PAIRED):
        assert rows[method]["n"] == 24
        assert rows[method]["gap_norm"] < 0.5 * rows["identity", "none"]["gap_norm"]
    for method in PAIRED:  # what pairs teach, not even the smallest run misses
        assert rows[method]["centred_paired_cosine"] > rows["mean_shift", "none"]["centred_paired_cosine"] + 0.1
    assert set(result["probe"]) == {"objects", "pitches", "timbres"}
    assert (out / "report.html").is_file()

    source = SynthesisedSounds(SynthesisedSoundsConfig(type="synthesised_sounds", split="test", count=1))
    wav = tmp_path / "clip.wav"
    soundfile.write(wav, load_audio(source.media(0), RATE), RATE, subtype="FLOAT")
    said = modbridge.load(out).caption([str(wav), source.media(0)])
    assert said[0] == said[1]
    words = {"a", "loud", "soft", "pulsing", "steady", "and", "then", "after", *PITCHES, *TIMBRES}
    assert set(said[0].split()) <= words | {word for phrase in BACKGROUNDS.values() for word in phrase.split()}
