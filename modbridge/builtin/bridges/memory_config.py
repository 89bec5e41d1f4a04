"""Configs of the bridges that recall texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator

from modbridge.builtin.bridges.map_config import FramedConfig
from modbridge.builtin.precomputed_config import file_hash, to_be_given
from modbridge.builtin.vector_header import array_shape
from modbridge.config.component import Affects, Purpose
from modbridge.config.search import Exact, Faiss, form, in_words, require_faiss
from modbridge.errors import DataError
from modbridge.spaces import Port


def require_rows(file: str, array: str, dim: int | None) -> None:
    """Raise DataError unless the array holds vectors of `dim` numbers (None: of any), one a row."""
    shape = array_shape(Path(file).expanduser(), array)
    if len(shape) != 2 or (dim is not None and shape[1] != dim):
        wanted = f"(rows, {dim})" if dim is not None else "(rows, dimension)"
        raise DataError(
            f"{file}: the memory {array!r} has the shape {shape}, but the vectors to be bridged are {wanted[7:-1]}-d: "
            f"expected {wanted}. Encode its texts with the encoder of this pipeline, as one vector a text."
        )


class StoredFaiss(Faiss):
    """An index of FAISS (inverted lists) that is built when the bridge is fitted, and kept in its artefact.

    `probes`: how many lists are looked through for a source vector, those whose centres are nearest. There are
    4 sqrt(M) lists of M texts. More of them miss less and take longer; with all of them nothing is missed.
    """

    probes: Annotated[int, Field(ge=1), Affects("cross")] = 32


class MixedFaiss(StoredFaiss):
    """As `StoredFaiss`.

    `nearest`: over how many texts the softmax goes, those nearest to the source vector among the lists' texts.
    """

    nearest: Annotated[int, Field(ge=1), Affects("cross")] = 1024


_StoredSearch = Annotated[
    Annotated[Exact, Tag("exact")] | Annotated[StoredFaiss, Tag("faiss")],
    Discriminator(form),
    BeforeValidator(in_words, json_schema_input_type=Literal["exact", "faiss"] | StoredFaiss),
]
_MixedSearch = Annotated[
    Annotated[Exact, Tag("exact")] | Annotated[MixedFaiss, Tag("faiss")],
    Discriminator(form),
    BeforeValidator(in_words, json_schema_input_type=Literal["exact", "faiss"] | MixedFaiss),
]


class RecallConfig(FramedConfig):
    """A bridge that answers a source vector with vectors of a memory of texts."""

    size: int | None = Field(default=None, ge=1)
    """At most how many texts are remembered, chosen at random by the run's seed. Null: all. (DeCap: 500,000.)"""

    centred: bool = False
    """Whether a source vector looks for texts after both had their own modality's mean taken away and were normalised
    again. This is ours; without it the gap between the modalities takes part in every comparison."""

    file: str | None = None
    """A .npz or .safetensors file with the memory's vectors, of the same encoder, in place of the training texts. Its
    rows are copied into the artefact, which needs the file no more."""

    array: str | None = None
    """The name of the array (rows, dimension) in `file`."""

    chunk: Annotated[int, Field(ge=1), Affects("nothing")] = 4096
    """How many texts are looked at together. Working memory is this times (the batch + the dimension), whatever the
    memory's size."""

    held_mib: Annotated[int, Field(ge=0), Affects("nothing")] = 1024
    """A memory that takes at most so many MiB as float32 is kept on the device; a larger one is read from its file for
    every batch."""

    search: _StoredSearch = "exact"
    """How texts are found: "exact" looks at all of them; "faiss" at those that an index of FAISS picks out, for
    memories of more than ten million texts. The index takes 2 D + 8 bytes a text beside the memory itself."""

    @model_validator(mode="after")
    def _names_its_array(self) -> RecallConfig:
        if (self.file is None) != (self.array is None):
            raise ValueError("`file` and `array` belong together: the file of a memory, and the name of its array")
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"}) if self.centred else frozenset({"text"})

    def crosses(self, source: Port, text: Port) -> Port:
        """As for every bridge of vectors; DataError for a memory of another dimension, SetupError for a `search` whose
        package is missing. A file that isn't there is told when the bridge is fitted, since an artefact does without
        it."""
        port = super().crosses(source, text)
        require_faiss(self.search)
        if self.file is not None and self.array is not None and self._is_there():
            require_rows(self.file, self.array, text.space.dim)
        return port

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but the file counts by its content, not by its name; of `search` fitting needs no
        more than the word, and nothing where all texts are looked at."""
        fields = super().key_fields(*purposes)
        if self.search == "exact":
            del fields["search"]
        elif "cross" not in purposes:
            fields["search"] = self.search.type
        return {**fields, "file": file_hash(Path(self.file).expanduser())} if self.file and self._is_there() else fields

    def _is_there(self) -> bool:
        return self.file is not None and not to_be_given(self.file) and Path(self.file).expanduser().is_file()


class MemoryConfig(RecallConfig):
    """DeCap's memory projection."""

    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False), Affects("cross")] = 0.01
    """What cosines are divided by before the softmax. The default is DeCap's and WSAC's (they multiply by 100); DRCap
    takes its encoder's learnt one. With `centred` cosines spread wider, and a softer one suits them."""

    search: _MixedSearch = "exact"
    """How texts are found: "exact" mixes all of them; "faiss" the `nearest` of those that an index of FAISS picks out,
    for memories of more than ten million texts. The index takes 2 D + 8 bytes a text beside the memory itself."""


class NearestCaptionConfig(RecallConfig):
    """The nearest text of a memory."""
