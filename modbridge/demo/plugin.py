"""What the demo adds: its source and its metric, registered as any plugin's."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="source",
            name="drawn_scenes",
            config="modbridge.demo.config:DrawnScenesConfig",
            impl="modbridge.demo.scenes:DrawnScenes",
            summary="made-up pictures of one or two coloured shapes, with captions that mention only part of them",
            example={"count": 8},
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="objects_exact",
            config="modbridge.demo.config:ObjectsExactConfig",
            impl="modbridge.demo.objects:ObjectsExact",
            summary="share of captions in which every named object is really in the drawn scene",
        )
    )
