"""An encoder that takes its time, and one of whose processes dies, once, where it is told to."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from modbridge.config.component import Affects
from modbridge.config.kinds import EncoderConfig
from modbridge.interfaces import Encoder
from modbridge.media import load_image
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port, Space


class SlowConfig(EncoderConfig):
    """`pause`: seconds an image. `dies`: a file that the first process to embed images makes, and dies."""

    batch_size: Annotated[int, Affects("nothing")] = 4
    pause: Annotated[float, Affects("nothing")] = 0.0
    dies: Annotated[str | None, Affects("nothing")] = None

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    def emits(self, modality: str) -> Port:
        return Port(space=Space(id="slow", dim=4), modality=modality)


class Slow(Encoder[SlowConfig]):
    """Mean colours of images, lengths of texts."""

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "text":
            return torch.tensor([float(len(item)), 1.0, 2.0, 3.0])
        time.sleep(self.config.pause)
        mean = np.asarray(load_image(item), dtype=np.float32).mean((0, 1)) / 255
        return torch.tensor([*mean, 1.0])

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        if self.config.dies is not None and modality == "image":
            mark = Path(self.config.dies)
            try:
                mark.touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                mark.write_text(str(os.getpid()), encoding="utf-8")
                os.kill(os.getpid(), signal.SIGKILL)
        return torch.nn.functional.normalize(batch.float(), dim=1)


@hookimpl
def modbridge_components(register: Any) -> None:
    register(
        ComponentSpec(
            kind="encoder",
            name="slow",
            config=f"{__name__}:SlowConfig",
            impl=f"{__name__}:Slow",
            summary="of the tests of modbridge-ray",
            example={"type": "slow"},
        )
    )
