"""What a decoder tells of how it came to a caption (`Decoded.details`), in words and in HTML.

Known details: `entities`, a list of {"name", "score", "kept"}, the best first, `kept` where the name came through into
the prompt; `prompt`, the words that the decoder read; `retrieved`, captions that it read. Others are left to JSON.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any


def explained(details: Mapping[str, Any]) -> list[str]:
    """One line for each known detail."""
    lines = []
    if "entities" in details:
        found = [f"{e['name']} {e['score']:.3f}{'' if e['kept'] else ' (left out)'}" for e in details["entities"]]
        lines.append(f"entities     {', '.join(found) or 'none'}")
    if "prompt" in details:
        lines.append(f"prompt       {details['prompt']!r}")
    lines += [f"retrieved    {text!r}" for text in details.get("retrieved", [])]
    return lines


def entities_html(details: Mapping[str, Any]) -> str:
    """The entities as marks with their scores: those that came through in bold, the others struck out."""
    marks = []
    for entity in details.get("entities", []):
        tag = "mark" if entity["kept"] else "s"
        marks.append(f"<{tag}>{html.escape(str(entity['name']))} {entity['score']:.2f}</{tag}>")
    return " ".join(marks)
