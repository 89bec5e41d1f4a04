"""What components that are fitted promise: fitting works, is decided by its seed, reaches every weight, lowers the
loss, and goes on from a checkpoint as if it had never stopped."""

from __future__ import annotations

from typing import Any

import torch

from modbridge.errors import ConfigError
from modbridge.interfaces.source import Source
from modbridge.testing.conformance.compare import content_hash, tensor_difference
from modbridge.testing.conformance.fits import Watched
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt, NotRun
from modbridge.testing.conformance.state import all_parts, all_tensors, other_randomness
from modbridge.testing.conformance.subject import FITTED_KINDS, Subject
from modbridge.testing.fitting import Interrupted


def fits(subject: Subject) -> None:
    _require_fitted(subject)
    data = subject.training_data()
    before = content_hash(_watchable(data))
    try:
        component = subject.build()
    except Exception as error:
        raise NotRun("it cannot be built; see `offline_build`") from error
    try:
        subject.fit(component, subject.fitting(), data)
    except NotRun:
        raise
    except Exception as error:
        raise Failed(
            f"fitting it on toy data raised {type(error).__name__}: {error}",
            f"that its example can be fitted on {_told(subject)}",
            "mend `fit`, or give an example whose fields suit so little data",
        ) from error
    if content_hash(_watchable(data)) != before:
        raise Failed(
            "fitting changed the data that it was given",
            "that training data stay as they are, since others are fitted on them too",
            "work on copies: x = x - mean instead of x -= mean, no functions whose names end in _",
        )


def fit_seeded(subject: Subject) -> None:
    _require_fitted(subject)
    first = all_tensors(subject.component)
    with other_randomness(2):
        second = all_tensors(subject.made())
    told = tensor_difference(first, second)
    if told:
        raise Failed(
            f"fitted twice with one seed, it has other tensors: {told}",
            "that the seed decides, not the state of torch's, numpy's or Python's own generators",
            "build networks inside torch.random.fork_rng() after torch.manual_seed(derived_seed(...)), train by "
            "modbridge.training.train, and draw from modbridge.noise",
        )


def learns(subject: Subject) -> None:
    after = _parameters(subject.component)
    if not after:
        raise NotForIt("it has no parameters to train by gradient")
    before = _parameters(_stopped(subject, 1))
    moved = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    still = sorted(after.keys() - moved)
    if still:
        raise Failed(
            f"{len(still)} of {len(after)} trainable tensors never changed while it was fitted: {', '.join(still[:3])}",
            "that fitting reaches every parameter that asks for a gradient",
            "give them to the optimiser and keep them in the graph (no detach(), no .data), or say "
            "requires_grad_(False) for those that are to stay; an example of one step shows nothing: give it more",
        )


def loss_falls(subject: Subject) -> None:
    component = subject.component
    if not _parameters(component):
        raise NotForIt("it has no parameters to train by gradient")
    told = _judged(subject, component)
    if told is None:
        told = subject.watched.ends()
    if told is None:
        raise NotRun("it tells too few losses: it neither trains by modbridge.training.train nor logs them")
    first, last = told
    if not last < first:
        raise Failed(
            f"the loss was {first:.5g} at the beginning and {last:.5g} at the end",
            "that fitting the example lowers it",
            "look at the loss's sign, at zero_grad and step, and at the learning rate; or give the example more steps",
        )


def resume(subject: Subject) -> None:
    undisturbed = all_tensors(subject.component)
    count = subject.watched.checkpoints
    if count < 2:
        raise NotForIt("its fit saves no checkpoints, so that there is nothing to go on from")
    fitting = subject.fitting(stop_after=count // 2)
    _interrupted(subject, fitting)
    stopped = fitting.checkpoints
    again = subject.build()
    with other_randomness(3):
        subject.fit(again, fitting)
    if fitting.checkpoints - stopped >= count:
        raise Failed(
            "interrupted and started again, its fit begins anew",
            "that it goes on from its last checkpoint",
            "train by modbridge.training.train, or ask `fitting.restore(name)` first",
        )
    told = tensor_difference(undisturbed, all_tensors(again))
    if told:
        raise Failed(
            f"interrupted and gone on, its fit ends elsewhere: {told}",
            "the very tensors of an undisturbed fit",
            "train by modbridge.training.train; put everything that a step changes into the checkpoint (optimiser, "
            "averages), and let data order and noise follow from (seed, step)",
        )


def _judged(subject: Subject, component: Any) -> tuple[float, float] | None:
    """A decoder's own loss on all toy texts after its first step and after its last; None where it has none."""
    if subject.kind != "decoder":
        return None
    vectors, targets = subject.training_data()
    try:
        after = component.text_loss(vectors, targets)
    except ConfigError:
        return None
    return float(_stopped(subject, 1).text_loss(vectors, targets)), float(after)


def _stopped(subject: Subject, checkpoints: int) -> Any:
    """One whose fit was stopped at its first checkpoint; freshly built where its fit makes none."""
    if subject.watched.checkpoints == 0:
        return subject.build()
    component = subject.build()
    _interrupted(subject, subject.fitting(stop_after=checkpoints), component)
    for _, part in all_parts(component):
        for module in part.modules().values():
            module.eval()
    return component


def _interrupted(subject: Subject, fitting: Watched, component: Any = None) -> None:
    """Fit until the fitting stops it."""
    try:
        subject.fit(subject.build() if component is None else component, fitting)
    except Interrupted:
        return
    raise Failed(
        "its fit went on though its checkpoint was interrupted",
        "that whatever `fitting` raises comes through, as Ctrl-C must",
        "catch no more than what you can answer: no `except Exception` around the steps of a fit",
    )


def _parameters(component: Any) -> dict[str, torch.Tensor]:
    """The parameters that ask for a gradient, nested parts included."""
    return {
        f"{part}.{name}.{key}".lstrip("."): value.detach().cpu().clone()
        for part, inner in all_parts(component)
        for name, module in inner.modules().items()
        for key, value in module.named_parameters()
        if value.requires_grad
    }


def _watchable(data: Any) -> Any:
    return [data.media(row) for row in range(len(data))] if isinstance(data, Source) else data


def _told(subject: Subject) -> str:
    kinds = {
        "encoder": f"a few {subject.media_modality if subject.kind == 'encoder' else ''} items with two captions each",
        "prior": "16 unit vectors",
        "bridge": "32 text vectors and 16 source vectors, as far as its `needs` ask for them",
        "decoder": "32 captions and their vectors",
        "vocabulary": "the vectors of its names",
        "objective": "a few images with two captions each",
    }
    return kinds[subject.kind]


def _require_fitted(subject: Subject) -> None:
    if not subject.is_fitted:
        raise NotForIt("it is not fitted")


TRAINED_KINDS = tuple(kind for kind in FITTED_KINDS if kind != "vocabulary")
CHECKS = (
    Check("fits", FITTED_KINDS, "its example can be fitted on toy data, which stay as they are", fits),
    Check("fit_seeded", FITTED_KINDS, "one seed, one fit, whatever the global generators do", fit_seeded),
    Check("learns", TRAINED_KINDS, "fitting changes every parameter that asks for a gradient", learns),
    Check("loss_falls", TRAINED_KINDS, "fitting lowers its loss", loss_falls),
    Check("resume", TRAINED_KINDS, "an interrupted fit goes on and ends with the same tensors", resume),
)
