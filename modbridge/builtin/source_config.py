"""Configs of the sources that read files."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, PositiveInt, model_validator

from modbridge.config.kinds import SourceConfig

EXTENSIONS = {
    "image": (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    "audio": (".aif", ".aiff", ".flac", ".m4a", ".mp3", ".ogg", ".opus", ".wav"),
}

Missing = Literal["error", "skip"]


def _a_window(rows: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= rows[0] < rows[1]:
        raise ValueError("expected [start, stop] with 0 <= start < stop, as in Python's slices")
    return rows


Window = Annotated[tuple[int, int], AfterValidator(_a_window)]


class MediaSourceConfig(SourceConfig):
    """What the file sources have in common.

    `rows`: [start, stop] takes a part of the items, in order; `limit`
    takes at most so many, after `rows`. `missing`: "error" refuses a source with missing files, "skip" leaves those
    items out and lists them in the source's `skipped`.
    """

    rows: Window | None = None
    limit: PositiveInt | None = None
    missing: Missing = "error"


class FolderConfig(MediaSourceConfig):
    """A folder of media files.

    `path`: the folder. `recursive`: whether files in folders below it count too. `extensions`: which files are items,
    whatever their case; by default those of images or sounds. `captions`: "sidecar" reads NAME.txt beside each file,
    one caption a line; "none" reads none.
    """

    path: str
    extensions: tuple[str, ...] | None = None
    recursive: bool = True
    captions: Literal["sidecar", "none"] = "none"

    @model_validator(mode="after")
    def _extensions_are_known(self) -> FolderConfig:
        if self.extensions is None and self.modality not in EXTENSIONS:
            raise ValueError(f"the file extensions of {self.modality!r} items are not known; give `extensions`")
        if self.extensions is not None and (not self.extensions or not all(e.startswith(".") for e in self.extensions)):
            raise ValueError('`extensions` holds at least one entry, each with its dot, like [".jpg", ".png"]')
        return self

    @property
    def suffixes(self) -> frozenset[str]:
        """The extensions of its items, lower case."""
        return frozenset(e.lower() for e in self.extensions or EXTENSIONS[self.modality])

    @property
    def captioned(self) -> bool:
        return self.captions == "sidecar"


class JsonlConfig(MediaSourceConfig):
    """A file of one JSON object a line.

    `path`: the file, .jsonl or .jsonl.gz. `root`: the folder of the media; by default the file's own. `media`: the
    field with the media file's name, by default named as the modality. `captions`: the field with a caption or a list
    of them; null if there are none. `key`: the field with the item's id; by default the media file's name without its
    suffix. All other fields become facts.
    """

    path: str
    root: str | None = None
    media: str | None = None
    captions: str | None = "captions"
    key: str | None = None

    @property
    def captioned(self) -> bool:
        return self.captions is not None
