"""What encoders have in common that a teacher teaches: training on images, and texts as their token embeddings."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, TypeVar

import torch

from modbridge.errors import DataError, PortError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.media import load_image
from modbridge.noise import Draw
from modbridge.training import Media
from modbridge_vlv.optimising import optimise
from modbridge_vlv.taught_config import TaughtEncoderConfig
from modbridge_vlv.teacher import DiffusionTeacher

TaughtConfigT = TypeVar("TaughtConfigT", bound=TaughtEncoderConfig)


class TaughtEncoder(Encoder[TaughtConfigT]):
    """Images and texts as soft tokens (B, n, D) of the teacher's text encoder.

    An encoder of this kind says how it reads pixels (`read`) and which of its networks are trained (`modules`).
    """

    def __init__(self, config: TaughtConfigT, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["objective"]
        assert isinstance(teacher, DiffusionTeacher)
        self._teacher = teacher

    @abstractmethod
    def pixels(self, item: Any) -> torch.Tensor:
        """An image as its network takes it, float32 (3, H, W). Raises DataError for an item that is none."""
        ...

    @abstractmethod
    def read(self, pixels: torch.Tensor) -> torch.Tensor:
        """Soft tokens (B, n, D) of pixels (B, 3, H, W)."""
        ...

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        """An image as pixels, a text as token ids (n,), cut and padded as the text encoder was trained with."""
        if modality == "image":
            return self.pixels(item)
        if not isinstance(item, str):
            raise DataError(f"a text was expected; found {type(item).__name__}.")
        return self._teacher.token_ids(item)

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        if modality == "text":
            return self._teacher.token_embeddings(batch)
        return self.read(batch.to(self.device))

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train on a source's images; texts are not looked at.

        Raises PortError if there are more queries than the text encoder takes, DataError for a source of other media.
        """
        if source.modality != "image":
            raise DataError(f"the encoder {self.config.type!r} is trained on images; found {source.modality} items.")
        longest = self._teacher.config.longest
        if self.config.queries > longest:
            raise PortError(
                f"{self.config.queries} queries; the teacher's text encoder takes {longest} tokens at most."
            )
        media = Media(len(source), partial(self._seen, source), fitting, "images", workers=self.config.workers)

        def loss(rows: Sequence[int], draw: Draw) -> torch.Tensor:
            pixels, asked = media.batch(torch.tensor(rows))
            return self._teacher.loss(self.read(pixels.to(self.device)), asked, draw)

        optimise(
            self.config.type,
            self.modules(),
            source.keys(),
            loss,
            self.config.train,
            fitting,
            self.device,
            blocks=source.blocks(),
            media=media,
        )

    def _seen(self, source: Source[Any], row: int) -> tuple[torch.Tensor, ...]:
        """An image as the encoder and as the teacher see it, decoded once."""
        image = load_image(source.media(row))
        return self.pixels(image), self._teacher.prepare(image)
