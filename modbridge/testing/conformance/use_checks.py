"""What every component promises while it is used: shapes, batches, order, seeds, inputs left alone, foreign vectors
refused, one result on every device."""

from __future__ import annotations

from dataclasses import replace

import torch

from modbridge.errors import DataError, PluginError, PortError
from modbridge.spaces import Embeddings, Space
from modbridge.testing.conformance.compare import ROUNDING, Rows, content_hash, difference
from modbridge.testing.conformance.keeping_checks import copied
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt, NotRun
from modbridge.testing.conformance.state import other_randomness
from modbridge.testing.conformance.subject import Subject
from modbridge.testing.conformance.views import views

USED = ("encoder", "prior", "bridge", "decoder", "vocabulary", "objective", "judge")
PORTED = tuple(kind for kind in USED if kind not in ("prior", "objective", "judge"))  # given bare tensors, or words
BATCHES = (0, 1, 3)
ON_A_GPU = 1e-3


def shapes(subject: Subject) -> None:
    for view in views(subject):
        for count in BATCHES:
            rows = list(range(count))
            try:
                found = view.call(subject.component, rows, 0)
            except (PluginError, DataError) as error:
                raise Failed(
                    f"{view.name} of {count} items: {error}",
                    f"a result of the right shape for each of {', '.join(map(str, BATCHES))} items",
                    "let the shape follow the batch, and give finite float32 numbers",
                ) from error
            view.check(subject.component, found, rows)


def batch_invariance(subject: Subject) -> None:
    for view in views(subject):
        rows = list(range(view.count))
        whole = view.rows_of(view.call(subject.component, rows, 0))
        for size in (1, 3):
            parts = [
                view.rows_of(view.call(subject.component, rows[i : i + size], 0)) for i in range(0, view.count, size)
            ]
            joined = _joined(parts)
            told = difference(whole, joined, rounding=ROUNDING)
            if told:
                raise Failed(
                    f"{view.name}: {view.count} items at once give something else than {size} at a time ({told})",
                    "that the batch size changes nothing beyond rounding",
                    "use no statistics of the batch (BatchNorm in training mode, means over dim 0, padding that is not "
                    "masked); draw noise from `draw` by item, not from torch's generator",
                )


def _joined(parts: list[Rows]) -> Rows:
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return torch.cat(tensors) if tensors else [row for part in parts for row in part]


def order_invariance(subject: Subject) -> None:
    for view in views(subject):
        rows = list(range(view.count))
        back = list(reversed(rows))
        forwards = view.rows_of(view.call(subject.component, rows, 0))
        backwards = view.rows_of(view.call(subject.component, back, 0))
        turned = backwards.flip(0) if isinstance(backwards, torch.Tensor) else backwards[::-1]
        told = difference(forwards, turned, rounding=ROUNDING)
        if told:
            raise Failed(
                f"{view.name}: items in another order give something else ({told})",
                "that an item's result depends on the item and its key alone",
                "draw noise from `draw` by item; let no row depend on its place or its neighbours",
            )


def seeded(subject: Subject) -> None:
    for view in views(subject):
        rows = list(range(view.count))
        found = []
        for state in (1, 2):
            with other_randomness(state):
                found.append(view.rows_of(view.call(subject.component, rows, 0)))
        told = difference(found[0], found[1])
        if told:
            raise Failed(
                f"{view.name}: the same seed gave two results ({told})",
                "that the seed decides, not the state of torch's, numpy's or Python's own generators",
                "draw from `draw` (modbridge.noise), or from a generator of the seed that is given; put networks into "
                "eval()",
            )


def inputs_unchanged(subject: Subject) -> None:
    for view in views(subject):
        before = content_hash(view.inputs)
        view.call(subject.component, list(range(view.count)), 0)
        if content_hash(view.inputs) != before:
            raise Failed(
                f"{view.name} changed the items or vectors that it was given",
                "that inputs stay as they are, since others use them too",
                "work on a copy: x = x - mean instead of x -= mean, no functions whose names end in _",
            )


