"""Reading stored vectors and the ids of their items."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from modbridge.builtin.precomputed_config import Stored
from modbridge.builtin.vector_header import DAMAGE, array_shape, damaged, require, safetensors_header, suffix_of
from modbridge.errors import DataError


def read_vectors(path: Path, stored: Stored) -> torch.Tensor:
    """The vectors (N, ...) of one modality, as they are stored: float16, bfloat16, float32 or float64.

    Raises DataError for an array that isn't there or isn't of floats, ArtefactError for a damaged file.
    """
    if suffix_of(path) == ".safetensors":
        values = _tensor(path, stored.array)
    else:
        array = _npz(path, stored.array)
        if array.dtype.kind != "f":
            raise DataError(f"{path}: the array {stored.array!r} holds {array.dtype}; expected floats.")
        values = torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    if not values.is_floating_point():
        raise DataError(f"{path}: the array {stored.array!r} holds {values.dtype}; expected floats.")
    return values


def read_mask(path: Path, name: str) -> torch.Tensor:
    """Where the tokens of sequences are, bool (N, n). Raises DataError for an array that isn't there or isn't bool."""
    if suffix_of(path) == ".safetensors":
        mask = _tensor(path, name)
        found, ok = str(mask.dtype), mask.dtype == torch.bool
    else:
        array = _npz(path, name)
        found, ok = str(array.dtype), array.dtype.kind == "b"
        mask = torch.from_numpy(array) if ok else torch.zeros(0)
    if not ok:
        raise DataError(f"{path}: the mask {name!r} holds {found}; expected bool, true where a token is.")
    return mask


def read_keys(path: Path, stored: Stored) -> list[str]:
    """The item ids of the N rows, in order; row numbers where the config names none. Reads no vectors.

    Raises DataError where they are not N, or neither whole numbers nor strings.
    """
    shape = array_shape(path, stored.array)
    if not shape:
        raise DataError(f"{path}: the array {stored.array!r} is a single number; expected (items, dimension).")
    rows = shape[0]
    if stored.keys is None:
        return [str(row) for row in range(rows)]
    values = _safetensors_keys(path, stored.keys) if suffix_of(path) == ".safetensors" else _npz_keys(path, stored.keys)
    if len(values) != rows:
        raise DataError(f"{path}: {stored.keys!r} holds {len(values)} ids for the {rows} rows of {stored.array!r}.")
    return [str(value) for value in values]


def _npz_keys(path: Path, name: str) -> list[Any]:
    array = _npz(path, name)
    if array.ndim != 1 or array.dtype.kind not in "iuUS":
        raise _no_keys(path, name, f"{array.dtype} of shape {array.shape}")
    found: list[Any] = (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array).tolist()
    return found


def _safetensors_keys(path: Path, name: str) -> list[Any]:
    tensors, metadata = safetensors_header(path)
    if name in metadata:
        try:
            names = json.loads(metadata[name])
        except ValueError as error:
            raise _no_keys(path, name, f"metadata that is no JSON ({error})") from error
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise _no_keys(path, name, "metadata that is not a JSON list of strings")
        return names
    require(tensors, name, path)
    values = _tensor(path, name)
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise _no_keys(path, name, f"{values.dtype} of shape {tuple(values.shape)}")
    found: list[Any] = values.tolist()
    return found


def _no_keys(path: Path, name: str, found: str) -> DataError:
    return DataError(
        f"{path}: {name!r} cannot serve as item ids: found {found}; expected one whole number or string a row."
    )


def _npz(path: Path, name: str) -> np.ndarray[Any, Any]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            require({key: key for key in archive.files}, name, path)
            array: np.ndarray[Any, Any] = archive[name]
            return array
    except (*DAMAGE, zlib.error) as error:
        raise damaged(path, error) from error


def _tensor(path: Path, name: str) -> torch.Tensor:
    require(safetensors_header(path)[0], name, path)
    try:
        with safe_open(path, framework="pt") as file:
            tensor: torch.Tensor = file.get_tensor(name)
            return tensor
    except SafetensorError as error:
        raise damaged(path, error) from error
