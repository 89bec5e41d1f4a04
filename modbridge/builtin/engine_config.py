"""Config of the built-in engine."""

from __future__ import annotations

from typing import Literal

from modbridge.config.kinds import EngineConfig


class LocalEngineConfig(EngineConfig):
    """Everything in this process, one task after the other."""

    type: Literal["local"] = "local"
