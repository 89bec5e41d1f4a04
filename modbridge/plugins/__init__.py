"""How parts are found: hook specifications, discovery, registry. Light: nothing here imports torch or pydantic."""

from modbridge.plugins.hookspecs import hookimpl
from modbridge.plugins.registry import KINDS, ComponentSpec, Registry

__all__ = ["KINDS", "ComponentSpec", "Registry", "hookimpl"]
