"""The encoder of people who have their vectors already: it looks them up by item id."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from modbridge.builtin.items import double, few
from modbridge.builtin.precomputed_config import PrecomputedConfig
from modbridge.builtin.vector_file import read_keys, read_mask, read_vectors
from modbridge.errors import DataError
from modbridge.geometry import unit
from modbridge.interfaces import BuildContext, Encoder, text_key


class PrecomputedEncoder(Encoder[PrecomputedConfig]):
    """Vectors from a file. Each modality is read when first asked for, and kept as stored (float16 stays)."""

    def __init__(self, config: PrecomputedConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.path = Path(config.file).expanduser()
        self._loaded: dict[str, tuple[dict[str, int], torch.Tensor, torch.Tensor | None]] = {}

    def lookup(self, keys: Sequence[str], modality: str) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """The vectors of `keys`, float32 (B, D) or (B, n, D) on the CPU, with their mask (B, n) where one is stored.
        Raises DataError naming those without."""
        rows, values, mask = self._of(modality)
        lost = [key for key in keys if key not in rows]
        if lost:
            example = next(iter(rows), None)
            raise DataError(
                f"{self.path} holds no {modality} vector of {few(lost)} ({len(lost)} of {len(keys)} items); its "
                f"{len(rows)} {modality} items are named like {example!r}. Stored vectors cannot encode new items: "
                f"use the encoder that made them for those."
            )
        chosen = [rows[key] for key in keys]
        found, there = values[chosen], None if mask is None else mask[chosen]
        if self.config.normalise:
            # What is beyond a sequence's end need have no direction.
            found = self._normalised(
                found if there is None else found.masked_fill(~there[..., None], 1.0), keys, modality
            )
        return found.float() if there is None else (found.float(), there)

    def _normalised(self, found: torch.Tensor, keys: Sequence[str], modality: str) -> torch.Tensor:
        try:
            return unit(found.double())
        except DataError as error:
            flat = found.double().norm(dim=-1).reshape(len(keys), -1).amin(1)
            zero = [key for key, length in zip(keys, flat.tolist(), strict=True) if length == 0]
            raise DataError(f"{self.path}: the {modality} vectors of {few(zero)} are zero: {error}") from error

    def embed(self, batch: Any, modality: str) -> torch.Tensor:
        """Not possible; `lookup` answers for every item."""
        raise DataError(f"{self.path} holds vectors of given items; it cannot encode new ones.")

    def _of(self, modality: str) -> tuple[dict[str, int], torch.Tensor, torch.Tensor | None]:
        if modality not in self._loaded:
            stored = self.config.vectors[modality]
            keys = read_keys(self.path, stored)
            if modality == "text":
                keys = _numbered(keys)
            if len(set(keys)) != len(keys):
                raise DataError(
                    f"{self.path}: {few(double(keys))} stand more than once in {stored.keys!r}; every "
                    f"{modality} vector needs an id of its own."
                )
            mask = None if stored.mask is None else read_mask(self.path, stored.mask)
            self._loaded[modality] = ({key: row for row, key in enumerate(keys)}, read_vectors(self.path, stored), mask)
        return self._loaded[modality]


def _numbered(items: Sequence[str]) -> list[str]:
    """Text ids: the j-th vector of an item is that of its text number j."""
    seen: Counter[str] = Counter()
    keys = []
    for item in items:
        keys.append(text_key(item, seen[item]))
        seen[item] += 1
    return keys
