"""Reading media: whatever a source gives as an image, as one RGB picture."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from modbridge.errors import DataError

BROKEN = (
    OSError, EOFError, SyntaxError, ValueError, TypeError, RuntimeError, struct.error, Image.DecompressionBombError
)  # fmt: skip
"""What PIL's decoders raise on damaged files."""
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by the EXIF orientation


def image_of(data: bytes, place: str, name: str, advice: str) -> Image.Image:
    """The image that a file's bytes hold, not decoded yet; messages about its pixels call it `name`. Raises DataError,
    with `place` and `advice`, for bytes that are none."""
    try:
        image: Any = Image.open(BytesIO(data))
    except BROKEN as error:
        raise DataError(f"image {place}: {len(data)} bytes that cannot be read as an image. {advice}") from error
    image.filename = name
    opened: Image.Image = image
    return opened


def load_image(item: Any) -> Image.Image:
    """An image in RGB, upright.

    `item`: a path, a PIL image, or an array (H, W, 3) or (H, W), uint8 or float in 0..1. The EXIF orientation is
    applied; transparency is dropped, as CLIP's own preprocessing does. Raises DataError, naming the file, for one that
    is missing, truncated, or no image, and for arrays of another shape or range.
    """
    if isinstance(item, Image.Image):
        return _finished(item, getattr(item, "filename", "") or "an image in memory")
    if isinstance(item, str | Path):
        path = Path(item)
        try:
            with Image.open(path) as image:
                return _finished(image, str(path))
        except FileNotFoundError:
            raise DataError(f"image {path}: no such file. Correct the path, or leave the item out.") from None
        except IsADirectoryError:
            raise DataError(f"image {path}: found a folder, expected an image file.") from None
        except BROKEN as error:
            raise DataError(_unreadable(str(path), error)) from error
    if hasattr(item, "__array__"):
        return Image.fromarray(_pixels(np.asarray(item)))
    raise DataError(f"an image was expected (a path, a PIL image, an array); found {type(item).__name__}.")


def _finished(image: Image.Image, name: str) -> Image.Image:
    """Decoded, upright, in RGB."""
    try:
        image.load()
        # Not ImageOps.exif_transpose: it writes the EXIF data anew, and fails where any of it is of a wrong form.
        turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
        upright = image if turn is None else image.transpose(turn)
    except BROKEN as error:
        raise DataError(_unreadable(name, error)) from error
    if upright.mode.startswith("I;16"):  # PIL would clip 16-bit values at 255 instead of scaling them
        return Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8)).convert("RGB")
    if upright.mode in ("I", "F"):
        raise DataError(
            f"image {name}: pixels of mode {upright.mode!r} have no known range. Convert it to 8 bits first."
        )
    return upright.convert("RGB")


def _unreadable(name: str, error: Exception) -> str:
    return f"image {name}: cannot be read ({error}). Fetch the file again, or leave the item out."


def _pixels(array: np.ndarray) -> np.ndarray:
    """An array checked and brought to uint8 (H, W, 3)."""
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 3)) or array.size == 0:
        raise DataError(f"an image array must be (H, W, 3) or (H, W); found shape {array.shape}.")
    if array.dtype.kind == "f":
        if not (np.isfinite(array).all() and array.min() >= 0.0 and array.max() <= 1.0):
            raise DataError(
                f"an image array of floats must lie in 0..1; found {array.min()} to {array.max()}. Scale it, or give "
                f"uint8."
            )
        array = np.rint(array * 255.0).astype(np.uint8)
    if array.dtype != np.uint8:
        raise DataError(f"an image array must be uint8 or float in 0..1; found {array.dtype}.")
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array
