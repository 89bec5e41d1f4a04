"""The ways in which each kind of component is used, all of one form, so that one check serves every kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.judge import Question
from modbridge.interfaces.vocabulary import Entity
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.compare import ROUNDING, Rows
from modbridge.testing.conformance.outcome import Failed, NotRun
from modbridge.testing.conformance.subject import Subject

START_STEP, NUM_STEPS, NEAREST, EPOCH = 4, 2, 3, 1


@dataclass(frozen=True)
class View:
    """One way to use a component.

    `inputs`: what it is tried on, whole; `count` rows of it. `call(component, rows, seed)`: what it gives for those
    rows, as a user would ask. `check(component, found, rows)` raises Failed where type, shape or label is wrong.
    `rows_of(found)`: the numbers or entries to be compared.
    """

    name: str
    inputs: Any
    count: int
    call: Callable[[Any, Sequence[int], int], Any]
    check: Callable[[Any, Any, Sequence[int]], None]
    rows_of: Callable[[Any], Rows]


def views(subject: Subject) -> list[View]:
    """The ways in which the component can be used."""
    of: dict[str, Callable[[Subject], list[View]]] = {
        "encoder": _encoder,
        "prior": _prior,
        "bridge": _bridge,
        "decoder": _decoder,
        "vocabulary": _vocabulary,
        "objective": _objective,
        "judge": _judge,
    }
    return of[subject.kind](subject)


def _values(found: Embeddings) -> torch.Tensor:
    return found.values


def _encoder(subject: Subject) -> list[View]:
    found = []
    for modality in subject.config.modalities:
        items = toys.items(modality, subject.trial.items)
        keys = toys.keys(modality, len(items))

        def call(
            encoder: Any, rows: Sequence[int], seed: int, modality: str = modality, items: Any = items, keys: Any = keys
        ) -> Any:
            return encoder.encode([items[i] for i in rows], modality, keys=[keys[i] for i in rows])

        def check(encoder: Any, found: Any, rows: Sequence[int], modality: str = modality, keys: Any = keys) -> None:
            port = encoder.port(modality)
            _check_embeddings(f"encode({modality!r})", found, port, [keys[i] for i in rows])
            subject.config.emits(modality).require(
                port, what=f"the encoder emits({modality!r}) one port and gives another"
            )

        found.append(View(modality, items, len(items), call, check, _values))
    return found


def _prior(subject: Subject) -> list[View]:
    clean = toys.vectors(subject.ports["text"], toys.ITEMS)

    def on(prior: Any, rows: Sequence[int], seed: int) -> tuple[torch.Tensor, Draw]:
        x = clean.values if list(rows) == list(range(toys.ITEMS)) else clean.values[list(rows)]
        drawn = Draw.of([clean.keys[i] for i in rows], seed, device=prior.device).named("conformance")
        return x.to(prior.device), drawn

    def refine(prior: Any, rows: Sequence[int], seed: int) -> Any:
        x, drawn = on(prior, rows, seed)
        with torch.inference_mode():
            return prior.refine(x, start_step=START_STEP, num_steps=NUM_STEPS, draw=drawn)

    def diffuse(prior: Any, rows: Sequence[int], seed: int) -> Any:
        x, drawn = on(prior, rows, seed)
        with torch.inference_mode():
            return prior.diffuse(x, step=START_STEP, draw=drawn)

    def check(prior: Any, found: Any, rows: Sequence[int]) -> None:
        _check_tensor("the prior", found, (len(rows), *clean.values.shape[1:]))

    return [
        View(name, clean, toys.ITEMS, call, check, lambda found: found)
        for name, call in (("refine", refine), ("diffuse", diffuse))
    ]


def _bridge(subject: Subject) -> list[View]:
    source, text = toys.vectors(subject.ports["source"], toys.ITEMS), toys.text_side(subject.ports["text"])

    def cross(bridge: Any, rows: Sequence[int], seed: int) -> Any:
        return bridge.cross(_some(source, rows), seed)

    def augment(bridge: Any, rows: Sequence[int], seed: int) -> Any:
        return bridge.augment(_some(text, rows), seed, EPOCH)

    def check_cross(bridge: Any, found: Any, rows: Sequence[int]) -> None:
        port = subject.config.crosses(subject.ports["source"], subject.ports["text"])
        _check_embeddings("cross", found, port, [source.keys[i] for i in rows])

    def check_augment(bridge: Any, found: Any, rows: Sequence[int]) -> None:
        port = subject.config.augments(subject.ports["text"])
        _check_embeddings("augment", found, port, [text.keys[i] for i in rows])

    return [
        View("cross", source, toys.ITEMS, cross, check_cross, _values),
        View("augment", text, toys.ITEMS, augment, check_augment, _values),
    ]


def _decoder(subject: Subject) -> list[View]:
    bridged, source = toys.vectors(subject.ports["text"], toys.ITEMS), toys.vectors(subject.ports["source"], toys.ITEMS)

    def decode(decoder: Any, rows: Sequence[int], seed: int) -> Any:
        return decoder.decode(_some(bridged, rows), source=_some(source, rows), seed=seed)

    def check(decoder: Any, found: Any, rows: Sequence[int]) -> None:
        _check_list("decode", found, len(rows), Decoded)
        keys, wanted = [one.key for one in found], [bridged.keys[i] for i in rows]
        if keys != wanted:
            raise Failed(
                f"decode gave the keys {keys} for the items {wanted}",
                "one output for each item, in their order, with the item's key",
                "give Decoded(key, text) in the order of `keys`",
            )
        wrong = next((one for one in found if not isinstance(one.text, str)), None)
        if wrong is not None:
            raise Failed(f"decode gave {wrong!r}", "a str as `text`", "turn the output into a str")

    def pixels(one: Any) -> Any:
        # A pixel between two of its 256 levels may be rounded to either: a step of one is within rounding.
        return None if one.image is None else (one.image * (0.99 * ROUNDING)).tolist()

    def texts(found: Any) -> list[Any]:
        return [(one.key, one.text, pixels(one)) for one in found]

    return [View("decode", (bridged, source), toys.ITEMS, decode, check, texts)]


def _vocabulary(subject: Subject) -> list[View]:
    asked = toys.vectors(subject.ports["text"], toys.ITEMS)

    def nearest(vocabulary: Any, rows: Sequence[int], seed: int) -> Any:
        return vocabulary.nearest(_some(asked, rows), NEAREST)

    def check(vocabulary: Any, found: Any, rows: Sequence[int]) -> None:
        _check_list("nearest", found, len(rows), list)
        size = min(NEAREST, len(vocabulary.listed))
        for row in found:
            _check_list(f"nearest(..., {NEAREST})", row, size, Entity)
            scores = [entity.score for entity in row]
            if scores != sorted(scores, reverse=True):
                raise Failed(f"the scores of the nearest names are {scores}", "the nearest first", "sort them")

    def names(found: Any) -> list[Any]:
        return [[(entity.name, entity.score) for entity in row] for row in found]

    return [View("nearest", asked, toys.ITEMS, nearest, check, names)]


def _objective(subject: Subject) -> list[View]:
    given = toys.vectors(subject.config.takes or subject.port("image"), toys.ITEMS)
    items = toys.items(subject.media_modality, subject.trial.items)

    def loss(objective: Any, rows: Sequence[int], seed: int) -> Any:
        if not rows:
            return torch.zeros(0)  # nobody asks for the loss of nothing
        draw = Draw.of([given.keys[i] for i in rows], seed, device=objective.device)
        batch = objective.collate([objective.prepare(items[i]) for i in rows])
        with torch.no_grad():
            return objective.loss(_some(given, rows).values.to(objective.device), batch, draw)

    def check(objective: Any, found: Any, rows: Sequence[int]) -> None:
        _check_tensor("loss", found, (len(rows),))

    return [View("loss", (given, items), toys.ITEMS, loss, check, lambda found: found)]


def _judge(subject: Subject) -> list[View]:
    lacks = subject.config.missing()
    if lacks:
        raise NotRun(f"the environment lacks something: {lacks}")
    shown = [toys.image(row) for row in range(toys.ITEMS)] if subject.config.sees_images else [None] * toys.ITEMS
    asked = [Question(text, image) for text, image in zip(toys.questions(), shown, strict=True)]

    def ask(judge: Any, rows: Sequence[int], seed: int) -> Any:
        return judge.ask([asked[i] for i in rows])

    def check(judge: Any, found: Any, rows: Sequence[int]) -> None:
        _check_list("ask", found, len(rows), str)

    return [View("ask", asked, toys.ITEMS, ask, check, lambda found: found)]


def _some(whole: Embeddings, rows: Sequence[int]) -> Embeddings:
    """Some rows; all of them without a copy, so that a component that writes into its input is found out."""
    return whole if list(rows) == list(range(len(whole))) else whole.select(rows)


def _check_embeddings(what: str, found: Any, port: Port, keys: Sequence[str]) -> None:
    if not isinstance(found, Embeddings):
        raise Failed(
            f"{what} gave a {type(found).__name__}", "Embeddings", "do not override it; write its inner method"
        )
    reason = port.conflict(found.port)
    if reason:
        raise Failed(
            f"{what} gave {found.port}: {reason}", f"{port}, as the config says", "let the config say what is given"
        )
    if list(found.keys) != list(keys):
        raise Failed(f"{what} gave the keys {found.keys[:5]}", f"{tuple(keys[:5])}", "keep the items' order and keys")
    dim = port.space.dim or found.values.shape[-1]
    shape = (len(keys), dim) if port.tokens is None else (len(keys), port.tokens, dim)
    _check_tensor(what, found.values, shape)


def _check_tensor(what: str, found: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(found, torch.Tensor):
        raise Failed(f"{what} gave a {type(found).__name__}", "a tensor", "return a tensor")
    if tuple(found.shape) != shape:
        raise Failed(
            f"{what} gave a tensor {tuple(found.shape)} for {shape[0]} items",
            f"{shape}, as the port says",
            "return one vector an item; mind squeeze() and mean() without a dimension where there is one item or none",
        )
    if found.dtype != torch.float32:
        raise Failed(f"{what} gave {found.dtype}", "torch.float32", "add .float() to what is returned")
    if not bool(torch.isfinite(found).all()):
        raise Failed(
            f"{what} gave NaN or infinity", "finite numbers", "mind divisions by a norm or deviation that may be 0"
        )


def _check_list(what: str, found: Any, count: int, of: type[Any]) -> None:
    if not isinstance(found, list) or len(found) != count or not all(isinstance(one, of) for one in found):
        told = f"{len(found)} x {type(found[0]).__name__}" if isinstance(found, list) and found else repr(found)[:80]
        raise Failed(f"{what} gave {told}", f"a list of {count} {of.__name__}", "give one entry for each item")
