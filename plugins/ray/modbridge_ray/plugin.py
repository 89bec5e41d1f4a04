"""What modbridge-ray brings: the engine `ray`."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="engine",
            name="ray",
            config="modbridge_ray.config:RayConfig",
            impl="modbridge_ray.engine:RayEngine",
            summary="the workers of a Ray cluster, which share a file system with this process",
            example={"type": "ray", "address": "local", "workers": 1},
        )
    )
