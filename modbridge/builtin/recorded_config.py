"""Config of the decoder that repeats captions made elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modbridge.builtin.precomputed_config import file_hash, to_be_given
from modbridge.config.component import Purpose
from modbridge.config.kinds import DecoderConfig
from modbridge.errors import DataError
from modbridge.spaces import Port


class RecordedConfig(DecoderConfig):
    """Captions that were made elsewhere, by any captioner, read from a file. Nothing is learnt, and the vectors are not
    looked at.

    `path`: .jsonl or .jsonl.gz, with an object a line, `{"key": item, "text": caption}`, of other fields as well; so
    the predictions.jsonl of another run (of one row) is one. An empty text is a caption of no words.
    """

    path: str

    @property
    def needs_fit(self) -> bool:
        return False

    def check(self, port: Port) -> None:
        """Vectors of any port will do. Raises DataError where the file isn't there."""
        if not to_be_given(self.path) and not Path(self.path).expanduser().is_file():
            raise DataError(f"{self.path}: no such file; give the `path` of a .jsonl or .jsonl.gz file of captions.")

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but the file counts by its content, not by its name."""
        fields, path = super().key_fields(*purposes), Path(self.path).expanduser()
        return {**fields, "path": file_hash(path)} if path.is_file() else fields
