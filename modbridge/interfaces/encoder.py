"""Encoder: items of several modalities into one embedding space."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from modbridge.config.kinds import EncoderConfig
from modbridge.errors import DataError, PluginError, PortError
from modbridge.geometry import finite, nothing
from modbridge.interfaces.component import Component
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.spaces import Embeddings, Port, padded, require_mask

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
    def embed(self, batch: Any, modality: str) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """One batch's vectors, float (B, D) or (B, n, D), on the device.

        Where the port is ragged, with a mask, bool (B, m), True where a token is: (values (B, m, D), mask), m at most
        the port's number of tokens.
        """
        ...

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train on a source's items and texts. Only for encoders whose config says `needs_fit`."""
        raise PluginError(f"the encoder {self.config.type!r} cannot be trained.")

    def lookup(self, keys: Sequence[str], modality: str) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor] | None:
        """Vectors that are already there, by item id, of the form that `embed` gives; None for encoders that compute
        them."""
        return None

    def encode(self, items: Sequence[Any], modality: str, *, keys: Sequence[str] | None = None) -> Embeddings:
        """Vectors of `items`, with their port. Shapes (B, D) or (B, n, D), float32, on the device."""
        if modality not in self.config.modalities:
            raise PortError(
                f"the encoder {self.config.type!r} takes {', '.join(self.config.modalities)}; found {modality!r} items."
            )
        prepared = [self.prepare(item, modality) for item in items]
        names = tuple(keys) if keys is not None else tuple(str(i) for i in range(len(prepared)))
        port = self.port(modality)
        if not prepared:
            return nothing(port, self.device)
        stored = self.lookup(names, modality)
        if stored is None:
            values, mask = self.embed_batch(self.collate(prepared, modality), modality, len(prepared))
        else:
            values, mask = self.labelled(stored, modality, len(prepared))
        require_finite(values, names, mask)
        return Embeddings(values, port, names, mask=mask)

    def embed_batch(self, batch: Any, modality: str, count: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The vectors of one collated batch of `count` items, float32, on the device, and the mask of ragged sequences.
        Raises PluginError where they are not of the encoder's own port."""
        with torch.inference_mode():
            return self.labelled(self.embed(batch, modality), modality, count)

    def labelled(
        self, values: torch.Tensor | tuple[torch.Tensor, torch.Tensor], modality: str, count: int
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Vectors as this encoder's port says they are, float32, on the device, and the mask of ragged sequences, zero
        where there is no token. PluginError if they are of another form."""
        port = self.port(modality)
        found, mask = values if isinstance(values, tuple) else (values, None)
        if (mask is not None) != port.ragged:
            expected = "(values, mask)" if port.ragged else "a tensor alone"
            raise PluginError(
                f"the encoder {self.config.type!r} gave {'no' if mask is None else 'a'} mask; expected {expected} "
                f"for {port}."
            )
        if mask is not None and found.ndim == 3 and found.shape[1] <= (port.tokens or 0):
            try:
                require_mask(mask, tuple(found.shape))
            except DataError as error:
                raise PluginError(f"the encoder {self.config.type!r} gave {error}") from error
            found, mask = padded(found, mask.to(found.device), port.tokens or 0)
        if not port.holds(tuple(found.shape), count):
            raise PluginError(
                f"the encoder {self.config.type!r} gave a tensor {tuple(found.shape)} for {count} items; "
                f"expected {port}."
            )
        found = found.to(self.device, torch.float32)
        if mask is None:
            return found, None
        mask = mask.to(self.device)
        return found.masked_fill(~mask[..., None], 0.0), mask

    def port(self, modality: str) -> Port:
        """The port of one modality. A trained encoder's space names the very weights it was given."""
        return self.context.ports.get(modality) or self.config.emits(modality)


def require_finite(values: torch.Tensor, keys: Sequence[str], mask: torch.Tensor | None = None) -> None:
    """Raise DataError, naming items, where vectors (B, ...) hold NaN or infinity, or a sequence has no token."""
    if mask is not None and not bool(mask.any(dim=1).all()):
        bad = [key for key, ok in zip(keys, mask.any(dim=1).tolist(), strict=True) if not ok]
        raise DataError(
            f"the sequences of {', '.join(bad[:3])} hold no token ({len(bad)} of {len(keys)} items); expected at least "
            f"one each."
        )
    whole = finite(values)
    if not bool(whole.all()):
        bad = [key for key, ok in zip(keys, whole.tolist(), strict=True) if not ok]
        raise DataError(
            f"the vectors of {', '.join(bad[:3])} hold NaN or infinity ({len(bad)} of {len(keys)} items); expected "
            f"finite numbers. If it is a few, look at those items; if it is all, at the encoder's weights and "
            f"`precision`."
        )
