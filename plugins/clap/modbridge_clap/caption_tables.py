"""AudioCaps' and Clotho's tables of captions, read into one list of clips."""

from __future__ import annotations

import csv
import gzip
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modbridge.errors import DataError

AUDIOCAPS_COLUMNS = ("audiocap_id", "youtube_id", "start_time", "caption")
CLIP_SECONDS = 10  # every clip of AudioCaps is cut to 10 s from its start


@dataclass(frozen=True, slots=True)
class Clip:
    """One clip: its key, its captions in the table's order, and what its file may be called after.

    `fields` has one mapping for every row of the clip; the mappings differ in audiocap_id only.
    """

    key: str
    captions: tuple[str, ...]
    fields: tuple[dict[str, str], ...]


def read_audiocaps(path: Path) -> list[Clip]:
    """The clips of an AudioCaps CSV in order of their first rows; one caption a row, rows of a clip need not adjoin.

    The key is "{youtube_id}_{start_time}": of v1, 2.0 and any order of rows the same. Raises DataError, with file and
    line, for a file that is not such a table, an empty cell, and an audiocap_id that occurs twice.
    """
    captions: dict[str, list[str]] = {}
    fields: dict[str, list[dict[str, str]]] = {}
    lines: dict[str, int] = {}
    for line, row in _rows(path, AUDIOCAPS_COLUMNS):
        number, video = row["audiocap_id"], row["youtube_id"]
        if number in lines:
            raise _error(path, line, f"audiocap_id {number!r}, which line {lines[number]} has too", "one row an id")
        lines[number] = line
        try:
            start = float(row["start_time"])
            times = {"start": start, "end": start + CLIP_SECONDS}
            seconds = {name: f"{value:g}" for name, value in times.items()}
            milliseconds = {f"{name}_ms": str(round(value * 1000)) for name, value in times.items()}
        except (ValueError, OverflowError):
            raise _error(path, line, f"start_time {row['start_time']!r}", "a number of seconds") from None
        key = f"{video}_{seconds['start']}"
        captions.setdefault(key, []).append(row["caption"])
        fields.setdefault(key, []).append({"youtube_id": video, "audiocap_id": number, **seconds, **milliseconds})
    return [Clip(key, tuple(texts), tuple(fields[key])) for key, texts in captions.items()]


def read_clotho(path: Path) -> list[Clip]:
    """The clips of a Clotho CSV, one a row: file_name, caption_1, caption_2 ..., and columns that are not looked at.

    The key is file_name without its suffix. Raises DataError, with file and line, for a file that is not such a table,
    an empty cell, and a clip that occurs twice.
    """
    clips: list[Clip] = []
    lines: dict[str, int] = {}
    for line, row in _rows(path, ("file_name", "caption_1")):
        key = Path(row["file_name"]).stem
        if key in lines:
            raise _error(path, line, f"the clip {key!r}, which line {lines[key]} has too", "one row a clip")
        lines[key] = line
        numbered = sorted((name for name in row if re.fullmatch(r"caption_\d+", name)), key=lambda n: int(n[8:]))
        clips.append(Clip(key, tuple(row[name] for name in numbered), ({"file_name": row["file_name"]},)))
    return clips


def _rows(path: Path, needed: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV with their line numbers, cells stripped; every needed and every caption cell is filled."""
    try:
        table = csv.reader(io.StringIO(_read(path), newline=""), strict=True)
        header = [name.strip() for name in next(table, [])]
        absent = [name for name in needed if name not in header]
        if absent:
            found = ", ".join(header)[:100] or "nothing"
            raise _error(path, 1, f"{found}", f"a first line that names the columns {', '.join(needed)}")
        filled = {name for name in header if name in needed or re.fullmatch(r"caption_\d+", name)}
        count = 0
        for cells in table:
            line = table.line_num
            if not cells:
                continue
            count += 1
            if len(cells) != len(header):
                expected = f"{len(header)} ({', '.join(header)}); a caption with a comma stands in quotes"
                raise _error(path, line, f"{len(cells)} cells", expected)
            row = {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
            empty = [name for name in header if name in filled and not row[name]]
            if empty:
                raise _error(path, line, f"an empty {empty[0]}", "a value. Mend the line, or leave it out")
            yield line, row
        if not count:
            raise _error(path, 2, "no rows of captions", "at least one below the first line")
    except csv.Error as error:
        raise _error(path, table.line_num, f"a line that is no CSV ({error})", "cells with commas between") from error


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"captions {path}: no such file. Give the CSV of captions.") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"captions {path}: cannot be read ({error}). Fetch the file again.") from error


def _error(path: Path, line: int, found: str, expected: str) -> DataError:
    return DataError(f"captions {path}:{line}: found {found}; expected {expected}.")
