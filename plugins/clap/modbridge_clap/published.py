"""Telling one weights file from another without reading gigabytes. Imports only the standard library."""

from __future__ import annotations

import hashlib
from pathlib import Path

_SAMPLES, _SAMPLE_BYTES = 16, 65536


def file_digest(path: Path) -> str:
    """Ten hex digits that tell one weights file from another: its size and sixteen samples spread over it."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for i in range(_SAMPLES):
            file.seek(max(0, size - _SAMPLE_BYTES) * i // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:10]
