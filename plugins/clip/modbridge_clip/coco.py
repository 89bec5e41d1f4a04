"""The sources `coco_captions` and `flickr30k`: photographs and what people said of them."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from modbridge.errors import DataError
from modbridge.interfaces.source import Source, check_keys
from modbridge_clip.caption_files import Entry, read_captions
from modbridge_clip.coco_config import CocoCaptionsConfig, Flickr30kConfig, PhotographsConfig

ConfigT = TypeVar("ConfigT", bound=PhotographsConfig)


class Photographs(Source[ConfigT]):
    """A captions file and, if images are wanted, their folder.

    Keys are the image files' names without their suffix. The folder is listed once, when the source is made: an image
    that is not there is an error, or with `missing: skip` is left out and named in `skipped`.
    """

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self.path = Path(config.captions).expanduser()
        self.folder = None if config.images is None else Path(config.images).expanduser()
        entries = read_captions(self.path, *config.reading())
        self._files: dict[str, str] = {}
        if self.folder is not None:
            self._files = _listing(self.folder, {entry.folder for entry in entries})
            entries = self._present(entries)
        self._entries = entries[: config.limit]
        self._keys = check_keys([Path(entry.name).stem for entry in self._entries], str(self.path))

    def keys(self) -> list[str]:
        return list(self._keys)

    def media(self, row: int) -> Path:
        """The path of an image. Raises DataError if the source was made without a folder of images."""
        if self.folder is None:
            raise DataError(f"captions {self.path}: no images were given. Set `images` to the folder that holds them.")
        file = self._file(self._entries[row])
        assert file is not None
        return Path(file)

    def texts(self, row: int) -> tuple[str, ...]:
        return self._entries[row].captions

    def fingerprint(self) -> str:
        """A hash of the captions file, of the choices made of it, and of the images' names, sizes and times."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.path.read_bytes())
        layout, split, _ = self.config.reading()
        digest.update(repr((layout, split, self.config.limit)).encode())
        for entry in self._entries:
            file = self._file(entry)
            if file is not None:
                stat = os.stat(file)
                digest.update(f"{entry.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return digest.hexdigest()

    def _file(self, entry: Entry) -> str | None:
        """The path of the image's file: in the folder itself, or in the subfolder it is shipped in."""
        return self._files.get(entry.name) or self._files.get(f"{entry.folder}/{entry.name}")

    def _present(self, entries: list[Entry]) -> list[Entry]:
        missing = [entry.name for entry in entries if self._file(entry) is None]
        if not missing:
            return entries
        if self.config.missing == "error" or len(missing) == len(entries):
            raise DataError(
                f"{len(missing)} of the {len(entries)} images of {self.path} are not in {self.folder}: "
                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}. Set `images` to the folder with them"
                + (", or `missing: skip` to leave them out." if self.config.missing == "error" else ".")
            )
        self.skipped = missing
        return [entry for entry in entries if self._file(entry) is not None]


class CocoCaptions(Photographs[CocoCaptionsConfig]):
    """COCO, or a file in one of its layouts."""


class Flickr30k(Photographs[Flickr30kConfig]):
    """Flickr30k in Karpathy's splits. Its file names no subfolders: images lie in one folder."""


def _listing(folder: Path, subfolders: set[str]) -> dict[str, str]:
    """The paths of a folder's files, and of those in the subfolders that the captions file names, by relative name."""
    if not folder.is_dir():
        raise DataError(f"images {folder}: no such folder.")
    found: dict[str, str] = {}
    for name in ["", *sorted(subfolders - {""})]:
        if (folder / name).is_dir():
            with os.scandir(folder / name) as listing:
                found.update((f"{name}/{file.name}" if name else file.name, file.path) for file in listing)
    return found
