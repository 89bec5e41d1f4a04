"""Files with a JSON object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modbridge.errors import DataError


def json_lines(path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The place ("file:3") and the object of every line that is not blank. Raises DataError for a file that cannot be
    read, holds none, or has a line that is no object."""
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); expected UTF-8 text with a JSON object a line.") from error
    count = 0
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            found = json.loads(line)
        except ValueError as error:
            raise DataError(f"{where}: no JSON ({error}); expected an object a line. Correct the line.") from error
        if not isinstance(found, dict):
            raise DataError(f"{where}: found {line[:80]!r}, expected an object a line. Correct the line.")
        count += 1
        yield where, found
    if not count:
        raise DataError(f"{path} is empty; expected a JSON object a line.")
