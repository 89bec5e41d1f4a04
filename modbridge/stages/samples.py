"""The samples of a report: held-out items to see or to hear, with what every row wrote of them."""

from __future__ import annotations

import base64
import html
import io
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modbridge.assembly.experiment import Experiment
from modbridge.assembly.session import Session
from modbridge.details import entities_html
from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.media import load_image
from modbridge.stages.generate import Generated
from modbridge.stages.pages import inline_png

SAMPLES = 12
IMAGE_WIDTH = 128
_LARGEST = 256  # pixels a side
_RATE, _SECONDS = 16_000, 10  # of a sound in a page


def samples_html(
    session: Session,
    experiment: Experiment,
    generations: Mapping[str, Generated],
    others: Mapping[str, Mapping[str, Generated]],
) -> str:
    """The first held-out items, those of them that can be read. `others`: of each row what further decoders made of
    them, by their names; images stand beside the items."""
    further = {f"{label} / {name}": found for label, named in others.items() for name, found in named.items()}
    painted = {label: _files(found) for label, found in further.items() if found.images}
    cell = experiment.first
    source = session.source(cell.config.data.test or cell.config.data.train)
    rows = {key: i for i, key in enumerate(source.keys())}
    written = {**generations, **{label: found for label, found in further.items() if not found.images}}
    captions = {
        label: {decoded.key: decoded for decoded in generation.predictions} for label, generation in written.items()
    }
    keys = [decoded.key for decoded in next(iter(generations.values())).predictions][:SAMPLES]
    parts = []
    for key in keys:
        try:
            medium = _medium(source.media(rows[key]), source.modality, key)
        except DataError:
            continue  # text-only sources have captions to show, but no media
        lines = "".join(
            f"<tr><th>{html.escape(label)}</th><td>{_told(found.get(key))}</td></tr>"
            for label, found in captions.items()
        )
        truth = html.escape("; ".join(source.texts(rows[key])))
        table = f"<table><tr><th>references</th><td>{truth}</td></tr>{lines}</table>"
        images = "".join(_figure(label, files[key]) for label, files in painted.items() if key in files)
        parts.append(f"<div class='sample'>{medium}{images}{table}</div>")
    return "".join(parts)


def _files(generation: Generated) -> dict[str, Path]:
    """The images of a decoder that makes them, by the keys of their items."""
    return {one.key: file for one, file in zip(generation.predictions, generation.images, strict=True)}


def _figure(label: str, file: Path) -> str:
    """An image that was made of an item, under the name of who made it."""
    return f"<figure>{_picture(file, label)}<figcaption>{html.escape(label)}</figcaption></figure>"


def _told(decoded: Decoded | None) -> str:
    """A caption, with the entities that its decoder found, as HTML."""
    if decoded is None:
        return "-"
    marks = entities_html(decoded.details)
    return html.escape(decoded.text) + (f"<br><small>{marks}</small>" if marks else "")


def _medium(item: Any, modality: str, key: str) -> str:
    """An item as HTML; its key where there is no way to show its modality."""
    name = html.escape(key)
    if modality == "image":
        return _picture(item, key)
    if modality == "audio":
        sound = base64.b64encode(_wav(item)).decode("ascii")
        return f"<audio controls src='data:audio/wav;base64,{sound}' title='{name}'></audio>"
    return f"<span>{name}</span>"


def _picture(item: Any, name: str) -> str:
    image = load_image(item).copy()
    image.thumbnail((_LARGEST, _LARGEST))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"<img src='{inline_png(buffer.getvalue())}' width='{IMAGE_WIDTH}' alt='{html.escape(name)}'>"


def _wav(item: Any) -> bytes:
    """The beginning of a clip as 16-bit WAV."""
    from modbridge.audio import load_audio  # an extra, which whoever embedded sounds has

    samples = load_audio(item, _RATE)[: _RATE * _SECONDS]
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(_RATE)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return buffer.getvalue()
