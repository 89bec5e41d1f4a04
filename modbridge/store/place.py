"""Where results are kept by default."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root(given: str | None = None) -> Path:
    """The cache: as given, else MODBRIDGE_CACHE, else the user's cache folder."""
    import platformdirs

    found = given or os.environ.get("MODBRIDGE_CACHE")
    return Path(found) if found else Path(platformdirs.user_cache_dir("modbridge", appauthor=False))
