"""Configs as artefacts and runs hold them, in today's words: an earlier version may have written other ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from modbridge.config.component import Part
from modbridge.plugins.registry import Registry


def upgraded_block(kind: str, block: Any, registry: Registry) -> Any:
    """A stored component, or a list of them, with its nested parts; each type says by `from_stored` what its fields are
    called now. What is not known is left as it is, for the check that follows to tell."""
    if isinstance(block, list):
        return [upgraded_block(kind, item, registry) for item in block]
    spec = registry.find(kind, str(block.get("type"))) if isinstance(block, Mapping) else None
    if spec is None:
        return block
    cls = spec.load_config()
    return _upgraded_fields(cls, cls.from_stored(dict(block)), registry)


def upgraded_pipeline(tree: Mapping[str, Any], cls: type[BaseModel], registry: Registry) -> dict[str, Any]:
    """A stored pipeline, or a section of one, of the class `cls`."""
    return _upgraded_fields(cls, dict(tree), registry)


def _upgraded_fields(cls: type[BaseModel], fields: dict[str, Any], registry: Registry) -> dict[str, Any]:
    for name, field in cls.model_fields.items():
        kind = next((mark.kind for mark in field.metadata if isinstance(mark, Part)), None)
        value, inside = fields.get(name), field.annotation
        if kind and get_origin(inside) is dict and isinstance(value, Mapping):
            fields[name] = {key: upgraded_block(kind, item, registry) for key, item in value.items()}
        elif kind and value is not None:
            fields[name] = upgraded_block(kind, value, registry)
        elif isinstance(value, Mapping) and isinstance(inside, type) and issubclass(inside, BaseModel):
            fields[name] = _upgraded_fields(inside, dict(value), registry)
    return fields
