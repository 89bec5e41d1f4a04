"""Reading sound: whatever a source gives as a clip, as one channel at the rate a model wants; and windows of it.

Needs the extra `modbridge[audio]`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from modbridge.errors import DataError

Samples = NDArray[np.float32]
Where = Literal["centre", "start", "random"]

LOWEST_RATE, HIGHEST_RATE = 1_000, 768_000  # Hz; ours: wider than any recording, narrower than a damaged header
MOST_CHANNELS = 64  # ours: more are an array (C, T) given as (T, C)
_RESAMPLER = "HQ"
_UNKNOWN_SIZE = 0x7FFF0000  # a stream writes such sizes into a WAV's header before it knows better


@dataclass(frozen=True, eq=False)
class Sound:
    """Samples (T,) or (T, C) in memory, floats or PCM integers, and their rate in Hz."""

    samples: Any
    rate: int


def load_audio(item: Any, sample_rate: int) -> Samples:
    """A clip as float32 (T,) at `sample_rate` Hz, T at least 1: the mean of its channels, resampled by soxr (HQ).

    `item`: a path of any format soundfile reads, or a `Sound`. Integers are scaled to -1..1. Raises DataError, naming
    the file, for one that is missing, cut off, empty, no sound, of an absurd rate, or that holds NaN or infinity.
    (That a file is cut off is seen in WAV, AIFF, FLAC, OGG, and MP3 with a header; other formats do not tell.)
    """
    if isinstance(item, Sound):
        samples, rate, name = _floats(np.asarray(item.samples)), item.rate, "a sound in memory"
    elif isinstance(item, str | Path):
        samples, rate = _read(Path(item))
        name = f"sound {item}"
    elif hasattr(item, "__array__"):
        raise DataError(
            "found an array, which does not say its sample rate. Give modbridge.audio.Sound(samples, rate)."
        )
    else:
        raise DataError(f"a sound was expected (a path, or a modbridge.audio.Sound); found {type(item).__name__}.")
    if not isinstance(rate, int | np.integer) or not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise DataError(f"{name}: found a rate of {rate} Hz; expected {LOWEST_RATE} to {HIGHEST_RATE}.")
    if samples.ndim not in (1, 2) or (samples.ndim == 2 and not 1 <= samples.shape[1] <= MOST_CHANNELS):
        raise DataError(
            f"{name}: samples must be (T,) or (T, C) with {MOST_CHANNELS} channels at most; found shape "
            f"{samples.shape}. Turn an array (C, T) round."
        )
    if len(samples) == 0:
        raise DataError(f"{name}: it holds no samples. Fetch it again, or leave it out.")
    if not np.isfinite(samples).all():
        bad = int((~np.isfinite(samples)).sum())
        raise DataError(f"{name}: {bad} of its {samples.size} samples are NaN or infinite. Mend it, or leave it out.")
    mono = samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float64)
    single = mono.astype(np.float32)
    if not np.isfinite(single).all():
        raise DataError(f"{name}: samples up to {np.abs(mono).max():.3g}, beyond what float32 holds; expected -1 to 1.")
    return _resampled(single, int(rate), sample_rate)


def window_starts(total: int, length: int) -> list[int]:
    """Where windows of `length` begin that cover `total` samples: side by side, the last one moved back to the end."""
    if total <= length:
        return [0]
    starts = list(range(0, total - length + 1, length))
    return starts if starts[-1] + length == total else [*starts, total - length]


def crop(samples: Samples, length: int, where: Where = "centre", seed: int = 0) -> Samples:
    """`length` samples of a longer clip; a shorter one as it is. "random" depends on seed and clip alone."""
    room = len(samples) - length
    if room <= 0:
        return samples
    if where == "random":
        start = drawn(samples, seed, room + 1)
    else:
        start = room // 2 if where == "centre" else 0
    return samples[start : start + length]


def drawn(samples: Samples, seed: int, count: int, name: str = "crop") -> int:
    """A number of 0..count-1, uniform, from (seed, name, the clip's samples): the same in any batch, order and run."""
    digest = hashlib.sha256(f"{seed}:{name}:".encode())
    digest.update(np.ascontiguousarray(samples, dtype="<f4").tobytes())
    return int.from_bytes(digest.digest()[:16], "big") * count >> 128


def _read(path: Path) -> tuple[NDArray[Any], int]:
    """A file's samples (T, C) and its rate."""
    if path.is_dir():
        raise DataError(f"sound {path}: found a folder, expected a sound file.")
    if not path.is_file():
        raise DataError(f"sound {path}: no such file. Correct the path, or leave the item out.")
    try:
        if _cut_off(path):
            raise DataError(f"sound {path}: the file is cut off. Fetch it again, or leave the item out.")
        with soundfile.SoundFile(str(path)) as file:
            if file.format == "MP3" and not _length_told(path):
                raise DataError(
                    f"sound {path}: an MP3 without a header that tells its length, which would be guessed from its "
                    f"size and read in part. Convert it, say `ffmpeg -i IN.mp3 OUT.flac`, or leave the item out."
                )
            told, rate = file.frames, file.samplerate
            samples = file.read(dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, RuntimeError, TypeError) as error:  # TypeError: a headerless .raw
        raise DataError(
            f"sound {path}: cannot be read ({error}). Expected a sound file such as WAV, FLAC, OGG or MP3: fetch it "
            f"again, or leave the item out."
        ) from error
    if len(samples) < told:
        raise DataError(
            f"sound {path}: the file is cut off after {len(samples)} of {told} samples. Fetch it again, or leave the "
            f"item out."
        )
    return samples, rate


def _cut_off(path: Path) -> bool:
    """Whether a WAV, AIFF or OGG ends before its headers say: libsndfile reads such files without a word."""
    size = path.stat().st_size
    with path.open("rb") as file:
        kind = file.read(12)
        if kind[:4] == b"OggS":
            return _page_incomplete(file, size)
        if kind[:4] not in (b"RIFF", b"FORM"):
            return False
        order: Literal["little", "big"] = "little" if kind[:4] == b"RIFF" else "big"
        at = 12
        while at + 8 <= size:
            file.seek(at)
            head = file.read(8)
            length = int.from_bytes(head[4:], order)
            if head[:4] in (b"data", b"SSND"):
                return length < _UNKNOWN_SIZE and at + 8 + length > size
            at += 8 + length + length % 2
        return True  # it ends before its samples begin


def _length_told(path: Path) -> bool:
    """Whether an MP3's first frame holds the header of Xing (also named Info) or VBRI, with the number of frames."""
    with path.open("rb") as file:
        head = file.read(10)
        if head[:3] == b"ID3":  # a tag before the sound; its length has seven bits a byte
            size = sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
            file.seek(10 + size)
        else:
            file.seek(0)
        frame = file.read(4096)  # a frame is shorter, and padding may come before it
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def _page_incomplete(file: BinaryIO, size: int) -> bool:
    """Whether the last page of an OGG file (RFC 3533, section 6) is longer than what is left of the file."""
    tail = min(size, 2 * 65307)  # a page's greatest length
    file.seek(size - tail)
    content = file.read(tail)
    at = content.rfind(b"OggS")
    page = content[at:]
    segments = page[26] if len(page) > 26 else 0
    return len(page) < 27 + segments or len(page) < 27 + segments + sum(page[27 : 27 + segments])


def _floats(samples: NDArray[Any]) -> NDArray[Any]:
    """Samples in memory as floats; PCM integers by their full scale."""
    kind, bits = samples.dtype.kind, samples.dtype.itemsize * 8
    if kind == "f":
        return samples
    if kind == "i" or samples.dtype == np.uint8:
        return (samples.astype(np.float64) - (128 if kind == "u" else 0)) / 2.0 ** (bits - 1)
    raise DataError(f"the samples of a sound must be floats or PCM integers; found {samples.dtype}.")


def _resampled(samples: Samples, rate: int, wanted: int) -> Samples:
    if rate == wanted:
        return samples
    found: Samples = np.asarray(soxr.resample(samples, rate, wanted, quality=_RESAMPLER), dtype=np.float32)
    return found if len(found) else samples.mean(keepdims=True)  # a sample or two, at a lower rate: less than one
