"""What bridges promise beside the common: that augmentation is what they say, and that a traced crossing ends where a
crossing ends."""

from __future__ import annotations

import torch

from modbridge.noise import Draw
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.compare import ROUNDING, difference
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt
from modbridge.testing.conformance.subject import Subject


def augmentation_declared(subject: Subject) -> None:
    bridge, text = subject.component, toys.text_side(subject.ports["text"])
    said = subject.config.augments_by
    one, other = (bridge.augment(text, seed=seed, epoch=seed).values for seed in (0, 1))
    silent = [bridge.augment(text, seed=seed, epoch=seed, noise=False).values for seed in (0, 1)]
    if said in ("none", "shift") and difference(one, other):
        raise Failed(
            f"`augmentation` is {said!r}, but text vectors are augmented otherwise with every seed and epoch",
            'that only "noise" and "diffusion" draw noise',
            'declare `augmentation: ClassVar[Augmentation] = "noise"` (or "diffusion") in its config',
        )
    if said in ("noise", "diffusion") and not difference(one, other):
        raise Failed(
            f"`augmentation` is {said!r}, but text vectors are augmented alike with every seed and epoch",
            "noise that is drawn anew by (seed, epoch, key)",
            'draw it from `draw` in augment_vectors, or declare "none" or "shift"; an example that turns the noise off '
            "should say so by `augments_by`",
        )
    same = text.port.conflict(subject.config.augments(text.port)) is None  # else no vector can stay as it is
    if said == "none" and same and difference(one, text.values):
        raise Failed(
            '`augmentation` is "none", but augment changes text vectors',
            "that they stay as they are",
            'declare `augmentation` "shift", or leave augment_vectors out',
        )
    if said == "noise" and difference(silent[0], silent[1], rounding=ROUNDING):
        raise Failed(
            "augment with noise=False still differs by seed and epoch",
            "where the vectors lie but for the noise, which measures look at",
            "draw noise by draw.normal(...), which is zero where it is silent",
        )


def trace_ends_at_cross(subject: Subject) -> None:
    if subject.ports["source"].ragged:
        raise NotForIt("only single vectors are traced")
    bridge, source = subject.component, toys.vectors(subject.ports["source"], toys.ITEMS)
    draw = Draw.of(source.keys, 0, device=bridge.device).named("cross")
    with torch.inference_mode():
        stations = bridge.trace_vectors(source.values.to(bridge.device), draw)
    crossed = bridge.cross(source, 0)
    if not stations or not all(isinstance(name, str) for name, _ in stations):
        raise Failed(
            f"trace_vectors gave {stations!r:.80}", "(name, vectors) of each station", "give at least the ends"
        )
    if crossed.port.frame != "raw":
        return  # stations stand in the text frame, bridged vectors elsewhere
    told = difference(stations[-1][1], crossed.values, rounding=ROUNDING)
    if told:
        raise Failed(
            f"the last station of trace_vectors, {stations[-1][0]!r}, is not where cross ends ({told})",
            "a trace of the very crossing",
            "let both share their code, and draw by the same `draw`",
        )


CHECKS = (
    Check("augmentation_declared", ("bridge",), "augment does what `augmentation` says", augmentation_declared),
    Check("trace_ends_at_cross", ("bridge",), "a traced crossing ends where a crossing ends", trace_ends_at_cross),
)
