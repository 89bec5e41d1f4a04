"""A made-up set of pictures with captions of unlike lengths, and the config of an experiment on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WORDS = (
    "a",
    "the",
    "red",
    "blue",
    "old",
    "small",
    "dog",
    "cat",
    "house",
    "river",
    "runs",
    "near",
    "under",
    "with",
    "two",
)
VIT_B_32: dict[str, Any] = {"model": "ViT-B-32", "pretrained": "random"}
TINY: dict[str, Any] = {
    "model": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
    "pretrained": "random",
}


def write_pictures(folder: Path, count: int, captions: int = 1, side: tuple[int, int] = (640, 480)) -> Path:
    """`count` JPEGs of COCO's size, noise over coarse colours, and items.jsonl with `captions` a picture, of 3 to 40
    words."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = np.random.default_rng(0)
    lines = []
    for number in range(count):
        coarse = drawn.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = np.asarray(Image.fromarray(coarse).resize(side, Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = np.clip(picture + drawn.normal(0, 12, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / f"{number:05d}.jpg", quality=90)
        texts = [" ".join(drawn.choice(WORDS, int(drawn.integers(3, 41)))) for _ in range(captions)]
        lines.append(json.dumps({"image": f"{number:05d}.jpg", "captions": texts}))
    path = folder / "items.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_config(path: Path, data: Path, encoder: dict[str, Any], **more: Any) -> Path:
    """An experiment on `data`. JSON is YAML."""
    source = {"type": "jsonl", "path": str(data), "modality": "image", "captions": "captions"}
    tree = {
        "data": {"train": source, "test": source},
        "encoder": {"type": "open_clip", **encoder},
        "bridge": {"type": "mean_shift"},
        **more,
    }
    path.write_text(json.dumps(tree, indent=1), encoding="utf-8")
    return path