def foreign_port_refused(subject: Subject) -> None:
    component = subject.component
    if subject.kind == "encoder":
        _refused(subject, "items of an unknown modality", lambda: component.encode(["x"], "no_such_modality"))
        return
    for view in views(subject):
        given = view.inputs[0] if isinstance(view.inputs, tuple) else view.inputs
        assert isinstance(given, Embeddings)
        port = given.port.changed(space=Space(id="another space", dim=given.port.space.dim))
        foreign = replace(given.select([0, 1]), port=port)
        if subject.kind == "vocabulary":
            _refused(subject, "vectors of another space", lambda x=foreign: component.nearest(x, 2))
        else:
            _refused(subject, "vectors of another space", lambda x=foreign, v=view: getattr(component, v.name)(x))


def _refused(subject: Subject, what: str, use: object) -> None:
    assert callable(use)
    try:
        use()
    except PortError:
        return
    except Exception as error:
        raise Failed(
            f"given {what}, it raised {type(error).__name__}: {error}",
            "a PortError that names both sides",
            "do not override the public method, which checks ports; or call `port.require(...)` first",
        ) from error
    raise Failed(
        f"it took {what}",
        "a PortError, since such vectors mean nothing to it",
        "do not override the public method, which checks ports; or call `port.require(...)` first",
    )


def gpu() -> str | None:
    """The device that is compared with the CPU; None where there is none."""
    return "cuda" if torch.cuda.is_available() else None


def gpu_agreement(subject: Subject) -> None:
    device = gpu()
    if device is None:
        raise NotRun("no GPU")
    there = copied(subject, subject.component, device=device)
    for view in views(subject):
        rows = list(range(view.count))
        here, far = (view.rows_of(view.call(one, rows, 0)) for one in (subject.component, there))
        told = difference(here, far, rounding=ON_A_GPU)
        if told:
            raise Failed(
                f"{view.name}: the GPU gives something else than the CPU ({told})",
                f"agreement within {ON_A_GPU:g}",
                "draw noise from `draw`, which gives the same numbers everywhere; move every tensor to `self.device`",
            )


def different_inputs(subject: Subject) -> None:
    """Two different items, two different vectors: a tokenizer without its vocabulary reads every text alike."""
    for view in views(subject):
        values = view.rows_of(view.call(subject.component, [0, 1], 0))
        assert isinstance(values, torch.Tensor)
        if bool(torch.equal(values[0], values[1])):
            raise Failed(
                f"two different {view.name} items have the same vector",
                "vectors that tell items apart",
                "look at what `prepare` makes of them: a tokenizer that lost its vocabulary reads every text alike",
            )


def masked_places(subject: Subject) -> None:
    other = subject.ragged()
    if other is None:
        raise NotForIt("it refuses sequences of different lengths")
    component = other.made()
    for view in views(other):
        given = view.inputs[0] if isinstance(view.inputs, tuple) else view.inputs
        assert given.mask is not None
        before = view.rows_of(view.call(component, list(range(view.count)), 0))
        given.values.masked_fill_(~given.mask[..., None], 9.0)  # the view's own copy
        after = view.rows_of(view.call(component, list(range(view.count)), 0))
        told = difference(before, after, rounding=ROUNDING)
        if told:
            raise Failed(
                f"{view.name}: what stands behind a sequence's end changes the result ({told})",
                "that only what `mask` marks is read",
                "mask attention, means and sums by `mask`; or refuse ragged ports in the config",
            )


CHECKS = (
    Check("shapes", USED, "for 0, 1 and 3 items it gives what its ports say, finite, in float32", shapes),
    Check("batch_invariance", USED, "the batch size changes nothing", batch_invariance),
    Check("order_invariance", USED, "the order of items changes nothing", order_invariance),
    Check("seeded", USED, "one seed, one result, whatever the global generators do", seeded),
    Check("inputs_unchanged", USED, "what it is given stays as it is", inputs_unchanged),
    Check("foreign_port_refused", PORTED, "vectors of another space are refused", foreign_port_refused),
    Check("different_inputs", ("encoder",), "different items have different vectors", different_inputs),
    Check("masked_places", ("bridge", "decoder"), "what stands behind a sequence's end is not read", masked_places),
    Check("gpu_agreement", USED, "a GPU gives what the CPU gives", gpu_agreement),
)
