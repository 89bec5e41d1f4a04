"""What modbridge-clap brings: encoders of sounds and texts, and the captions of AudioCaps and Clotho."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins.hookspecs import hookimpl
from modbridge.plugins.registry import ComponentSpec


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    """Nothing yet."""
