"""A clip's log-mel features as transformers' ClapFeatureExtractor computes them, but the same at every call.

The extractor draws from numpy's global generator, and marks a random clip of a batch of short ones as long, so that
vectors depend on batch, order and process. Here every draw comes from a seed and the clip's own samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from modbridge.audio import Samples, Where
from modbridge.clips import Clip, ClipFeatures, repeat_padded

_BLOCK = 2048  # frames transformed at once, so that a clip of hours needs no more memory than its result
_FLOOR = 1e-10
PADDINGS = ("repeatpad", "repeat", "pad")


class ClapFeatures(ClipFeatures):
    """Samples at the model's rate into log-mels (n, C, frames, bins), C = 4 for fused models.

    `extractor`: the model's ClapFeatureExtractor, whose settings and mel filters are used. `long_clips`: "crop", "mean"
    or "fusion".
    """

    def __init__(self, extractor: Any, long_clips: str, where: Where, seed: int) -> None:
        self.rate = int(extractor.sampling_rate)
        length = round(extractor.max_length_s * extractor.sampling_rate)
        super().__init__(length, int(extractor.hop_length), long_clips, where, seed)
        self._padding = str(extractor.padding)
        self._fused = extractor.truncation == "fusion"
        self._window = int(extractor.fft_window_size)
        self._hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(self._window) / self._window)
        # torchaudio's filters for fused models, librosa's for others, as LAION trained them
        bank = np.asarray(extractor.mel_filters if self._fused else extractor.mel_filters_slaney)
        self._used = int(np.flatnonzero(bank.any(axis=1)).max()) + 1
        self._bank = bank[: self._used]

    def log_mel(self, samples: Samples) -> torch.Tensor:
        """float32 (frames, bins), in dB: Hann windows centred on every `hop`, the clip mirrored at its ends."""
        framed = np.pad(samples, self._window // 2, mode="reflect").astype(np.float64)
        frames = np.lib.stride_tricks.sliding_window_view(framed, self._window)[:: self.hop]
        found: NDArray[np.float32] = np.empty((len(frames), self._bank.shape[1]), dtype=np.float32)
        for at in range(0, len(frames), _BLOCK):
            bins = np.fft.rfft(frames[at : at + _BLOCK] * self._hann)[:, : self._used]
            power = (bins.real**2 + bins.imag**2) @ self._bank
            found[at : at + _BLOCK] = 10 * np.log10(np.maximum(power, _FLOOR))
        return torch.from_numpy(found)

    def windows(self, windows: Sequence[Samples]) -> Clip:
        mels = torch.stack([self.log_mel(window) for window in windows])[:, None]
        return Clip(mels.expand(-1, 4, -1, -1) if self._fused else mels, longer=False)

    def padded(self, samples: Samples) -> Samples:
        if self._padding == "repeat":
            return np.tile(samples, self.length // len(samples) + 1)[: self.length]
        if self._padding == "repeatpad":
            return repeat_padded(samples, self.length)
        return np.pad(samples, (0, self.length - len(samples)))
