"""Pictures as the teacher sees them: a square from the middle, bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image

from modbridge.media import load_image


def square(item: Any, side: int) -> torch.Tensor:
    """An image as uint8 (3, `side`, `side`): its short side resized to `side`, its middle cut out (VLV's).

    Raises DataError for an item that is no image.
    """
    image = load_image(item)
    if image.size != (side, side):
        scale = side / min(image.size)
        width, height = (max(side, round(length * scale)) for length in image.size)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def signed(pictures: torch.Tensor) -> torch.Tensor:
    """Bytes as numbers in -1..1."""
    return pictures.float() / 127.5 - 1.0


def as_bytes(pictures: torch.Tensor) -> Any:
    """Numbers in -1..1, (B, 3, H, W), as uint8 arrays (B, H, W, 3)."""
    scaled = ((pictures.float() / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()
