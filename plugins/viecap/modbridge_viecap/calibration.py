"""Temperature and threshold of the softmax over a vocabulary, chosen on training texts alone (ours).

A training caption's vector stands for an item, and the names that it says are the truth. Temperature and threshold are
those whose names agree best with the truth: micro F0.5 over all captions. Cosines between texts are larger than those
between texts and another modality, so what is chosen here carries over where the bridge closes that gap, or where
cosines are standardised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from modbridge.errors import DataError
from modbridge_viecap.scoring import Side, cosines, probabilities, ranked, standardised

BETA = 0.5  # of the F measure: masked training teaches a writer to do without a name, but not to doubt one
_STEPS = 25
_COSINE_RANGE, _STANDARD_RANGE = (0.002, 0.5), (0.05, 12.5)  # a cosine's deviation over names is about 1/25


@dataclass(frozen=True)
class Calibrated:
    """A temperature and a threshold, and how well they do on the texts that they were chosen on: `count` texts."""

    temperature: float
    threshold: float
    precision: float
    recall: float
    f_beta: float
    count: int


def calibrate(
    side: Side,
    truth: Sequence[Sequence[int]],
    *,
    top_k: int,
    temperature: float | None,
    threshold: float | None,
    standardise: bool,
) -> Calibrated:
    """The best temperature and threshold, of those that are None, for N texts (`side.queries`) of which each says the
    names `truth`, by their numbers.

    The temperature is the best of 25, log-spaced from .002 to .5 (from .05 to 12.5 where cosines are standardised);
    the threshold the best of all. Of equally good ones, that with the larger threshold, then the smaller temperature.
    Raises DataError if no text says a name.
    """
    said = _said(truth, side)
    logits = standardised(cosines(side)) if standardise else cosines(side)
    top = ranked(logits, top_k)
    hits = said.gather(1, top)
    low, high = _STANDARD_RANGE if standardise else _COSINE_RANGE
    grid = [low * (high / low) ** (step / (_STEPS - 1)) for step in range(_STEPS)]
    found = [
        _judged(probabilities(logits, t).gather(1, top), hits, int(said.sum()), t, threshold)
        for t in (grid if temperature is None else [temperature])
    ]
    return max(found, key=lambda one: (one.f_beta, one.threshold))


def calibrate_mix(
    sides: Sequence[Side],
    truth: Sequence[Sequence[int]],
    *,
    top_k: int,
    temperature: float | None,
    threshold: float | None,
    standardise: bool,
) -> list[Calibrated]:
    """As `calibrate`, for several sides whose probabilities are averaged: for each its own best temperature, and the
    threshold of the averages, which is the same for all, as is what is said of its success."""
    said = _said(truth, sides[0])
    temperatures, each = [], []
    for side in sides:
        alone = calibrate(
            side, truth, top_k=top_k, temperature=temperature, threshold=threshold, standardise=standardise
        )
        temperatures.append(alone.temperature)
        each.append(standardised(cosines(side)) if standardise else cosines(side))
    scores, level = mixed(each, temperatures)
    top = ranked(scores, top_k, level)
    hits = said.gather(1, top)
    return [_judged(scores.gather(1, top), hits, int(said.sum()), t, threshold) for t in temperatures]


def mixed(logits: Sequence[torch.Tensor], temperatures: Sequence[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean probabilities (B, V) of several sides, and what decides where they are level: the mean logits."""
    each = [probabilities(values, t) for values, t in zip(logits, temperatures, strict=True)]
    return torch.stack(each).mean(dim=0), torch.stack(list(logits)).mean(dim=0)


def _said(truth: Sequence[Sequence[int]], side: Side) -> torch.Tensor:
    """Whether each text says each name, bool (N, V)."""
    said = torch.zeros(len(side.queries), len(side.names), dtype=torch.bool)
    pairs = [(row, name) for row, names in enumerate(truth) for name in names]
    if not pairs:
        raise DataError(
            f"temperature and threshold cannot be chosen: none of {len(truth)} training texts says a name of the "
            f"vocabulary. Give numbers in place of 'auto', or a vocabulary that fits the texts."
        )
    rows, names = torch.tensor(pairs).T
    said[rows, names] = True
    return said


def _judged(
    scores: torch.Tensor, hits: torch.Tensor, true: int, temperature: float, threshold: float | None
) -> Calibrated:
    """The best threshold for candidates (N, k) with these scores, of which `hits` are right, where `true` names could
    be found; or how good the given one is."""
    flat, order = scores.flatten().sort(descending=True)
    right = hits.flatten()[order].cumsum(0)
    kept = torch.arange(1, len(flat) + 1)
    if threshold is None:
        measure = (1 + BETA**2) * right.double() / (kept + BETA**2 * true)
        ends = torch.cat([flat[1:] != flat[:-1], torch.tensor([True])])  # level scores are kept all or none
        at = int(measure.masked_fill(~ends, -1.0).argmax())  # the first among equals: the largest threshold
        threshold, number, good = float(flat[at]), at + 1, int(right[at])
    else:
        number = int((flat >= threshold).sum())
        good = int(right[number - 1]) if number else 0
    return Calibrated(
        temperature=temperature,
        threshold=threshold,
        precision=good / number if number else 0.0,
        recall=good / true,
        f_beta=(1 + BETA**2) * good / (number + BETA**2 * true),
        count=len(scores),
    )
