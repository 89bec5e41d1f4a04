"""What priors promise beside the common: that no noise changes nothing."""

from __future__ import annotations

import torch

from modbridge.noise import Draw
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.compare import ROUNDING, difference
from modbridge.testing.conformance.outcome import Check, Failed
from modbridge.testing.conformance.subject import Subject


def step_zero(subject: Subject) -> None:
    prior = subject.component
    clean = toys.vectors(subject.ports["text"], toys.ITEMS)
    x, draw = clean.values.to(prior.device), Draw.of(clean.keys, 0, device=prior.device)
    with torch.inference_mode():
        found = {
            "refine(start_step=0)": prior.refine(x, start_step=0, num_steps=1, draw=draw),
            "diffuse(step=0)": prior.diffuse(x, step=0, draw=draw),
        }
    for name, values in found.items():
        told = difference(values, clean.values, rounding=ROUNDING)
        if told:
            raise Failed(
                f"{name} changes vectors ({told})",
                "that level 0 is no noise, and changes nothing",
                "give x back where the step is 0",
            )


CHECKS = (Check("step_zero", ("prior",), "noise of level 0 changes nothing", step_zero),)
