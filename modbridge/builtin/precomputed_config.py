"""Configs of stored vectors: the encoder that has them already, and the source of the items they belong to."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from modbridge.builtin.source_config import MediaSourceConfig
from modbridge.builtin.vector_header import array_shape
from modbridge.config.component import Purpose
from modbridge.config.kinds import EncoderConfig
from modbridge.errors import DataError
from modbridge.spaces import Port, Space


class Stored(BaseModel):
    """Where one modality's vectors stand in a file.

    `array`: the name of the float array (N, D), or (N, n, D) for sequences. `keys`: what holds the item's id of each of
    the N rows. In .npz: an array of whole numbers or strings. In .safetensors, which has no strings: a tensor of whole
    numbers, or an entry of the header's metadata that is a JSON list of strings. Without it, items are called "0", "1"
    ... by row. `mask`: for sequences of different lengths, the name of a bool array (N, n), true where a token is;
    null: each has n tokens.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    array: str
    keys: str | None = None
    mask: str | None = None

    @model_serializer(mode="wrap")
    def _named_if_given(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without a mask as before there were any, so that keys stay."""
        found: dict[str, Any] = plain(self)
        return found if self.mask is not None else {name: found[name] for name in found if name != "mask"}


Vectors = dict[str, Stored]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, taken once while its size and time of change stay the same."""
    state = path.stat()
    return _hash_of(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=64)
def _hash_of(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def to_be_given(file: str) -> bool:
    """Whether a path still holds a "${...}" that is filled in later."""
    return "${" in file


class PrecomputedConfig(EncoderConfig):
    """Vectors that are already there.

    `file`: .npz or .safetensors. `space`: the id of their space, the weights included; give it the name another encoder
    uses and their vectors may be mixed. `normalise`: divide each vector by its length. `vectors`: where each modality's
    vectors stand. A text vector belongs to the item its key names; the j-th text vector of an item is that of its j-th
    text.
    """

    file: str
    space: str = Field(min_length=1)
    normalise: bool = False
    vectors: Vectors = Field(min_length=1)

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.vectors)

    def emits(self, modality: str) -> Port:
        """The port of one modality; its dimension is read from the file's header, or None while `file` is to be given.

        Raises DataError or ArtefactError for a file that isn't there or cannot be read.
        """
        if to_be_given(self.file):
            return Port(space=Space(id=self.space, dim=None, normalised=self.normalise), modality=modality)
        name = self.vectors[modality].array
        shape = array_shape(Path(self.file).expanduser(), name)
        if len(shape) not in (2, 3):
            raise DataError(
                f"{self.file}: the array {name!r} has the shape {shape}; expected (items, dimension), or (items, "
                f"tokens, dimension) for sequences."
            )
        mask = self.vectors[modality].mask
        if mask is not None:
            there = array_shape(Path(self.file).expanduser(), mask)
            if len(shape) != 3 or there != shape[:2]:
                raise DataError(
                    f"{self.file}: the mask {mask!r} has the shape {there}, and {name!r} {shape}; expected (items, "
                    f"tokens) beside (items, tokens, dimension)."
                )
        space = Space(id=self.space, dim=shape[-1], normalised=self.normalise)
        tokens = shape[1] if len(shape) == 3 else None
        return Port(space=space, modality=modality, tokens=tokens, ragged=mask is not None)

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but the file counts by its content, not by its name."""
        fields = super().key_fields(*purposes)
        path = Path(self.file).expanduser()
        return fields if to_be_given(self.file) or not path.is_file() else {**fields, "file": file_hash(path)}


class PrecomputedSourceConfig(MediaSourceConfig):
    """The items of a file of stored vectors.

    `file` and `vectors`: as the encoder's; the entry of `modality` gives the items, the entry "text", if there is one,
    how many text vectors each has. `captions`: a .jsonl file with the items' texts, or null; its lines are joined to
    the items by `key_field`, and `captions_field` holds a caption or a list of them. `first`: a field with the number
    of the caption that comes first, for data sets where only one of several captions was embedded; the others follow
    in their order and serve as references. All other fields become facts. `missing` is about items without a line.
    """

    file: str
    vectors: Vectors = Field(min_length=1)
    captions: str | None = None
    key_field: str = "key"
    captions_field: str = "captions"
    first: str | None = None

    @model_validator(mode="after")
    def _names_its_items(self) -> PrecomputedSourceConfig:
        if self.modality not in self.vectors:
            raise ValueError(
                f"`vectors` has no entry for the modality {self.modality!r}; it has {', '.join(self.vectors)}"
            )
        if self.first is not None and self.captions is None:
            raise ValueError("`first` names a field of the captions file; give `captions`")
        return self

    @property
    def captioned(self) -> bool:
        return self.captions is not None

    @property
    def brings_texts(self) -> bool:
        return "text" in self.vectors
