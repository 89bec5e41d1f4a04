"""Configs of the vocabularies: lists of names that come with this package, published ones by path, and anyone's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from modbridge.config.component import Affects, Purpose
from modbridge.config.kinds import VocabularyConfig
from modbridge.store.keys import file_hash
from modbridge_viecap.name_files import doubles, normalised

PLACE = "{}"


def _a_template(text: str) -> str:
    if text.count(PLACE) != 1:
        raise ValueError(f"the template {text!r} has {text.count(PLACE)} places for a name; expected one {PLACE}")
    return text


Template = Annotated[str, AfterValidator(_a_template)]


class ListedConfig(VocabularyConfig):
    """A list of names."""

    templates: Literal["auto"] | Annotated[list[Template], Field(min_length=1)] = "auto"
    """The texts that stand for a name, each with one {} for it; their unit vectors are averaged. "auto": CLIP's seven
    short ones for images; the bare name for everything else (a plain label serves CLAP about as well)."""

    def missing(self) -> str | None:
        path: str | None = getattr(self, "path", None)
        if path is None or Path(path).expanduser().is_file():
            return None
        return f"the vocabulary {self.type!r} is not at {path}; put the file there or set vocabulary.path"

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a file counts by its content, not by its name."""
        fields = super().key_fields(*purposes)
        for name in ("path", "ontology"):
            if isinstance(fields.get(name), str) and Path(fields[name]).expanduser().is_file():
                fields[name] = file_hash(Path(fields[name]).expanduser())
        return fields


class CocoConfig(ListedConfig):
    """COCO's 80 object categories (packaged), with our list of other words for them."""

    type: Literal["coco"] = "coco"


class AudioSetConfig(ListedConfig):
    """AudioSet's 527 classes (packaged)."""

    type: Literal["audioset"] = "audioset"

    split_commas: bool = True
    """Whether a class with several names, "Male speech, man speaking", gives each of them: 609 names (ZerAuCap's 611,
    with "Roaring cats (lions, tigers)" left whole and no "etc."). False: the 527 as they are, known by each part."""

    ontology: Annotated[str | None, Affects("decode")] = None
    """AudioSet's ontology.json, which says which name is broader than which. Null: nothing is known of that."""


class FileVocabularyConfig(ListedConfig):
    """A published list of names in a file."""

    path: str
    """The file, in the form in which it was published."""


class VisualGenomeConfig(FileVocabularyConfig):
    """Visual Genome's objects: bottom-up attention's 1,600 (objects_vocab.txt), or VG-SGG-dicts (JSON)."""

    type: Literal["visual_genome"] = "visual_genome"


class VinVLConfig(FileVocabularyConfig):
    """VinVL's 1,848 objects of Visual Genome, COCO and OpenImages (vgcocooiobjects_v1_class2ind.json); ViECap's for
    Flickr30k and NoCaps."""

    type: Literal["vinvl"] = "vinvl"


class OpenImagesConfig(FileVocabularyConfig):
    """OpenImages' boxable classes (class-descriptions-boxable.csv)."""

    type: Literal["open_images"] = "open_images"


class NamesConfig(ListedConfig):
    """Names of one's own: listed here, or in a file. Capitals do not count."""

    type: Literal["names"] = "names"
    names: Annotated[list[str], Field(min_length=1)] | None = None
    """The names themselves, each once."""
    path: str | None = None
    """A file of them instead: .txt with one a line, .json with a list, .csv with a column `name`."""

    @field_validator("names")
    @classmethod
    def _each_once(cls, names: list[str] | None) -> list[str] | None:
        found = [normalised(name) for name in names or []]
        if "" in found:
            raise ValueError("one of the names is empty")
        if twice := doubles(found):
            raise ValueError(
                f"{', '.join(twice)}: found more than once, not counting capitals and spaces; expected each once"
            )
        return found if names is not None else None

    @model_validator(mode="after")
    def _from_one_place(self) -> NamesConfig:
        if (self.names is None) == (self.path is None):
            raise ValueError("expected either `names` (a list) or `path` (a file of names)")
        return self
