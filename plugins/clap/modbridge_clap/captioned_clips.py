"""The sources `audiocaps` and `clotho`: sounds and what people said of them."""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from modbridge.errors import DataError
from modbridge.interfaces.source import Source, check_keys
from modbridge_clap.caption_tables import Clip, read_audiocaps, read_clotho
from modbridge_clap.captioned_clips_config import AudioCapsConfig, CaptionedClipsConfig, ClothoConfig
from modbridge_clap.clip_files import ClipFolder, audiocaps_files, clotho_files

ConfigT = TypeVar("ConfigT", bound=CaptionedClipsConfig)


class CaptionedClips(Source[ConfigT]):
    """A table of captions and, if sounds are wanted, their folder.

    The folder is listed once, when the source is made: a clip that is not there is an error, or with `missing: skip`
    is left out and named in `skipped`. `limit` counts the clips that are there; those behind it are not missed.
    """

    def __init__(self, config: ConfigT) -> None:
        super().__init__(config)
        self.path = Path(config.captions).expanduser()
        self.folder = None if config.audio is None else Path(config.audio).expanduser()
        clips = self.read(self.path)
        self._paths: list[str] = []
        if self.folder is None:
            self._clips = clips[: config.limit]
        else:
            self._clips = self._present(clips, self.files(ClipFolder(self.folder), clips))
        self._keys = check_keys([clip.key for clip in self._clips], str(self.path))

    @abstractmethod
    def read(self, path: Path) -> list[Clip]:
        """The clips of the table."""
        ...

    @abstractmethod
    def files(self, folder: ClipFolder, clips: list[Clip]) -> list[str | None]:
        """The path of every clip's file, None for those that are not there."""
        ...

    def keys(self) -> list[str]:
        return list(self._keys)

    def media(self, row: int) -> Path:
        """The path of a sound. Raises DataError if the source was made without a folder of clips."""
        if self.folder is None:
            raise DataError(f"captions {self.path}: no sounds were given. Set `audio` to the folder that holds them.")
        return Path(self._paths[row])

    def texts(self, row: int) -> tuple[str, ...]:
        return self._clips[row].captions

    def fingerprint(self) -> str:
        """A hash of the table, of the choices made of it, and of the sounds' names, sizes and times."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.sha256(self.path.read_bytes())
        digest.update(repr((self.config.type, self.config.limit)).encode())
        for clip, path in zip(self._clips, self._paths, strict=bool(self._paths)):
            stat = os.stat(path)
            name = os.path.basename(path)
            digest.update(f"{clip.key}\0{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def _present(self, clips: list[Clip], paths: list[str | None]) -> list[Clip]:
        here: list[Clip] = []
        missing: list[str] = []
        for clip, path in zip(clips, paths, strict=True):
            if len(here) == self.config.limit:
                break
            if path is None:
                missing.append(clip.key)
            else:
                here.append(clip)
                self._paths.append(path)
        if missing and (self.config.missing == "error" or not here):
            raise DataError(
                f"{len(missing)} of the {len(here) + len(missing)} clips of {self.path} are not in {self.folder}: "
                f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''}. Set `audio` to the folder with them"
                + self._remedy(bool(here))
            )
        self.skipped = missing
        return here

    def _remedy(self, some: bool) -> str:
        naming = " and `names` to how they are named there" if isinstance(self.config, AudioCapsConfig) else ""
        return naming + (", or `missing: skip` to leave them out (every table says so)." if some else ".")


class AudioCaps(CaptionedClips[AudioCapsConfig]):
    """AudioCaps (Kim et al. 2019): one caption a clip to train on, five to validate and test. Clips up to 10 s."""

    def read(self, path: Path) -> list[Clip]:
        return read_audiocaps(path)

    def files(self, folder: ClipFolder, clips: list[Clip]) -> list[str | None]:
        return audiocaps_files(folder, clips, self.config.names)


class Clotho(CaptionedClips[ClothoConfig]):
    """Clotho v2.1 (Drossos et al. 2020): 3,839, 1,045 and 1,045 clips of 15 to 30 s, five captions each."""

    def read(self, path: Path) -> list[Clip]:
        return read_clotho(path)

    def files(self, folder: ClipFolder, clips: list[Clip]) -> list[str | None]:
        return clotho_files(folder, clips)
