"""A clip's log-mel features as transformers' ClapFeatureExtractor computes them, but the same at every call.

The extractor draws from numpy's global generator, and marks a random clip of a batch of short ones as long, so that
vectors depend on batch, order and process. Here every draw comes from a seed and the clip's own samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modbridge.audio import Samples, Where, crop, drawn, window_starts

_BLOCK = 2048  # frames transformed at once, so that a clip of hours needs no more memory than its result
_FLOOR = 1e-10
PADDINGS = ("repeatpad", "repeat", "pad")


@dataclass(frozen=True)
class Clip:
    """One clip's windows (n, C, frames, bins), C = 4 for fused models, and whether it is a fusion of a longer clip."""

    mels: torch.Tensor
    longer: bool


class ClapFeatures:
    """Samples at the model's rate into what its audio tower reads.

    `extractor`: the model's ClapFeatureExtractor, whose settings and mel filters are used. `long_clips`: "crop", "mean"
    or "fusion".
    """

    def __init__(self, extractor: Any, long_clips: str, where: Where, seed: int) -> None:
        self.rate = int(extractor.sampling_rate)
        self.length = round(extractor.max_length_s * extractor.sampling_rate)
        self.long_clips, self.where, self.seed = long_clips, where, seed
        self._padding = str(extractor.padding)
        self._fused = extractor.truncation == "fusion"
        self._window, self._hop = int(extractor.fft_window_size), int(extractor.hop_length)
        self._hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._window) / self._window)
        # torchaudio's filters for fused models, librosa's for others, as LAION trained them
        bank = np.asarray(extractor.mel_filters if self._fused else extractor.mel_filters_slaney)
        self._used = int(np.flatnonzero(bank.any(axis=1)).max()) + 1
        self._bank = bank[: self._used]

    def __call__(self, samples: Samples) -> Clip:
        if len(samples) <= self.length:
            return self._windows([self._padded(samples)])
        if self.long_clips == "mean":
            return self._windows([samples[at : at + self.length] for at in window_starts(len(samples), self.length)])
        if self.long_clips == "fusion":
            return self._fusion(samples)
        return self._windows([crop(samples, self.length, self.where, self.seed)])

    def log_mel(self, samples: Samples) -> torch.Tensor:
        """float32 (frames, bins), in dB: Hann windows centred on every `hop`, the clip mirrored at its ends."""
        framed = np.pad(samples, self._window // 2, mode="reflect").astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(framed, self._window)[:: self._hop]
        found: NDArray[np.float32] = np.empty((len(frames), self._bank.shape[1]), dtype=np.float32)
        for at in range(0, len(frames), _BLOCK):
            bins = np.fft.rfft(frames[at : at + _BLOCK] * self._hann)[:, : self._used]
            power = (bins.real**2 + bins.imag**2) @ self._bank
            found[at : at + _BLOCK] = 10 * np.log10(np.maximum(power, _FLOOR))
        return torch.from_numpy(found)

    def _windows(self, windows: list[Samples]) -> Clip:
        mels = torch.stack([self.log_mel(window) for window in windows])[:, None]
        return Clip(mels.expand(-1, 4, -1, -1) if self._fused else mels, longer=False)

    def _padded(self, samples: Samples) -> Samples:
        if self._padding == "repeat":
            return np.tile(samples, self.length // len(samples) + 1)[: self.length]
        if self._padding == "repeatpad":
            samples = np.tile(samples, self.length // len(samples))
        return np.pad(samples, (0, self.length - len(samples)))

    def _fusion(self, samples: Samples) -> Clip:
        """The whole clip's spectrogram shrunken to the window's length, and a window of each of its thirds."""
        mel = self.log_mel(samples)
        frames = self.length // self._hop + 1
        room = len(mel) - frames + 1
        if room <= 1:  # longer by less than a hop
            return Clip(mel[:frames].expand(1, 4, -1, -1), longer=False)
        shrunken = torch.nn.functional.interpolate(
            mel[None, None], size=(frames, mel.shape[1]), mode="bilinear", align_corners=False
        )[0, 0]
        chosen = []
        for part, name in enumerate(("front", "middle", "back")):
            first, after = _third(room, part)
            chosen.append(first + drawn(samples, self.seed, after - first, name) if after > first else 0)
        return Clip(torch.stack([shrunken, *(mel[at : at + frames] for at in chosen)])[None], longer=True)


def _third(count: int, part: int) -> tuple[int, int]:
    """Where a third of 0..count-1 begins and ends; the first ones are longer by one where three do not divide it."""
    size, over = divmod(count, 3)
    first = part * size + min(part, over)
    return first, first + size + (part < over)


def stacked(clips: list[Clip]) -> dict[str, torch.Tensor]:
    """Clips as one batch: all windows (N, C, frames, bins), whether each is a fusion, and how many each clip has."""
    counts = torch.tensor([len(clip.mels) for clip in clips])
    longer = torch.tensor([clip.longer for clip in clips]).repeat_interleave(counts)
    return {"mels": torch.cat([clip.mels for clip in clips]), "longer": longer, "counts": counts}


def averaged(values: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """The mean over each clip's windows: (N, D) into (B, D)."""
    if len(values) == len(counts):
        return values
    rows = torch.repeat_interleave(torch.arange(len(counts), device=values.device), counts.to(values.device))
    total = torch.zeros((len(counts), values.shape[1]), device=values.device, dtype=values.dtype)
    return total.index_add_(0, rows, values) / counts.to(values.device)[:, None]
