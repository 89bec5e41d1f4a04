"""Clips as an audio tower of fixed window reads them: padded, cut, or fused; and their windows' vectors averaged.

Every draw comes from a seed and the clip's own samples, so that a clip's vector depends on nothing else. Needs the
extra `modbridge[audio]`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from modbridge.audio import Samples, Where, crop, drawn, window_starts


@dataclass(frozen=True)
class Clip:
    """One clip's windows (n, ...), as an audio tower reads them, and whether they are a fusion of a longer clip."""

    windows: torch.Tensor
    longer: bool


class ClipFeatures(ABC):
    """Samples at a model's rate into what its audio tower reads. Authors write `padded`, `windows` and `log_mel`.

    `length`: of a window, in samples. `hop`: samples from frame to frame of a log-mel. `long_clips`: "crop", "mean" or
    "fusion". `where` and `seed`: which crop. The fusion is LAION's (Wu et al. 2023, section 3.3).
    """

    def __init__(self, length: int, hop: int, long_clips: str, where: Where, seed: int) -> None:
        self.length, self.hop, self.long_clips, self.where, self.seed = length, hop, long_clips, where, seed

    @abstractmethod
    def padded(self, samples: Samples) -> Samples:
        """A clip of `length` samples at most, brought to `length`."""
        ...

    @abstractmethod
    def windows(self, windows: Sequence[Samples]) -> Clip:
        """Windows of `length` samples, as the tower reads them."""
        ...

    @abstractmethod
    def log_mel(self, samples: Samples) -> torch.Tensor:
        """The log-mel (frames, bins) of a clip of any length; only fusion asks for it."""
        ...

    def __call__(self, samples: Samples) -> Clip:
        if len(samples) <= self.length:
            return self.windows([self.padded(samples)])
        if self.long_clips == "mean":
            return self.windows([samples[at : at + self.length] for at in window_starts(len(samples), self.length)])
        if self.long_clips == "fusion":
            return self._fusion(samples)
        return self.windows([crop(samples, self.length, self.where, self.seed)])

    def _fusion(self, samples: Samples) -> Clip:
        """The whole clip's log-mel shrunken to a window's length, and a window of each of its thirds."""
        mel = self.log_mel(samples)
        frames = self.length // self.hop + 1
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
            chosen.append(first + drawn(samples, self.seed, after - first, name) if after > first else 0)
        return Clip(torch.stack([shrunken, *(mel[at : at + frames] for at in chosen)])[None], longer=True)


def repeat_padded(samples: Samples, length: int) -> Samples:
    """As many whole repeats as fit into `length` samples, then zeros (LAION's "repeatpad")."""
    whole = np.tile(samples, length // len(samples))
    return np.pad(whole, (0, length - len(whole)))


def stacked(clips: Sequence[Clip]) -> dict[str, torch.Tensor]:
    """Clips as one batch: all "windows" (N, ...), whether each is a fusion ("longer"), how many each clip has
    ("counts")."""
    counts = torch.tensor([len(clip.windows) for clip in clips])
    longer = torch.tensor([clip.longer for clip in clips]).repeat_interleave(counts)
    return {"windows": torch.cat([clip.windows for clip in clips]), "longer": longer, "counts": counts}


def clip_vectors(
    batch: dict[str, torch.Tensor], embed: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], size: int
) -> torch.Tensor:
    """Unit vectors (B, D) of a batch of `stacked`: the mean over each clip's windows of `embed(windows, longer)`
    (N, D), which is given `size` windows at once."""
    windows, longer, counts = batch["windows"], batch["longer"], batch["counts"]
    values = torch.cat([embed(windows[at : at + size], longer[at : at + size]) for at in range(0, len(windows), size)])
    if len(values) > len(counts):
        rows = torch.repeat_interleave(torch.arange(len(counts)), counts).to(values.device)
        total = torch.zeros((len(counts), values.shape[1]), device=values.device, dtype=values.dtype)
        values = total.index_add_(0, rows, values) / counts.to(values.device)[:, None]
    return torch.nn.functional.normalize(values, dim=-1)


def _third(count: int, part: int) -> tuple[int, int]:
    """Where a third of 0..count-1 begins and ends; the first ones are longer by one where three do not divide it."""
    size, over = divmod(count, 3)
    first = part * size + min(part, over)
    return first, first + size + (part < over)
