"""The command line called in-process, and a tiny world on disk whose captions name colours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220)}


def draw(folder: Path, count: int, start: int) -> None:
    (folder / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for i in range(start, start + count):
        colour = list(COLOURS)[i % 3]
        shade = tuple(min(255, value + i) for value in COLOURS[colour])
        Image.new("RGB", (8, 8), shade).save(folder / "images" / f"{i:03d}.png")
        lines.append({"image": f"{i:03d}.png", "captions": [f"a {colour} picture", f"it is all {colour}"]})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / f"world{start}.jsonl").write_text(text, encoding="utf-8")


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A config that finds colours in plain images, among four names of which one is nowhere."""
    folder = tmp_path / "world"
    draw(folder, 18, 0)
    draw(folder, 6, 18)
    config = tmp_path / "toy.yaml"
    config.write_text(
        f"""\
name: toy
data:
  train: {{type: jsonl, path: "{folder}/world0.jsonl", root: "{folder}/images"}}
  test: {{type: jsonl, path: "{folder}/world18.jsonl", root: "{folder}/images"}}
encoder: toy_colours
bridge: mean_shift
decoder:
  type: viecap
  writer:
    type: prefix_lm
    lm: {{n_layer: 1, n_head: 2, n_embd: 16, n_positions: 48}}
    tokenizer: words
    prefix_length: 2
    steps: 40
    batch_size: 12
    lr: 1e-2
    generate: {{max_new_tokens: 6}}
  vocabulary: {{type: names, names: [red, green, blue, purple]}}
  entities: {{stop_words: false}}
  retrieval: {{type: softmax, temperature: 0.2, threshold: 0.5}}
metrics: [bleu]
""",
        encoding="utf-8",
    )
    return config
