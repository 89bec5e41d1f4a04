"""Tiny files in the forms of the published vocabularies, and configs that read them: what the conformance checks try
them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("red", "green", "blue", "picture")


def visual_genome(at: Path) -> dict[str, Any]:
    """One object a line, with its spellings."""
    return _written(at / "objects_vocab.txt", "".join(f"{name},{name}s\n" for name in NAMES))


def vinvl(at: Path) -> dict[str, Any]:
    """Each name with its number."""
    return _written(at / "class2ind.json", json.dumps({name: number for number, name in enumerate(NAMES)}))


def open_images(at: Path) -> dict[str, Any]:
    """Labels and the names that are shown for them."""
    return _written(at / "classes.csv", "".join(f"/m/{number},{name}\n" for number, name in enumerate(NAMES)))


def _written(path: Path, text: str) -> dict[str, Any]:
    path.write_text(text, encoding="utf-8")
    return {"path": str(path)}
