"""An encoder without weights (ours): which of nine named colours an image shows, or a text names.

An image's number for a colour is the share of its pixels that are nearest to it, a text's how often it says its name;
the root of either, with a little added so that none is zero, brought to length 1. Backgrounds fill images but are
seldom spoken of: that is the gap.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from modbridge.demo.named_colours_config import COLOURS, NamedColoursConfig
from modbridge.interfaces import Encoder
from modbridge.media import load_image

SIDE = 32
LITTLE = 0.01


class NamedColours(Encoder[NamedColoursConfig]):
    """Encodes images and texts by the colours in them."""

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        """float32 (9,): shares of an image's pixels, or counts of a text's words."""
        if modality == "text":
            words = re.findall(r"\w+", item.lower())
            return torch.tensor([float(words.count(name)) for name in COLOURS])
        pixels = np.asarray(load_image(item).resize((SIDE, SIDE)), dtype=np.float32).reshape(-1, 1, 3)
        table = np.array(list(COLOURS.values()), dtype=np.float32)
        nearest = np.square(pixels - table).sum(axis=2).argmin(axis=1)
        return torch.from_numpy(np.bincount(nearest, minlength=len(table)) / len(pixels)).float()

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        return normalize((batch.to(self.device) + LITTLE).sqrt(), dim=1)
