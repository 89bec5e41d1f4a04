"""The state of components and of this process: tensors and parts to compare, generators to disturb, threads."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from modbridge.interfaces.component import Component


def all_parts(component: Any) -> Iterator[tuple[str, Component[Any]]]:
    """A component and everything nested in it that is its own, by dotted name; itself is ""."""
    yield "", component
    for name, part in component.context.parts.items():
        if part.config.shared:
            continue
        for inner, found in all_parts(part):
            yield f"{name}.{inner}".rstrip("."), found


def all_tensors(component: Any) -> dict[str, torch.Tensor]:
    """Everything that an artefact of the component would keep, nested parts included."""
    return {
        f"{part}.{name}".lstrip("."): value.detach().cpu().clone()
        for part, inner in all_parts(component)
        for name, value in inner.tensors().items()
    }


@contextmanager
def other_randomness(seed: int) -> Iterator[None]:
    """The global generators in another state, and afterwards as they were."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks of a few thousand weights are slower on several threads than on one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
