"""The vocabularies of listed names."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from modbridge.interfaces.vocabulary import Vocabulary
from modbridge_viecap.name_files import (
    Listed,
    normalised,
    packaged,
    pieces,
    read_names,
    read_ontology,
    read_open_images,
    read_vinvl,
    read_visual_genome,
    unambiguous,
    without_suffix,
)
from modbridge_viecap.vocabulary_config import (
    PLACE,
    AudioSetConfig,
    CocoConfig,
    ListedConfig,
    NamesConfig,
    OpenImagesConfig,
    VinVLConfig,
    VisualGenomeConfig,
)

# CLIP's seven short templates (its notebook of prompt engineering for ImageNet); ViECap's ensemble.
CLIP_TEMPLATES = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)

ListedConfigT = TypeVar("ListedConfigT", bound=ListedConfig)


class ListedVocabulary(Vocabulary[ListedConfigT]):
    """Names that a list gives. Authors write `read`, which raises DataError for a file that is missing or wrong.

    Automatic templates go by the modality of the port "source".
    """

    @abstractmethod
    def read(self) -> Listed:
        """The names and the other words for them."""
        ...

    @cached_property
    def _held(self) -> Listed:
        return self.read()  # when it is first asked for: a stored vocabulary does without its file

    def names(self) -> list[str]:
        return list(self._held.names)

    def prompts(self) -> list[list[str]]:
        return [[template.replace(PLACE, name) for template in self.templates] for name in self._held.names]

    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        return self._held.synonyms

    @property
    def templates(self) -> tuple[str, ...]:
        """The texts that stand for a name, with a place for it."""
        if self.config.templates != "auto":
            return tuple(self.config.templates)
        source = self.context.ports.get("source")
        return CLIP_TEMPLATES if source is not None and source.modality == "image" else (PLACE,)


class CocoVocabulary(ListedVocabulary[CocoConfig]):
    """COCO's 80."""

    def read(self) -> Listed:
        names = tuple(packaged("coco.json"))
        return Listed(names, unambiguous(names, packaged("coco_synonyms.json")))


class AudioSetVocabulary(ListedVocabulary[AudioSetConfig]):
    """AudioSet's 527, or the 609 names that they consist of."""

    @cached_property
    def _of_class(self) -> dict[str, list[str]]:
        split = self.config.split_commas
        labels = packaged("audioset.json").items()
        return {number: pieces(label) if split else [normalised(label)] for number, label in labels}

    def read(self) -> Listed:
        names = tuple(dict.fromkeys(name for own in self._of_class.values() for name in own))
        # Texts do not say what stands in parentheses: "police car (siren)" is a police car to them.
        spoken = {name: [without_suffix(word) for word in (name, *pieces(name))] for name in names}
        return Listed(names, unambiguous(names, spoken))

    def parents(self) -> Mapping[str, frozenset[str]]:
        """By name the names of all classes above its own, where `ontology` is given."""
        if self.config.ontology is None:
            return {}
        found: dict[str, set[str]] = {}
        for number, above in read_ontology(Path(self.config.ontology).expanduser()).items():
            own = self._of_class.get(number, [])
            broader = {name for other in above for name in self._of_class.get(other, ())} - set(own)
            for name in own:
                found.setdefault(name, set()).update(broader)
        return {name: frozenset(broader) for name, broader in found.items() if broader}


class VisualGenomeVocabulary(ListedVocabulary[VisualGenomeConfig]):
    """Visual Genome's objects; their other spellings are their synonyms."""

    def read(self) -> Listed:
        return read_visual_genome(Path(self.config.path).expanduser())


class VinVLVocabulary(ListedVocabulary[VinVLConfig]):
    """VinVL's objects."""

    def read(self) -> Listed:
        return read_vinvl(Path(self.config.path).expanduser())


class OpenImagesVocabulary(ListedVocabulary[OpenImagesConfig]):
    """OpenImages' boxable classes."""

    def read(self) -> Listed:
        return read_open_images(Path(self.config.path).expanduser())


class NamesVocabulary(ListedVocabulary[NamesConfig]):
    """Names of one's own."""

    def read(self) -> Listed:
        if self.config.path is not None:
            return read_names(Path(self.config.path).expanduser())
        return Listed(tuple(self.config.names or ()))
