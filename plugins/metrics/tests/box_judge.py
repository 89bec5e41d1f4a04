"""A judge by rules, for tests: it says where boxes of known colours are. And a decoder that paints such boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from modbridge.config.kinds import DecoderConfig, JudgeConfig
from modbridge.interfaces import Decoded, Decoder, Fitting, Judge, Question, TextVectors
from modbridge.media import load_image
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port

# Several colours of one name, so that an image may hold several objects of one.
NAMES = {(255, 0, 0): "red", (254, 0, 0): "red", (253, 0, 0): "red", (0, 255, 0): "green", (0, 0, 255): "blue"}


class BoxesConfig(JudgeConfig):
    """Rules."""

    blind: bool = False
    """Whether it sees no images."""

    @property
    def sees_images(self) -> bool:
        return not self.blind


class Boxes(Judge[BoxesConfig]):
    asked: ClassVar[list[Question]] = []
    said: ClassVar[dict[int, str]] = {}
    """What it says of the images that hold this value in their first pixel."""

    def answer(self, questions: Sequence[Question]) -> list[str]:
        Boxes.asked += questions
        return [self._one(np.asarray(load_image(question.image))) for question in questions]

    def _one(self, pixels: Any) -> str:
        if int(pixels[0, 0, 0]) in self.said:
            return self.said[int(pixels[0, 0, 0])]
        height, width = pixels.shape[:2]
        found = []
        for colour, name in NAMES.items():
            rows, columns = (pixels == colour).all(axis=2).nonzero()
            if len(rows):
                box = [
                    columns.min() / width,
                    rows.min() / height,
                    (columns.max() + 1) / width,
                    (rows.max() + 1) / height,
                ]
                found.append({"name": name, "box": [round(1000 * float(at)) for at in box]})
        return json.dumps(found)


class BoxPainterConfig(DecoderConfig):
    @property
    def makes(self) -> Literal["text", "image"]:
        return "image"

    @property
    def needs_fit(self) -> bool:
        return False

    def check(self, port: Port) -> None:
        pass


class BoxPainter(Decoder[BoxPainterConfig]):
    """Paints a red box of the left half."""

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        pass

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        pixels = np.zeros((20, 20, 3), np.uint8)
        pixels[:, :10] = (255, 0, 0)
        return [Decoded(key, "", image=pixels) for key in keys]


@hookimpl
def modbridge_components(register: Any) -> None:
    for kind, name, cls in (("judge", "boxes", "Boxes"), ("decoder", "box_painter", "BoxPainter")):
        code: Any = {"config": f"{__name__}:{cls}Config", "impl": f"{__name__}:{cls}"}
        register(ComponentSpec(kind=kind, name=name, summary="rules", example={"type": name}, **code))
