"""A stranger's plugin in one file: metrics that look at pictures, painted ones and the items themselves."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from modbridge.config.component import Part
from modbridge.config.kinds import MetricConfig, ObjectiveConfig
from modbridge.interfaces import Decoded, Metric, Reference, Score
from modbridge.media import load_image
from modbridge.plugins import ComponentSpec, hookimpl

COLOURS = ("red", "green", "blue")


def mean_colour(item: Any) -> Any:
    return np.asarray(load_image(item), dtype=np.float64).mean((0, 1)) / 255


class OfImagesConfig(MetricConfig):
    @property
    def judges(self) -> Literal["text", "image"]:
        return "image"


class OffConfig(OfImagesConfig):
    """How far the colour of what was painted is from the item's."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("colour_off",)


class Off(Metric[OffConfig]):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        pairs = zip(predictions, references, strict=True)
        off = tuple(float(np.abs(mean_colour(p.image) - mean_colour(r.media)).mean()) for p, r in pairs)
        return {"colour_off": Score(float(np.mean(off)), off, higher_is_better=False)}


class SeenConfig(MetricConfig):
    """Of captions: whether they name the colour that the item has most of."""

    @property
    def reads_media(self) -> bool:
        return True


class Seen(Metric[SeenConfig]):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        pairs = zip(predictions, references, strict=True)
        said = tuple(float(COLOURS[int(mean_colour(r.media).argmax())] in p.text) for p, r in pairs)
        return {"toy_seen": Score(float(np.mean(said)), said)}


class ThroughConfig(OfImagesConfig):
    """How far the `teacher`'s picture of a painted colour is from that colour."""

    teacher: Annotated[ObjectiveConfig, Part("objective")]


class Through(Metric[ThroughConfig]):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        teacher: Any = self.parts["teacher"]
        seen = torch.tensor(np.stack([mean_colour(one.image) for one in predictions]), dtype=torch.float32)
        seen = seen.to(self.device)
        off = (teacher.paint(teacher.read(seen)) - seen).abs().mean(1)
        return {"toy_through": Score(float(off.mean()), tuple(off.tolist()), higher_is_better=False)}


class LongConfig(MetricConfig):
    """Counts words, one item after another, and is killed on the way if TOY_METRIC_FAILS says after how many."""


class Long(Metric[LongConfig]):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        file = (self.scoring.work or Path()) / "words.txt"
        done = file.read_text("utf-8").split() if self.scoring.work and file.is_file() else []
        found = len(done)
        with self.scoring.progress("counting", len(predictions), found) as progress:
            for one in predictions[found:]:
                if len(done) == int(os.environ.get("TOY_METRIC_FAILS", "-1")):
                    raise RuntimeError("a stranger's bug")
                done.append(str(len(one.text.split())))
                if self.scoring.work:
                    file.write_text(" ".join(done), encoding="utf-8")
                progress.advance()
        return {"toy_long": Score(sum(map(int, done)) / len(done), tuple(map(float, done)), note=f"{found} found")}


@hookimpl
def modbridge_components(register: Any) -> None:
    here = f"modbridge_file_{Path(__file__).stem}"
    for name, config, impl in (
        ("toy_off", OffConfig, Off),
        ("toy_seen", SeenConfig, Seen),
        ("toy_through", ThroughConfig, Through),
        ("toy_long", LongConfig, Long),
    ):
        example = {"teacher": "toy_teacher"} if name == "toy_through" else {}
        classes = f"{here}:{config.__name__}", f"{here}:{impl.__name__}"
        register(
            ComponentSpec(kind="metric", name=name, summary="toy", config=classes[0], impl=classes[1], example=example)
        )
