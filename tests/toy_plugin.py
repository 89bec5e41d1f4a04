"""A stranger's plugin in one file: an encoder of mean colours and hashed words, and a decoder that recites the nearest
training caption. Small enough to run whole pipelines in a second, and with a trained part that can be interrupted."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from modbridge.config.component import Affects
from modbridge.config.kinds import DecoderConfig, EncoderConfig
from modbridge.interfaces import BuildContext, Decoded, Decoder, Encoder, Fitting, TextVectors
from modbridge.media import load_image
from modbridge.noise import Draw
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port, Space
from modbridge.store.artefact import ArtefactError
from modbridge.training import Batches, train

COLOURS = ("red", "green", "blue")
DIM = 8


class ColoursConfig(EncoderConfig):
    """`fail_on`: raise a plain exception for this word, as a stranger's bug would."""

    batch_size: Annotated[int, Affects("nothing")] = 4
    workers: Annotated[int, Affects("nothing")] = 0
    fail_on: str | None = None
    constant: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    def emits(self, modality: str) -> Port:
        return Port(space=Space(id="toy/colours", dim=DIM), modality=modality)


class Colours(Encoder[ColoursConfig]):
    """Image: its mean colour. Text: which colours it names. Each side has an offset of its own, so there is a gap."""

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "image":
            values = np.asarray(load_image(item), dtype=np.float32).mean((0, 1)) / 255
        else:
            if self.config.fail_on and self.config.fail_on in item:
                raise RuntimeError("a stranger's bug")
            values = np.array([float(colour in item) for colour in COLOURS], dtype=np.float32)
        return torch.tensor(values)

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        if self.config.constant:
            batch = torch.zeros_like(batch)
        offset = Draw.of([modality], 0).normal(DIM)[0]
        base = Draw.of(COLOURS, 1).normal(DIM)
        return torch.nn.functional.normalize(batch @ base * 2 + offset, dim=1)


class ReciteConfig(DecoderConfig):
    """`steps`: of fitting a linear map to itself, so that there is something to train. `loud`: in capitals."""

    steps: int = 30
    pause: Annotated[float, Affects("nothing")] = 0.0
    loud: Annotated[bool, Affects("decode")] = False


class Recite(Decoder[ReciteConfig]):
    """Gives the training caption whose (linearly mapped) vector is nearest."""

    def __init__(self, config: ReciteConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.map = torch.nn.Sequential(torch.nn.Linear(DIM, DIM), torch.nn.Dropout(0.1))
        self.memory = torch.zeros(0, DIM)
        self.captions: list[str] = []

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"map": self.map}

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        optimiser = torch.optim.Adam(self.map.parameters(), lr=0.05)

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            time.sleep(self.config.pause)
            x = vectors.batch(rows.tolist(), epoch)
            return (self.map(x) - x).pow(2).mean()

        train(
            "recite",
            modules=self.modules(),
            optimiser=optimiser,
            batches=Batches(len(vectors), 4, fitting.seed),
            steps=self.config.steps,
            loss=loss,
            fitting=fitting,
            log_every=10,
            split=True,
        )
        self.memory = vectors.batch(range(len(vectors)), 0)
        self.captions = list(targets)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**super().tensors(), "memory": self.memory}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        if "memory" not in tensors:
            raise ArtefactError("the artefact holds no memory")
        self.memory = tensors["memory"]
        super().load_tensors({name: value for name, value in tensors.items() if name != "memory"})

    def save_extra(self, folder: Path) -> None:
        (folder / "captions.txt").write_text("\n".join(self.captions), encoding="utf-8")

    def load_extra(self, folder: Path) -> None:
        self.captions = (folder / "captions.txt").read_text(encoding="utf-8").split("\n")

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        if os.environ.get("TOY_DECODER_FAILS"):
            raise RuntimeError("a stranger's bug")
        unit = torch.nn.functional.normalize
        best = (unit(bridged, dim=1) @ unit(self.memory, dim=1).T).argmax(1).tolist()
        found = [self.captions[i] for i in best]
        return [Decoded(k, t.upper() if self.config.loud else t) for k, t in zip(keys, found, strict=True)]


@hookimpl
def modbridge_components(register: Any) -> None:
    here = f"modbridge_file_{Path(__file__).stem}"
    register(
        ComponentSpec(
            kind="encoder", name="toy_colours", config=f"{here}:ColoursConfig", impl=f"{here}:Colours", summary="toy"
        )
    )
    register(
        ComponentSpec(
            kind="decoder", name="toy_recite", config=f"{here}:ReciteConfig", impl=f"{here}:Recite", summary="toy"
        )
    )
