"""Cache keys: hashes of everything that decides a result, and of nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from modbridge.spaces import Embeddings

_SAMPLES, _SAMPLE_BYTES = 16, 65536  # of a weights file
_SETTINGS = (".json", ".txt", ".model", ".jinja")  # the last one: transformers' chat_template.jinja


def stable_hash(value: Any) -> str:
    """20 hex digits over the canonical JSON of plain values; the same in every process and on every machine."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def tensor_hash(values: torch.Tensor) -> str:
    """A hash of a tensor's shape, type and bytes."""
    digest = hashlib.sha256(f"{tuple(values.shape)}{values.dtype}".encode())
    digest.update(values.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:20]


def vectors_hash(vectors: Embeddings) -> str:
    """A hash of vectors and of the items they belong to."""
    masked = [] if vectors.mask is None else [tensor_hash(vectors.mask)]
    return stable_hash([vectors.keys, tensor_hash(vectors.values), *masked])


def file_hash(path: Path) -> str:
    """sha256 of a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_digest(folder: Path) -> str | None:
    """Digits that tell one model's folder from another: those of each weights file, then of all its settings. None if
    it holds no weights."""
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    return "-".join([*map(file_digest, weights), settings_digest(folder)[:6]]) if weights else None


def settings_digest(folder: Path) -> str:
    """Digits over a model folder's settings: tokenizer, chat template, preprocessing."""
    settings = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.suffix in _SETTINGS and p.is_file()):
        settings.update(f"{path.name} {file_hash(path)}\n".encode())
    return settings.hexdigest()


def file_digest(path: Path) -> str:
    """Ten hex digits that tell one weights file from another: its size and sixteen samples spread over it.

    Reads 1 MB at most, so that a plan can be checked without reading gigabytes.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:10]
