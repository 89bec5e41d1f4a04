"""Encoder: items of several modalities into one embedding space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from modbridge.config.kinds import EncoderConfig
from modbridge.errors import DataError, PluginError, PortError
from modbridge.interfaces.component import Component
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.spaces import Embeddings, Port

EncoderConfigT = TypeVar("EncoderConfigT", bound=EncoderConfig)


class Encoder(Component[EncoderConfigT]):
    """Turns items into vectors. Authors write `prepare` and `embed`; the core batches, labels and checks."""

    def prepare(self, item: Any, modality: str) -> Any:
        """One item made ready on the CPU, possibly in a worker process: an image as a tensor, a text as token ids.

        Must not touch the device. Raises DataError for an item that cannot be read.
        """
        return item

    def collate(self, items: Sequence[Any], modality: str) -> Any:
        """Prepared items as one batch. By default tensors are stacked."""
        return torch.stack(list(items)) if items and isinstance(items[0], torch.Tensor) else list(items)

    @abstractmethod
    def embed(self, batch: Any, modality: str) -> torch.Tensor:
        """One batch's vectors, float (B, D) or (B, n, D), on the device."""
        ...

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train on a source's items and texts. Only for encoders whose config says `needs_fit`."""
        raise PluginError(f"the encoder {self.config.type!r} cannot be trained.")

    def lookup(self, keys: Sequence[str], modality: str) -> torch.Tensor | None:
        """Vectors that are already there, by item id; None for encoders that compute them."""
        return None

    def encode(self, items: Sequence[Any], modality: str, *, keys: Sequence[str] | None = None) -> Embeddings:
        """Vectors of `items`, with their port. Shapes (B, D) or (B, n, D), float32, on the device."""
        if modality not in self.config.modalities:
            raise PortError(
                f"the encoder {self.config.type!r} takes {', '.join(self.config.modalities)}; found {modality!r} items."
            )
        prepared = [self.prepare(item, modality) for item in items]
        names = tuple(keys) if keys is not None else tuple(str(i) for i in range(len(prepared)))
        return self.embed_prepared(prepared, modality, names)

    def embed_prepared(self, prepared: Sequence[Any], modality: str, keys: Sequence[str]) -> Embeddings:
        """As `encode`, for items that went through `prepare` already."""
        port = self.port(modality)
        if not prepared:
            shape = (0, port.space.dim or 0) if port.tokens is None else (0, port.tokens, port.space.dim or 0)
            return Embeddings(torch.zeros(shape, device=self.device), port, ())
        with torch.inference_mode():
            stored = self.lookup(keys, modality)
            values = self.embed(self.collate(prepared, modality), modality) if stored is None else stored
            values = values.to(self.device, torch.float32)
        if not port.holds(tuple(values.shape), len(prepared)):
            raise PluginError(
                f"the encoder {self.config.type!r} gave a tensor {tuple(values.shape)} for {len(prepared)} items; "
                f"expected {port}."
            )
        if not torch.isfinite(values).all():
            bad = [
                key for key, ok in zip(keys, torch.isfinite(values).flatten(1).all(1).tolist(), strict=True) if not ok
            ]
            raise DataError(f"the vectors of {', '.join(bad[:3])} hold NaN or infinity ({len(bad)} items).")
        return Embeddings(values, port, tuple(keys))

    def port(self, modality: str) -> Port:
        """The port of one modality. A trained encoder's space names the very weights it was given."""
        return self.context.ports.get(modality) or self.config.emits(modality)
