"""Which objectives a run trains."""

from __future__ import annotations

from collections.abc import Iterator

from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import ObjectiveConfig


def trained_objectives(config: ComponentConfig, path: str = "") -> Iterator[tuple[str, ObjectiveConfig]]:
    """The objectives inside a component that the run trains, by their dotted names."""
    for name, _, part in config.each_part():
        yield from trained_objectives(part, f"{path}{name}.")
        if isinstance(part, ObjectiveConfig) and part.needs_fit:
            yield f"{path}{name}", part
