"""Clips as the audio tower reads them, as the package prepares them (`get_audio_features` of its training.data), but
with every choice drawn from a seed and the clip's own samples instead of numpy's global generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from modbridge.audio import Samples, Where
from modbridge.clips import Clip, ClipFeatures, repeat_padded

_FULL_SCALE = 32767.0


class LaionFeatures(ClipFeatures):
    """Samples at the network's rate into windows of samples (n, T), or of fused networks log-mels (n, 4, frames, bins).

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
        super().__init__(length, hop, long_clips, where, seed)
        self._mel, self._int16 = mel, int16

    def padded(self, samples: Samples) -> Samples:
        return repeat_padded(samples, self.length)

    def windows(self, windows: Sequence[Samples]) -> Clip:
        if self._mel is None:
            return Clip(torch.stack([self._wave(window) for window in windows]), longer=False)
        return Clip(torch.stack([self.log_mel(window).expand(4, -1, -1) for window in windows]), longer=False)

    def log_mel(self, samples: Samples) -> torch.Tensor:
        assert self._mel is not None, "only fused networks take fusions"
        return self._mel(self._wave(samples))

    def _wave(self, samples: Samples) -> torch.Tensor:
        return torch.from_numpy(sixteen_bits(samples) if self._int16 else np.ascontiguousarray(samples))


def sixteen_bits(samples: Samples) -> Samples:
    """Samples clipped to -1..1 and cut to 16 bits (towards zero), as floats again."""
    found: Samples = (np.clip(samples, -1.0, 1.0) * np.float32(_FULL_SCALE)).astype(np.int16).astype(np.float32)
    return found / np.float32(_FULL_SCALE)
