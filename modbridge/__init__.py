"""modbridge: bridges across the modality gap, assembled from plugins by a config.

`import modbridge` loads neither torch nor transformers; what needs them is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modbridge.assembly.pipeline import Pipeline, load
    from modbridge.composition import compose
    from modbridge.plugins import ComponentSpec, hookimpl
    from modbridge.spaces import Embeddings, Port, Space

__version__ = "0.1.0"

_HOMES = {
    "ComponentSpec": "modbridge.plugins",
    "Embeddings": "modbridge.spaces",
    "Pipeline": "modbridge.assembly.pipeline",
    "Port": "modbridge.spaces",
    "Space": "modbridge.spaces",
    "compose": "modbridge.composition",
    "hookimpl": "modbridge.plugins",
    "load": "modbridge.assembly.pipeline",
}

__all__ = ["ComponentSpec", "Embeddings", "Pipeline", "Port", "Space", "__version__", "compose", "hookimpl", "load"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'modbridge' has no attribute {name!r}")
