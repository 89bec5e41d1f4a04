"""The sheet of the VLV demo: held-out pictures beside what was painted of them, and pictures painted of two at once.

VLV composes pictures by their embeddings: some tokens of one, then some of another (arXiv 2507.07104). Which tokens is
not said there; here they are the first half of one picture's and the last half of another's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from modbridge.assembly.pipeline import Pipeline
from modbridge.composition import compose
from modbridge.demo.placed_reading import Seen, read_placed
from modbridge.demo.scenes import SIDE
from modbridge.errors import DataError
from modbridge.interfaces.source import Source
from modbridge.spaces import Embeddings

SHEET = "figures/sheet.png"
PAIRS = 100
_SHOWN, _SCALE, _GAP, _LEFT = 10, 3, 4, 190
_LINES = {"vlv": "painted of its embedding", "true captions": "of its true caption", "random": "without stage 1"}
Picture = NDArray[np.uint8]


def composed(pipeline: Pipeline, pictures: Sequence[Picture]) -> list[Picture]:
    """Picture i and the one half the list further, in one: painted of the first half of the tokens of the one and the
    last half of those of the other."""
    encoded = pipeline.encode(pictures, to="image")
    half = len(pictures) // 2
    one, other = encoded.select(range(half)), encoded.select(range(half, 2 * half))
    tokens = encoded.port.tokens or 0
    kept = tokens // 2
    last = Embeddings(other.values[:, kept:], other.port.changed(tokens=tokens - kept), other.keys)
    both = compose([one, last], [kept, tokens - kept])
    return [_image(decoded.image) for decoded in pipeline.decode(both, to="image")]


def composition(pipeline: Pipeline, source: Source[Any]) -> dict[str, float]:
    """Whose colour, shape and place composed pictures show: `colour_first`, `colour_last` ..., shares of the pairs in
    which the two differ in it."""
    pictures = [source.media(row) for row in range(min(2 * PAIRS, len(source)) // 2 * 2)]
    half = len(pictures) // 2
    seen = [read_placed(picture) for picture in composed(pipeline, pictures)]
    there = [_there(source, row) for row in range(len(pictures))]
    found = {}
    for what in ("colour", "shape", "place"):
        rows = [row for row in range(half) if getattr(there[row], what) != getattr(there[row + half], what)]
        for whose, shift in (("first", 0), ("last", half)):
            right = [getattr(seen[row], what, None) == getattr(there[row + shift], what) for row in rows]
            found[f"{what}_{whose}"] = fmean(right) if right else 0.0
    return found


def draw_sheet(run: Path, pipeline: Pipeline, source: Source[Any]) -> Path:
    """The sheet of a finished run of the demo, in its folder. Raises DataError for a run of another config."""
    count = min(_SHOWN, len(source) // 2)
    keys = source.keys()
    painted = _painted(run)
    lines: list[tuple[str, list[Picture]]] = [("held-out picture", [source.media(row) for row in range(count)])]
    for cell, title in _LINES.items():
        if cell not in painted:
            raise DataError(f"{run} has painted nothing in the row {cell!r}: the sheet is of the vlv demo's runs only.")
        lines.append((title, [_image(Image.open(run / painted[cell][keys[row]])) for row in range(count)]))
    pair = [source.media(row) for row in range(2 * count)]
    lines += [("one picture ...", pair[:count]), ("... and another", pair[count:])]
    lines.append(("half the tokens of each", composed(pipeline, pair)))
    file = run / SHEET
    _drawn(lines).save(file, optimize=True)
    return file


def _painted(run: Path) -> dict[str, dict[str, str]]:
    """The files of painted pictures, by cell and key."""
    found: dict[str, dict[str, str]] = {}
    for text in (run / "predictions-image.jsonl").read_text(encoding="utf-8").splitlines():
        line = json.loads(text)
        found.setdefault(line["cell"], {})[line["key"]] = line["image"]
    return found


def _drawn(lines: Sequence[tuple[str, Sequence[Picture]]]) -> Image.Image:
    side = SIDE * _SCALE
    width = _LEFT + max(len(pictures) for _, pictures in lines) * (side + _GAP)
    sheet = Image.new("RGB", (width, len(lines) * (side + _GAP) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (title, pictures) in enumerate(lines):
        top = _GAP + number * (side + _GAP)
        draw.text((_GAP, top + side // 2 - 8), title, fill="black", font_size=15)
        for column, picture in enumerate(pictures):
            large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
            sheet.paste(large, (_LEFT + column * (side + _GAP), top))
    return sheet


def _image(image: Any) -> Picture:
    found: Picture = np.asarray(image, dtype=np.uint8)
    return found


def _there(source: Source[Any], row: int) -> Seen:
    facts = source.facts(row)
    ((colour, shape),) = facts["objects"]
    return Seen(str(colour), str(shape), str(facts["place"]))
