"""Which file in a folder is which clip: the folder is listed once, names are matched with or without suffix."""

from __future__ import annotations

import os
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from modbridge.errors import DataError
from modbridge_clap.caption_tables import Clip

# What soundfile (libsndfile) reads.
SUFFIXES = frozenset(
    (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".au", ".caf", ".w64", ".rf64")
)

# How those who fetched AudioCaps name its clips (the start in seconds, or start and end in ms, or the first row's id).
CUSTOMARY = (
    "{youtube_id}",
    "Y{youtube_id}",
    "{youtube_id}_{start}",
    "Y{youtube_id}_{start}",
    "{youtube_id}_{start}_{end}",
    "Y{youtube_id}_{start}_{end}",
    "{youtube_id}_{start_ms}_{end_ms}",
    "Y{youtube_id}_{start_ms}_{end_ms}",
    "{audiocap_id}",
)


class ClipFolder:
    """The sound files of one folder. Names compare in Unicode's composed form: macOS lists them decomposed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"audio {folder}: no such folder. Set `audio` to the folder that holds the clips.")
        self._names: dict[str, str] = {}
        self._stems: defaultdict[str, list[str]] = defaultdict(list)
        with os.scandir(folder) as listing:
            for entry in listing:
                name = _composed(entry.name)
                stem, suffix = os.path.splitext(name)
                if suffix.lower() in SUFFIXES:
                    self._names[name] = entry.path
                    self._stems[stem].append(name)

    def find(self, name: str) -> str | None:
        """The path of the file `name`, else of the one file that is called so before its suffix.

        Raises DataError if several are.
        """
        name = _composed(name)
        if name in self._names:
            return self._names[name]
        stems = self._stems.get(name) or []
        if len(stems) > 1:
            raise DataError(
                f"audio {self.folder}: found {', '.join(sorted(stems))} for one clip; expected one file. Remove the "
                f"others, or set `names` to a template with a suffix."
            )
        return self._names[stems[0]] if stems else None


def audiocaps_files(folder: ClipFolder, clips: Sequence[Clip], names: str = "auto") -> list[str | None]:
    """The path of every clip's file, None for those that are not there.

    "auto" takes the one customary way that finds most clips. Raises DataError if another finds clips that it does not
    (of a folder named in two ways it would not be known which file is which clip), and if one file stands for two
    clips (names without a start, of a video that is cut twice).
    """
    paths = _by_template(folder, clips, names) if names != "auto" else _by_custom(folder, clips)
    owners: dict[str, str] = {}
    for clip, path in zip(clips, paths, strict=True):
        if path is not None and owners.setdefault(path, clip.key) != clip.key:
            raise DataError(
                f"audio {path}: found one file for {owners[path]} and {clip.key}; expected a file for each. Name the "
                f"files by {{youtube_id}}_{{start}}."
            )
    return paths


def _by_custom(folder: ClipFolder, clips: Sequence[Clip]) -> list[str | None]:
    found = {template: _by_template(folder, clips, template) for template in CUSTOMARY}
    best = max(CUSTOMARY, key=lambda template: sum(path is not None for path in found[template]))
    for template, paths in found.items():
        extra = [clip.key for clip, a, b in zip(clips, paths, found[best], strict=True) if a and not b]
        if extra:
            count = sum(path is not None for path in found[best])
            raise DataError(
                f"audio {folder.folder}: found {count} clips named like {best} and {len(extra)} others like {template} "
                f"({extra[0]} ...); expected one way. Name the files alike, or set `names` to one of the two."
            )
    return found[best]


def clotho_files(folder: ClipFolder, clips: Sequence[Clip]) -> list[str | None]:
    """As `audiocaps_files`: a file of the very name, else one of another suffix (clips converted to .flac)."""
    names = [clip.fields[0]["file_name"] for clip in clips]
    return [folder.find(name) or folder.find(os.path.splitext(name)[0]) for name in names]


def _by_template(folder: ClipFolder, clips: Sequence[Clip], template: str) -> list[str | None]:
    paths = []
    for clip in clips:
        names = dict.fromkeys(template.format_map(fields) for fields in clip.fields)
        paths.append(next((path for path in map(folder.find, names) if path is not None), None))
    return paths


def _composed(name: str) -> str:
    return unicodedata.normalize("NFC", name)
