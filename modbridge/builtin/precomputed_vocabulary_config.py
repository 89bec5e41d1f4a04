"""Config of a vocabulary whose vectors are there already."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from modbridge.builtin.precomputed_config import file_hash, to_be_given
from modbridge.builtin.vector_header import array_shape
from modbridge.config.component import Purpose
from modbridge.config.kinds import VocabularyConfig
from modbridge.errors import DataError
from modbridge.spaces import Port, Space


class PrecomputedVocabularyConfig(VocabularyConfig):
    """Names with stored vectors.

    `path`: .npz or .safetensors. `vectors`: the name of its float array (V, D); lengths do not count. `names`: a .json
    file with a list of V names. `space`: the id of the vectors' space, the weights included; it must be that of the
    encoder. `separator`: what stands between a name and other words for it ("tench, Tinca tinca"), or null: each entry
    is a name as it is. A name that stands there several times is one, with the mean of its unit vectors.
    """

    path: str
    vectors: str
    names: str
    space: str = Field(min_length=1)
    separator: str | None = Field(default=None, min_length=1)

    @property
    def port(self) -> Port:
        """The port of the stored vectors; the dimension is from the file's header, None while `path` is to be given.

        Raises DataError or ArtefactError for a file that isn't there or cannot be read.
        """
        if to_be_given(self.path):
            return Port(space=Space(id=self.space, dim=None), modality="text")
        shape = array_shape(Path(self.path).expanduser(), self.vectors)
        if len(shape) != 2:
            raise DataError(
                f"{self.path}: the array {self.vectors!r} has the shape {shape}; expected (names, dimension)."
            )
        return Port(space=Space(id=self.space, dim=shape[1]), modality="text")

    def check(self, port: Port) -> None:
        super().check(port)
        self.port.require(
            port,
            what="the names' stored vectors cannot be compared with these",
            remedy="Give vectors of the encoder's own space, or a vocabulary that the encoder embeds itself.",
        )

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but the files count by their content, not by their names."""
        fields = super().key_fields(*purposes)
        for field in ("path", "names"):
            file = Path(fields[field]).expanduser()
            if not to_be_given(fields[field]) and file.is_file():
                fields[field] = file_hash(file)
        return fields
