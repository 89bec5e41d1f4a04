"""Images from whatever a source gives."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from modbridge.errors import DataError
from modbridge.media import load_image

RED, GREEN = (255, 0, 0), (0, 255, 0)


def two_colours() -> Image.Image:
    """Four pixels wide, two high: red on the left, green on the right."""
    image = Image.new("RGB", (4, 2), RED)
    image.paste(GREEN, (2, 0, 4, 2))
    return image


def test_a_path_as_string_or_path(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    two_colours().save(file)
    for item in (file, str(file)):
        image = load_image(item)
        assert image.mode == "RGB"
        assert (image.getpixel((0, 0)), image.getpixel((3, 0))) == (RED, GREEN)


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    file = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # stored on its side: a viewer turns it by 90 degrees clockwise
    two_colours().save(file, exif=exif)
    image = load_image(file)
    assert image.size == (2, 4)
    assert (image.getpixel((0, 0)), image.getpixel((0, 3))) == (RED, GREEN)


@pytest.mark.parametrize("orientation", range(10))
def test_all_orientations_are_those_of_pil(orientation: int) -> None:
    kept, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)).save(kept, "PNG", exif=exif)
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(kept.getvalue())))
    assert np.array_equal(np.asarray(load_image(Image.open(kept))), np.asarray(wanted))


def test_exif_data_of_a_wrong_form_do_not_matter(tmp_path: Path) -> None:
    """As of many photographs of the web: a tag has not the type that it should have."""
    kept, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x011A] = 6, "a maker", 72.0
    two_colours().save(kept, "JPEG", exif=exif)
    data = bytearray(kept.getvalue())
    start = data.index(b"Exif\0\0")
    found = set()
    for at, value in ((17, 0), (41, 0), (43, 1)):
        broken = data.copy()
        broken[start + at] = value
        (tmp_path / f"{at}.jpg").write_bytes(broken)
        image = Image.open(tmp_path / f"{at}.jpg")
        with pytest.raises((struct.error, TypeError)):
            ImageOps.exif_transpose(image)
        found.add(load_image(tmp_path / f"{at}.jpg").size)
    assert found == {(2, 4)}


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "LA"])
def test_other_modes_become_rgb(mode: str, tmp_path: Path) -> None:
    file = tmp_path / "grey.tiff"
    Image.new("L", (3, 3), 255).convert(mode if mode != "CMYK" else "RGB").convert(mode).save(file)
    assert load_image(file).getpixel((1, 1)) == (255, 255, 255)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path: Path) -> None:
    file = tmp_path / "deep.png"
    Image.fromarray(np.full((2, 2), 128 * 256, dtype=np.uint16)).save(file)
    assert load_image(file).getpixel((0, 0)) == (128, 128, 128)


def test_arrays_of_bytes_floats_and_grey() -> None:
    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert np.array_equal(np.asarray(load_image(pixels)), pixels)
    assert np.array_equal(np.asarray(load_image(pixels / 255.0)), pixels)
    assert np.array_equal(np.asarray(load_image(pixels[:, :, 0])), np.stack([pixels[:, :, 0]] * 3, axis=2))


@pytest.mark.parametrize(
    ("array", "says"),
    [
        (np.zeros((3, 8, 8), np.uint8), "(3, 8, 8)"),
        (np.zeros((4, 4, 4), np.uint8), "(4, 4, 4)"),
        (np.full((2, 2), 2.0), "0..1"),
        (np.full((2, 2), np.nan), "0..1"),
        (np.zeros((2, 2), np.int64), "int64"),
        (np.zeros((0, 2), np.uint8), "shape"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, says: str) -> None:
    with pytest.raises(DataError, match=says.replace("(", r"\(").replace(")", r"\)")):
        load_image(array)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(whole)
    truncated, words, broken = tmp_path / "truncated.jpg", tmp_path / "words.jpg", tmp_path / "broken.png"
    truncated.write_bytes(whole.read_bytes()[:900])
    words.write_text("not an image")
    two_colours().save(broken)
    broken.write_bytes(broken.read_bytes()[:40] + b"\xff" * 40)
    for file in (truncated, words, broken, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(DataError, match=file.name):
            load_image(file)


def test_something_else() -> None:
    with pytest.raises(DataError, match="int"):
        load_image(3)


def test_torch_is_not_imported() -> None:
    code = "import sys, modbridge.media; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_whatever_pil_raises_names_the_file(tmp_path: Path) -> None:
    """A ValueError of a size that is no number, as PIL has it while it opens a file."""
    (tmp_path / "x.ppm").write_bytes(b"P6\nxx 2 255\n")
    with pytest.raises(ValueError, match="invalid literal"):
        Image.open(tmp_path / "x.ppm")
    with pytest.raises(DataError, match=r"image .*x\.ppm: cannot be read \(invalid literal"):
        load_image(tmp_path / "x.ppm")
