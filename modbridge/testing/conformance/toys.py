"""Toy data that every component is tried on: items of each modality, captions, vectors of two modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image

from modbridge.config.kinds import SourceConfig
from modbridge.interfaces.bridge import FitData
from modbridge.interfaces.fitting import TextVectors
from modbridge.interfaces.metric import Reference
from modbridge.interfaces.source import Source
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port
from modbridge.testing.conformance.outcome import NotRun

ITEMS = 16
TEXTS = 2 * ITEMS  # two captions an item

_COLOURS = {"red": (220, 40, 40), "green": (40, 170, 60), "blue": (50, 80, 220), "purple": (150, 60, 190)}
_SHAPES = ("circle", "square", "triangle", "cross")


def _kind(row: int) -> tuple[str, str]:
    """Colour and shape of an item; no two of the 16 have the same."""
    return list(_COLOURS)[row % 4], _SHAPES[row // 4 % 4]


def captions(row: int) -> tuple[str, str]:
    """The two captions of an item; no two items have the same."""
    colour, shape = _kind(row)
    return f"a {colour} {shape} on black", f"the picture shows one {colour} {shape}"


def facts(row: int) -> dict[str, Any]:
    """What is known of an item, in the words of the demo's made-up scenes."""
    kind = _kind(row)
    known = {"objects": [list(kind)], "entities": [" ".join(kind)], "relation": None, "background": "black"}
    return {**known, "place": "middle"}


def image(row: int) -> Image.Image:
    """A picture of what the item's captions say, 32 x 32, RGB."""
    y, x = np.mgrid[0:32, 0:32] - 15.5
    forms = {
        "circle": x**2 + y**2 < 90,
        "square": (abs(x) < 9) & (abs(y) < 9),
        "triangle": (y < 9) & (2 * abs(x) < y + 10),
        "cross": ((abs(x) < 4) | (abs(y) < 4)) & (abs(x) < 11) & (abs(y) < 11),
    }
    colour, shape = _kind(row)
    pixels = np.full((32, 32, 3), 18, dtype=np.uint8)
    pixels[forms[shape]] = _COLOURS[colour]
    return Image.fromarray(pixels)


def sound(row: int) -> Any:
    """A second of a tone of the item's own pitch, 8 kHz, as a `modbridge.audio.Sound`."""
    try:
        from modbridge.audio import Sound
    except ImportError as error:
        raise NotRun(f"sounds need modbridge[audio]: no module {error.name!r}") from error
    time = np.arange(8000) / 8000
    return Sound((0.4 * np.sin(2 * np.pi * 110 * (row + 2) * time)).astype(np.float32), 8000)


def items(modality: str, given: Mapping[str, Sequence[Any]]) -> list[Any]:
    """Items of a modality: those that were `given`, or drawn ones. NotRun for a modality that nobody gave."""
    if modality in given:
        return list(given[modality])
    if modality == "text":
        return [captions(row)[0] for row in range(ITEMS)]
    if modality in ("image", "audio"):
        return [(image if modality == "image" else sound)(row) for row in range(ITEMS)]
    raise NotRun(
        f"no toy items of the modality {modality!r}: give some, conformance(..., items={{{modality!r}: [...]}})"
    )


def keys(modality: str, count: int) -> tuple[str, ...]:
    """Item ids as the core makes them: "3" of an item, "3#0" of its first text."""
    return tuple(f"{row}#0" if modality == "text" else str(row) for row in range(count))


def vectors(port: Port, count: int, *, start: int = 0) -> Embeddings:
    """`count` unit vectors (or sequences of them) around a mean of their modality's own, so that there is a gap to
    close. Those of one item, or of one caption and its item, are alike; so are the lengths of ragged sequences."""
    dim = port.space.dim
    assert dim is not None
    names = tuple(f"{row}#0" if port.modality == "text" else str(row) for row in range(start, start + count))
    width = dim * (port.tokens or 1)
    content = Draw.of([name.split("#")[0] for name in names], 7).named("content").normal(width)
    own = Draw.of(names, 7).named(port.modality).normal(width)
    shape = (count, dim) if port.tokens is None else (count, port.tokens, dim)
    mean = Draw.of([port.modality], 7).named("mean").normal(dim) * 0.5
    values = torch.nn.functional.normalize((content + 0.5 * own).view(shape) + mean, dim=-1)
    return _cut(values, port, names, [row % (port.tokens or 1) for row in range(start, start + count)])


def _cut(values: torch.Tensor, port: Port, names: tuple[str, ...], missing: Sequence[int]) -> Embeddings:
    """Vectors with their port; of ragged sequences `missing` tokens are left out at the end."""
    if not port.ragged:
        return Embeddings(values, port, names)
    length = values.shape[1] - torch.tensor(missing, dtype=torch.int64)
    mask = torch.arange(values.shape[1]) < length[:, None]
    return Embeddings(values.masked_fill(~mask[..., None], 0.0), port, names, mask=mask)


def text_side(port: Port) -> Embeddings:
    """The vectors of every caption: text 2 i and text 2 i + 1 belong to item i."""
    two = vectors(port, ITEMS)
    other = Draw.of(two.keys, 8).normal(two.values[0].numel()).view(two.values.shape)
    second = torch.nn.functional.normalize(two.values + 0.3 * other, dim=-1)
    values = torch.stack([two.values, second], dim=1).flatten(0, 1)
    names = tuple(f"{row}#{number}" for row in range(ITEMS) for number in (0, 1))
    return _cut(values, port, names, [row % (port.tokens or 1) for row in range(ITEMS) for _ in (0, 1)])


def fit_data(needs: frozenset[str], text: Port, source: Port) -> FitData:
    """What a bridge of these needs is fitted on, and nothing else."""
    texts = text_side(text)
    pairs = torch.arange(TEXTS) // 2 if "pairs" in needs else None
    return FitData(
        texts if {"text", "pairs"} & needs else texts.select([]),
        vectors(source, ITEMS) if {"source", "pairs"} & needs else None,
        pairs,
    )


def training_texts() -> list[str]:
    """The captions of `text_side`, in its order."""
    return [text for row in range(ITEMS) for text in captions(row)]


def text_vectors(port: Port) -> TextVectors:
    """The vectors of `training_texts`, as a decoder is trained on them: the same every epoch."""
    whole = text_side(port)
    return TextVectors(whole, lambda rows, epoch: whole.values[list(rows)], mask=whole.mask)


def references(count: int) -> list[Reference]:
    """What toy captions are judged by."""
    return [Reference(str(row), captions(row), facts(row)) for row in range(count)]


def questions() -> list[str]:
    """What judges are asked: of each item a question with its caption, some longer than others."""
    asked = []
    for row in range(ITEMS):
        first, second = captions(row)
        told = f"{first}. {second}" if row % 3 else first
        asked.append(f"Caption: {told}\nQuestion: what colour is it?\nAnswer:")
    return asked


def with_image(reference: Reference, row: int) -> Reference:
    """A reference with the picture of item `row`, for metrics that look at the items."""
    return replace(reference, read=partial(image, row))


class ToySource(Source[SourceConfig]):
    """The toy items with their captions, as a source that an encoder is trained on."""

    def __init__(self, modality: str, given: Sequence[Any]) -> None:
        super().__init__(SourceConfig(type="toy", modality=modality))
        self._items = list(given)

    def keys(self) -> list[str]:
        return list(keys(self.modality, len(self._items)))

    def media(self, row: int) -> Any:
        return self._items[row]

    def texts(self, row: int) -> tuple[str, ...]:
        return captions(row)

    def fingerprint(self) -> str:
        return f"toy {self.modality} {len(self._items)}"
