"""What objectives promise beside the common: that embeddings can be taught through them, and that they stay as they
are."""

from __future__ import annotations

from modbridge.noise import Draw
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.compare import tensor_difference
from modbridge.testing.conformance.outcome import Check, Failed
from modbridge.testing.conformance.state import all_tensors
from modbridge.testing.conformance.subject import Subject

COUNT = 4


def gradients_pass(subject: Subject) -> None:
    objective = subject.made()
    objective.freeze()
    before = all_tensors(objective)
    given = toys.vectors(subject.config.takes or subject.port("image"), COUNT)
    items = toys.items(subject.media_modality, subject.trial.items)[:COUNT]
    z = given.values.to(objective.device).clone().requires_grad_(True)
    batch = objective.collate([objective.prepare(item) for item in items])
    losses = objective.loss(z, batch, Draw.of(given.keys, 0, device=objective.device))
    if not losses.requires_grad:
        raise Failed(
            "its loss has no gradient",
            "that embeddings can be taught by it",
            "no torch.no_grad and no detach() where `loss` reads z; only what it makes of the items may be under it",
        )
    losses.sum().backward()
    if z.grad is None or not bool((z.grad.flatten(1).abs().sum(1) > 0).all()):
        raise Failed("no gradient arrives at the embeddings", "one for every item's", "let the loss depend on z")
    parameters = [p for module in objective.modules().values() for p in module.parameters()]
    if any(p.requires_grad or p.grad is not None for p in parameters):
        raise Failed(
            "its own parameters ask for gradients while it teaches",
            "that `freeze` turns them off in all its networks",
            "name every network in `modules`",
        )
    told = tensor_difference(before, all_tensors(objective))
    if told:
        raise Failed(
            f"teaching changed it: {told}",
            "that it stays as it is",
            "put its networks into eval(), where no statistics are kept; `freeze` does so for those in `modules`",
        )


CHECKS = (Check("gradients_pass", ("objective",), "gradients pass through it, and leave it as it is", gradients_pass),)
