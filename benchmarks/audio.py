"""Clips a second of an audio encoder: reading and resampling, features, and the network.

    uv run python benchmarks/audio.py FOLDER              # all sound files beneath it; 48 kHz, 10 s, HTSAT-tiny
    uv run python benchmarks/audio.py FOLDER --size tiny  # a toy network of the same rate and window
    uv run python benchmarks/audio.py FOLDER --json FILE  # also write every number there

Weights are random: they change no time. The features are measured by our own code and by transformers'
ClapFeatureExtractor on the same samples, with the largest difference between the two (dB). One process; torch's threads
as they are set (OMP_NUM_THREADS).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modbridge_clap.hf_clap_features import ClapFeatures
from transformers import ClapFeatureExtractor

from modbridge.audio import load_audio
from modbridge.testing import build

KINDS = (".wav", ".flac", ".ogg", ".mp3", ".aiff")
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 65,
}
SIZES: dict[str, dict[str, Any]] = {
    "htsat-tiny": {},
    "tiny": {"patch_embeds_hidden_size": 8, "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 2, 2]},
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=sorted(SIZES), default="htsat-tiny")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    files = sorted(path for path in options.folder.rglob("*") if path.suffix.lower() in KINDS)
    if not files:
        parser.error(f"no sound files ({', '.join(KINDS)}) under {options.folder}")
    found = measure(files, options.size, options.batch)
    show(found)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def measure(files: Sequence[Path], size: str, batch: int) -> dict[str, Any]:
    """Seconds of each step over all files."""
    model = {"projection_dim": 512, "audio_config": SIZES[size], "text_config": TEXT}
    block = {"type": "hf_clap", "model": model, "pretrained": "random", "tokenizer": {"type": "bytes"}}
    encoder: Any = build("encoder", block)
    extractor: Any = ClapFeatureExtractor(truncation="rand_trunc")
    features = ClapFeatures(extractor, "crop", "centre", 0)
    rate = encoder.sample_rate

    def theirs(samples: np.ndarray) -> torch.Tensor:
        given = extractor(samples, sampling_rate=rate, return_tensors="pt")["input_features"]
        return torch.as_tensor(given[0])

    load_audio(files[0], rate)  # what is set up once is not counted
    encoder.encode([files[0]], "audio")
    samples, loading = timed(lambda path: load_audio(path, rate), files)
    clips, ours = timed(features, samples)
    fit = [part[: features.length] for part in samples]
    other, extracting = timed(theirs, fit)
    apart = max(
        float((clip.windows[0] - mel).abs().max())
        for clip, mel, part in zip(clips, other, samples, strict=True)
        if len(part) <= features.length
    )
    groups = [clips[at : at + batch] for at in range(0, len(clips), batch)]
    _, encoding = timed(lambda group: encoder.embed_batch(encoder.collate(group, "audio"), "audio", len(group)), groups)
    rows = {
        "read and resample": loading,
        "features (ours)": ours,
        "features (transformers)": extracting,
        "network": encoding,
        "all of ours": loading + ours + encoding,
    }
    return {
        "clips": len(files),
        "seconds_of_sound": sum(len(part) for part in samples) / rate,
        "rate": rate,
        "window_seconds": features.length / rate,
        "network": f"{size}, {encoder.parameter_count():,} parameters, batches of {batch}",
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "largest difference of features": apart,
        "rows": [
            {"step": step, "seconds": seconds, "clips_a_second": len(files) / seconds} for step, seconds in rows.items()
        ],
    }


def timed(call: Callable[[Any], Any], items: Sequence[Any]) -> tuple[list[Any], float]:
    begun = time.perf_counter()
    done = [call(item) for item in items]
    return done, time.perf_counter() - begun


def show(found: dict[str, Any]) -> None:
    print(
        f"{found['clips']} clips, {found['seconds_of_sound']:.0f} s of sound, to {found['rate']} Hz in windows of "
        f"{found['window_seconds']:g} s; {found['network']}; {found['threads']} threads; {found['machine']}\n"
    )
    print(f"{'step':25s} {'s':>8s} {'clips/s':>9s}")
    for row in found["rows"]:
        print(f"{row['step']:25s} {row['seconds']:8.2f} {row['clips_a_second']:9.1f}")
    print(f"\nlargest difference of the two features: {found['largest difference of features']:.1e} dB")


if __name__ == "__main__":
    raise SystemExit(main())
