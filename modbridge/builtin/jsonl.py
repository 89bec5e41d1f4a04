"""A file of one JSON object a line: a media file, its captions, and facts."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from modbridge.builtin.items import Item, ItemSource, path_keys, present, window
from modbridge.builtin.source_config import JsonlConfig
from modbridge.errors import DataError


class JsonlSource(ItemSource[JsonlConfig]):
    """The items of a .jsonl or .jsonl.gz file, in its order.

    Raises DataError for a file that cannot be read, with every bad line as FILE:LINE, and for missing media files.
    """

    def __init__(self, config: JsonlConfig) -> None:
        path = Path(config.path).expanduser()
        root = path.parent if config.root is None else Path(config.root).expanduser()
        media = config.media or config.modality
        used = {media, config.captions, config.key}
        names, keys, texts, facts = [], [], [], []
        problems = []
        for place, row in read_lines(path):
            try:
                names.append(text_of(row, media))
                keys.append(text_of(row, config.key) if config.key else "")
                texts.append(captions_of(row, config.captions) if config.captions else ())
            except ValueError as error:
                problems.append(f"{place}: {error}")
            facts.append({name: value for name, value in row.items() if name not in used})
        refuse(problems)
        if not config.key:
            keys = path_keys(names)
        items = [Item(k, root / n, t, f) for k, n, t, f in zip(keys, names, texts, facts, strict=True)]
        where = str(path)
        found, missing = present(
            window(items, config, where), lambda item: Path(item.media), config, where, f"{config.modality} files"
        )
        super().__init__(config, found, missing, where, "jsonl")


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """("FILE:LINE", object) of every line that is not blank. Raises DataError that names every line which is no JSON
    object, or says why the file cannot be read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the `path` of a .jsonl or .jsonl.gz file.")
    problems, found = [], []
    zipped = path.suffix == ".gz"
    try:
        with gzip.open(path, "rt", encoding="utf-8-sig") if zipped else path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except ValueError as error:
                    problems.append(f"{path}:{number}: not JSON: {error}")
                    continue
                if isinstance(row, dict):
                    found.append((f"{path}:{number}", row))
                else:
                    problems.append(f"{path}:{number}: expected an object {{...}}, found {type(row).__name__}")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} cannot be read to its end: {error}. It may be cut short; fetch it again.") from error
    refuse(problems)
    yield from found


def refuse(problems: list[str], shown: int = 20) -> None:
    """Raise DataError with all problems, of which at most `shown` are written out."""
    if problems:
        rest = f"\n  and {len(problems) - shown} more" if len(problems) > shown else ""
        raise DataError(f"{len(problems)} bad lines:\n  " + "\n  ".join(problems[:shown]) + rest)


def text_of(row: dict[str, Any], name: str) -> str:
    """A field that holds a string or a whole number, as a string. Raises ValueError."""
    value = _field(row, name)
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise ValueError(f"the field {name!r} holds {value!r}; expected a name or a whole number")
    return str(value)


def captions_of(row: dict[str, Any], name: str) -> tuple[str, ...]:
    """A field that holds a caption or a list of captions. Raises ValueError."""
    value = _field(row, name)
    captions = [value] if isinstance(value, str) else value
    if not isinstance(captions, list) or not captions:
        raise ValueError(f"the field {name!r} holds {value!r}; expected a caption or a list of captions")
    bad = [caption for caption in captions if not isinstance(caption, str) or not caption.strip()]
    if bad:
        raise ValueError(f"the field {name!r} holds {bad[0]!r} among its captions; expected text")
    return tuple(captions)


def _field(row: dict[str, Any], name: str) -> Any:
    if name not in row:
        raise ValueError(f"no field {name!r}; found {', '.join(map(repr, row)) or 'none'}")
    return row[name]
