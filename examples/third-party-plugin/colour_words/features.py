"""What is counted in images and texts, before anything is learnt."""

from __future__ import annotations

import re
from itertools import pairwise
from zlib import crc32

import numpy as np
import torch
from modbridge.media import load_image


def histograms(image: object, grid: int, bins: int) -> torch.Tensor:
    """float32 (grid * grid * bins ** 3,): the root of the share of each colour in each region.

    Roots, because differences of shares matter most where shares are small (Hellinger's distance).
    """
    side = 8 * grid
    pixels = np.asarray(load_image(image).resize((side, side)), dtype=np.int64) * bins // 256
    colours = (pixels[..., 0] * bins + pixels[..., 1]) * bins + pixels[..., 2]
    where = np.arange(side) // 8
    cells = (where[:, None] * grid + where) * bins**3 + colours
    counts = np.bincount(cells.ravel(), minlength=grid * grid * bins**3)
    return torch.from_numpy(np.sqrt(counts / 64)).float()


def words(text: str, buckets: int) -> torch.Tensor:
    """float32 (buckets,): the root of the counts of words and of pairs of neighbours (Weinberger et al. 2009)."""
    found = re.findall(r"\w+", text.lower())
    names = [*found, *(" ".join(pair) for pair in pairwise(found))]
    places = np.array([crc32(name.encode()) % buckets for name in names], dtype=np.int64)
    return torch.from_numpy(np.sqrt(np.bincount(places, minlength=buckets))).float()
