"""`start_step: auto` and `augment_step: auto`: the two noise levels chosen without pairs, references or a decoder.

Ours. Both look only at where clouds of vectors lie, all of them from the training split:

- M, `start_step`: source vectors, once bridged, should be distributed as texts are. Too small an M leaves the source's
  own directions in; too large a one leaves few directions at all, since the denoiser gives means of many texts. So M is
  the level at which the Frechet distance between bridged source vectors and text vectors is smallest.
- A, `augment_step`: a decoder should be trained on texts that are as blurred as bridged vectors will be. How far a
  bridged vector is from its own text takes pairs to know; how far it is from the nearest training text does not. So A
  is the level at which noised and denoised texts are, on average, as far from the nearest text as bridged vectors are.
  An error that lands on another plausible text is invisible to this, so A is rather a lower bound: on the demo M comes
  within .03 of the best of a sweep on five seeds, A costs up to .085 (docs/explanation/demo.md).

The network is called T / 50 times `num_steps` on at most SAMPLE vectors of each side, chosen by the hash of their keys.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from modbridge.distributions import frechet_distance
from modbridge.geometry import unit
from modbridge.interfaces import Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings

SAMPLE = 2000
LEVELS = 20  # of the noise process are tried

Refine = Callable[[torch.Tensor, int, Draw], torch.Tensor]
"""(vectors (B, D) at the prior's radius, start step, noise) -> refined vectors (B, D)."""


def sample(vectors: Embeddings, seed: int) -> tuple[torch.Tensor, Draw]:
    """At most SAMPLE of the vectors (N, D), whatever order they stand in, and the noise of their keys."""
    draw = Draw.of(vectors.keys, seed, device=vectors.values.device).named("auto")
    rows = draw.bits(1)[:, 0].argsort()[:SAMPLE]
    return vectors.values[rows], Draw(draw.hashes[rows], draw.seed, draw.epoch, draw.purpose)


def levels(timesteps: int) -> list[int]:
    """The noise levels tried: every twentieth part of the process."""
    return sorted({round(timesteps * i / LEVELS) for i in range(1, LEVELS)} - {0, timesteps})


def best_start_step(source: torch.Tensor, text: torch.Tensor, refine: Refine, draw: Draw, timesteps: int) -> int:
    """M: where bridged source vectors lie most like text vectors. Both (N, D), centred, at the prior's radius."""
    clean = unit(text.double())

    def distance(step: int) -> float:
        bridged = refine(source, step, draw) if step else source
        return frechet_distance(unit(bridged.double()), clean)

    return min([0, *levels(timesteps)], key=distance)


def best_augment_step(
    prior: Prior[Any], bridged: torch.Tensor, text: torch.Tensor, refine: Refine, draw: Draw, timesteps: int, start: int
) -> int:
    """A: where noised and denoised texts are as far from the nearest text as `bridged` vectors (N, D) are.

    Interpolated between the levels tried. Where bridged vectors are nearer than any, the smallest level; where they are
    further than any, M itself, the level that the sampler takes them for (the smallest where M is 0).
    """
    clean = unit(text)
    target = _nearest_distance(bridged, clean)
    before: tuple[int, float] | None = None
    for step in levels(timesteps):
        augmented = refine(prior.diffuse(text, step=step, draw=draw), step, draw)
        found = _nearest_distance(augmented, clean)
        if found >= target:
            if before is None:
                return step
            share = (target - before[1]) / (found - before[1])
            return round(before[0] + share * (step - before[0]))
        before = (step, max(found, before[1]) if before else found)
    return min(start, timesteps - 1) or levels(timesteps)[0]


def _nearest_distance(x: torch.Tensor, clean: torch.Tensor) -> float:
    """The mean Euclidean distance on the unit sphere from each row to the nearest of the unit vectors `clean`."""
    cosines = (unit(x) @ clean.T).amax(dim=1).clamp(-1, 1)
    return float((2 - 2 * cosines.double()).sqrt().mean())
