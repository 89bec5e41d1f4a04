"""Tiny vectors and components for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modbridge.interfaces.component import BuildContext, Component
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.plugins.registry import Registry
from modbridge.spaces import Embeddings, Port, Space


def toy_port(dim: int = 16, modality: str = "text", space: str = "toy") -> Port:
    """A port of a made-up space."""
    return Port(space=Space(id=space, dim=dim), modality=modality)


def toy_embeddings(
    count: int, dim: int = 16, modality: str = "text", *, seed: int = 0, shift: float = 0.5
) -> Embeddings:
    """Unit vectors around a mean of their modality's own, so that there is a gap to close."""
    keys = tuple(f"{modality}{i}" for i in range(count))
    values = Draw.of(keys, seed).normal(dim)
    mean = Draw.of([modality], seed).normal(dim) * shift
    return Embeddings(torch.nn.functional.normalize(values + mean, dim=1), toy_port(dim, modality), keys)


def toy_texts(texts: Sequence[str], dim: int = 16) -> Embeddings:
    """The vectors of texts in the toy space, unit length: what a text says decides its vector, its place does not."""
    values = torch.nn.functional.normalize(Draw.of(texts, 0).named("text").normal(dim), dim=1)
    return Embeddings(values, toy_port(dim), tuple(map(str, range(len(texts)))))


def build_config(kind: str, block: Mapping[str, Any] | str, registry: Registry | None = None) -> Any:
    """A component's checked config, from a block (or the word alone) as in a config file."""
    from modbridge.config.blocks import validate_block

    return validate_block(
        kind, block if isinstance(block, str) else dict(block), registry or Plugins.discover().registry
    )


def build(
    kind: str,
    block: Mapping[str, Any] | str,
    *,
    ports: Mapping[str, Port] | None = None,
    seed: int = 0,
    registry: Registry | None = None,
) -> Component[Any]:
    """A component, built offline from a block as it stands in a config file, with its nested parts."""
    from modbridge.assembly.build import build_component

    registry = registry or Plugins.discover().registry
    if ports is None:
        ports = {} if kind == "encoder" else {"text": toy_port(), "source": toy_port(modality="image")}
    context = BuildContext(seed=seed, ports=ports)
    component = build_component(build_config(kind, block, registry), kind, registry, context)
    assert isinstance(component, Component)
    return component
