"""Tiny files for the parts that read some, and configs that read them: what the conformance checks try them on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from modbridge_clap.plugin import TINY_MODEL

_RATE = 8000


def hf_clap(at: Path) -> dict[str, Any]:
    """A tiny model that the run trains, on words that it learns."""
    train = {"epochs": 4, "batch_size": 8, "warmup": 1}
    return {"model": TINY_MODEL, "train": train, "tokenizer": {"type": "words"}}


def audiocaps(at: Path) -> dict[str, Any]:
    """AudioCaps' table with four clips, of which one has two captions."""
    rows = ["audiocap_id,youtube_id,start_time,caption"]
    for row in range(4):
        _clip(at / f"clip{row}______.wav", row)
        rows.append(f"{row},clip{row}______,0,Tone number {row}")
    rows.append("4,clip0______,0,A deep tone")
    (at / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"captions": str(at / "captions.csv"), "audio": str(at), "names": "{youtube_id}.wav"}


def clotho(at: Path) -> dict[str, Any]:
    """Clotho's table with four clips."""
    rows = ["file_name,caption_1,caption_2,caption_3,caption_4,caption_5"]
    for row in range(4):
        _clip(at / f"{row}.wav", row)
        rows.append(",".join([f"{row}.wav", *(f"Tone {row} as hearer {number} has it" for number in range(5))]))
    (at / "captions.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return {"captions": str(at / "captions.csv"), "audio": str(at)}


def _clip(path: Path, row: int) -> None:
    """A tenth of a second of a tone of its own."""
    time = np.arange(_RATE // 10) / _RATE
    soundfile.write(path, (0.3 * np.sin(2 * np.pi * 200 * (row + 1) * time)).astype(np.float32), _RATE)
