"""Comparing what components give: tensors within rounding, or lists as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from modbridge.store.keys import stable_hash, tensor_hash

Rows = torch.Tensor | list[Any]
"""What a component gives for some items: a tensor whose first dimension they are, or a list with one entry for each."""

ROUNDING = 1e-5  # of float32, where only batch size and order differ


def difference(one: Rows, other: Rows, *, rounding: float = 0.0) -> str | None:
    """How two results differ, beyond `rounding` times the largest number; None if they do not."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        if one.shape != other.shape:
            return f"shape {tuple(one.shape)} against {tuple(other.shape)}"
        if one.numel() == 0:
            return None
        a, b = one.detach().cpu().double(), other.detach().cpu().double()
        worst = float((a - b).abs().max())
        allowed = rounding * max(1.0, float(a.abs().max()))
        if worst <= allowed:
            return None
        row = int((a - b).abs().flatten(1).max(1).values.argmax()) if a.ndim > 1 else int((a - b).abs().argmax())
        return f"row {row} differs by {worst:.2g}, where {allowed:.1g} is allowed"
    assert isinstance(one, list)
    assert isinstance(other, list)
    if len(one) != len(other):
        return f"{len(one)} results against {len(other)}"
    for row, (a, b) in enumerate(zip(one, other, strict=True)):
        if not _same(a, b, rounding):
            return f"row {row}: {_short(a)} against {_short(b)}"
    return None


def _same(one: Any, other: Any, rounding: float) -> bool:
    """Whether two entries are the same, their numbers within rounding."""
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(_same(a, b, rounding) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= rounding * max(1.0, abs(one))
    return bool(one == other)


def tensor_difference(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> str | None:
    """How two sets of named tensors differ, bit for bit; None if they do not."""
    if one.keys() != other.keys():
        return f"the tensors {sorted(one.keys() ^ other.keys())[:3]} are in only one of them"
    for name in one:
        if one[name].shape != other[name].shape or not torch.equal(one[name], other[name]):
            told = difference(one[name].reshape(-1), other[name].reshape(-1)) or "in its type or in NaN"
            return f"{name} (numbers counted from 0: {told})"
    return None


def content_hash(value: Any) -> str:
    """A hash of everything in a value that a component could change: tensors, arrays, images, lists, objects."""
    return stable_hash(_plain(value))


def _plain(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tensor_hash(value)
    if hasattr(value, "tobytes"):  # numpy's arrays, PIL's images
        return [str(getattr(value, name, "")) for name in ("shape", "size", "mode", "dtype")] + [value.tobytes().hex()]
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_plain(item) for item in value]
    fields = getattr(value, "__dataclass_fields__", None)
    if fields:
        return {name: _plain(getattr(value, name)) for name in fields}
    return repr(value)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else text[:117] + "..."
