"""A tiny world on disk, and the command line called in-process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

TOY = Path(__file__).parent / "toy_plugin.py"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


def draw_world(folder: Path, count: int, start: int = 0) -> Path:
    """A jsonl file of plain coloured images with two captions each."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(start, start + count):
        colour = list(COLOURS)[i % 3]
        shade = tuple(min(255, value + i) for value in COLOURS[colour])
        Image.new("RGB", (8, 8), shade).save(folder / "images" / f"{i:03d}.png")
        lines.append({"image": f"{i:03d}.png", "captions": [f"a {colour} picture", f"it is all {colour}"]})
    path = folder / f"world{start}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A config of a whole pipeline over a tiny world."""
    folder = tmp_path / "world"
    draw_world(folder, 24)
    draw_world(folder, 9, start=24)
    config = tmp_path / "toy.yaml"
    config.write_text(
        f"""\
name: toy
paths:
  data: {folder}
data:
  train: {{type: jsonl, path: "${{paths.data}}/world0.jsonl", root: "${{paths.data}}/images"}}
  test: {{type: jsonl, path: "${{paths.data}}/world24.jsonl", root: "${{paths.data}}/images"}}
encoder: toy_colours
bridge: mean_shift
decoder: {{type: toy_recite, steps: 30}}
metrics: [bleu, cider]
""",
        encoding="utf-8",
    )
    return config
