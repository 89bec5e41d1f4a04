"""Clips as the audio tower reads them, as the package prepares them (`get_audio_features` of its training.data), but
with every choice drawn from a seed and the clip's own samples instead of numpy's global generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from modbridge.audio import Samples, Where, crop, drawn, window_starts

_FULL_SCALE = 32767.0


@dataclass(frozen=True)
class Clip:
    """One clip's windows: samples (n, T), or of fused networks log-mels (n, 4, frames, bins); and whether it is a
    fusion of a longer clip."""

    windows: torch.Tensor
    longer: bool


class LaionFeatures:
    """Samples at the network's rate into what its audio tower reads.

    `length`: of a window, in samples. `hop`: samples from frame to frame. `mel`: a fused network's log-mel, of samples
    (T,) as (frames, bins); None for others, which compute it inside. `long_clips`: "crop", "mean" or "fusion".
    """

    def __init__(
        self,
        length: int,
        hop: int,
        mel: Callable[[torch.Tensor], torch.Tensor] | None,
        *,
        int16: bool,
        long_clips: str,
        where: Where,
        seed: int,
    ) -> None:
        self._length, self._hop, self._mel = length, hop, mel
        self._int16, self._long_clips, self._where, self._seed = int16, long_clips, where, seed

    def __call__(self, samples: Samples) -> Clip:
        if len(samples) <= self._length:
            return self._stack([repeat_padded(samples, self._length)])
        if self._long_clips == "mean":
            starts = window_starts(len(samples), self._length)
            return self._stack([samples[at : at + self._length] for at in starts])
        if self._long_clips == "fusion":
            return self._fusion(samples)
        return self._stack([crop(samples, self._length, self._where, self._seed)])

    def _stack(self, windows: list[Samples]) -> Clip:
        waves = [self._wave(window) for window in windows]
        if self._mel is None:
            return Clip(torch.stack(waves), longer=False)
        return Clip(torch.stack([self._mel(wave).expand(4, -1, -1) for wave in waves]), longer=False)

    def _wave(self, samples: Samples) -> torch.Tensor:
        return torch.from_numpy(sixteen_bits(samples) if self._int16 else np.ascontiguousarray(samples))

    def _fusion(self, samples: Samples) -> Clip:
        """The whole clip's log-mel shrunken to a window's length, and a window of each of its thirds."""
        assert self._mel is not None
        mel = self._mel(self._wave(samples))
        frames = self._length // self._hop + 1
        room = len(mel) - frames + 1
        if room <= 1:  # longer by less than a hop
            return Clip(mel[:frames].expand(1, 4, -1, -1), longer=False)
        # bilinear without antialiasing, which torchvision's Resize did not know when the checkpoints were trained
        shrunken = torch.nn.functional.interpolate(
            mel[None, None], size=(frames, mel.shape[1]), mode="bilinear", align_corners=False
        )[0, 0]
        chosen = []
        for part, name in enumerate(("front", "middle", "back")):
            first, after = _third(room, part)
            chosen.append(first + drawn(samples, self._seed, after - first, name) if after > first else 0)
        return Clip(torch.stack([shrunken, *(mel[at : at + frames] for at in chosen)])[None], longer=True)


def repeat_padded(samples: Samples, length: int) -> Samples:
    """As many whole repeats as fit into `length` samples, then zeros."""
    whole = np.tile(samples, length // len(samples))
    return np.pad(whole, (0, length - len(whole)))


def sixteen_bits(samples: Samples) -> Samples:
    """Samples clipped to -1..1 and cut to 16 bits (towards zero), as floats again."""
    found: Samples = (np.clip(samples, -1.0, 1.0) * np.float32(_FULL_SCALE)).astype(np.int16).astype(np.float32)
    return found / np.float32(_FULL_SCALE)


def _third(count: int, part: int) -> tuple[int, int]:
    """Where a third of 0..count-1 begins and ends; the first ones are longer by one where three do not divide it."""
    size, over = divmod(count, 3)
    first = part * size + min(part, over)
    return first, first + size + (part < over)


def stacked(clips: list[Clip]) -> dict[str, torch.Tensor]:
    """Clips as one batch: all windows, whether each is a fusion, and how many each clip has."""
    counts = torch.tensor([len(clip.windows) for clip in clips])
    longer = torch.tensor([clip.longer for clip in clips]).repeat_interleave(counts)
    return {"windows": torch.cat([clip.windows for clip in clips]), "longer": longer, "counts": counts}


def averaged(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The mean over each clip's windows: (N, D) into (B, D)."""
    if len(values) == len(counts):
        return values
    rows = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts.to(values.device))
    total = torch.zeros((len(counts), values.shape[1]), device=values.device, dtype=values.dtype)
    return total.index_add_(0, rows, values) / counts.to(values.device)[:, None]
