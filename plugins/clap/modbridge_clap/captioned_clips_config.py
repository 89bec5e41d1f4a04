"""The configs of the sources of captioned sounds: `audiocaps` and `clotho`."""

from __future__ import annotations

import string
from typing import Literal

from pydantic import Field, field_validator

from modbridge.config.kinds import SourceConfig

NAME_FIELDS = ("youtube_id", "audiocap_id", "start", "end", "start_ms", "end_ms")


class CaptionedClipsConfig(SourceConfig):
    """What both sources share: a table of captions (CSV, plain or .gz), and the folder of its clips."""

    modality: Literal["audio"] = "audio"
    """The modality of its items beside their texts."""
    captions: str = Field(description="the CSV of captions, plain or .gz")
    audio: str | None = Field(default=None, description="the folder of clips; without it the source has only texts")
    limit: int | None = Field(default=None, ge=1, description="only the first so many items that are there")
    missing: Literal["error", "skip"] = Field(
        default="error",
        description="what to do about clips that are not there; with skip, every table says how many are missing",
    )


class AudioCapsConfig(CaptionedClipsConfig):
    """AudioCaps by its own CSVs: v1, 2.0, and the corrected v1 of aac-datasets."""

    type: Literal["audiocaps"] = "audiocaps"
    names: str = Field(
        default="auto",
        description="how the clips' files are named: auto, which tries the customary ways, or a template such as "
        "'Y{youtube_id}.wav' of {youtube_id}, {audiocap_id}, {start}, {end} (seconds), {start_ms}, {end_ms}; "
        "a template without a suffix takes any that is a sound's",
    )

    @field_validator("names")
    @classmethod
    def _known_fields(cls, names: str) -> str:
        if names == "auto":
            return names
        found = {field for _, field, _, _ in string.Formatter().parse(names) if field is not None}
        unknown = sorted(found - set(NAME_FIELDS))
        if unknown or not found & {"youtube_id", "audiocap_id"}:
            raise ValueError(
                f"found {names!r}, expected auto or a template that holds {{youtube_id}} or {{audiocap_id}} and no "
                f"other fields than {', '.join(NAME_FIELDS)}"
            )
        return names


class ClothoConfig(CaptionedClipsConfig):
    """Clotho by its own CSVs (file_name, caption_1 to caption_5); the clips have the names that the CSV gives."""

    type: Literal["clotho"] = "clotho"
