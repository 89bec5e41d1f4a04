"""What the pages and files of a run folder and of a gap report have in common."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

STYLE = """body {
  font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222
}
table { border-collapse: collapse; margin: 1rem 0 } th, td { padding: .25rem .6rem; text-align: left }
thead th { border-bottom: 2px solid #888 } tbody tr:nth-child(even) { background: #f5f5f5 }
.note { color: #666; margin: .1rem 0 } .figure { max-width: 100% }
pre { background: #f5f5f5; padding: 1rem }
"""


def inline_png(png: bytes) -> str:
    """A picture as the `src` of an image that needs no other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def write_text(path: Path, content: str) -> None:
    """Write a file whole or not at all."""
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole or not at all; ValueError for NaN and infinity, which JSON does not know."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
