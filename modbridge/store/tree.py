"""Nested state (module, optimiser, step) to one safetensors file and back, without pickle."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from modbridge.errors import ArtefactError

_TREE = "modbridge_tree"


def save_tree(state: dict[str, Any], path: Path) -> None:
    """Write nested dicts and lists of tensors, numbers, strings and None. Appears whole or not at all."""
    tensors: dict[str, torch.Tensor] = {}
    skeleton = _flatten(state, tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        save_file(tensors or {"_": torch.zeros(0)}, beside, metadata={_TREE: json.dumps(skeleton)})
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def load_tree(path: Path) -> dict[str, Any]:
    """Read what `save_tree` wrote. Raises ArtefactError if the file is cut short or of another kind."""
    try:
        with safe_open(path, framework="pt") as file:
            skeleton = json.loads((file.metadata() or {})[_TREE])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read as a checkpoint ({error}); remove it to begin anew.") from error
    state = _unflatten(skeleton, tensors)
    assert isinstance(state, dict)
    return state


def _flatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {"$dict": [[_flatten(k, tensors), _flatten(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"$tuple": [_flatten(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_flatten(v, tensors) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unflatten(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_unflatten(v, tensors) for v in value]
    if isinstance(value, dict):
        if "$tensor" in value:
            return tensors[value["$tensor"]]
        if "$tuple" in value:
            return tuple(_unflatten(v, tensors) for v in value["$tuple"])
        return {_unflatten(k, tensors): _unflatten(v, tensors) for k, v in value["$dict"]}
    return value
