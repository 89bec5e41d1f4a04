"""What the captions name: by the vocabulary, or by the nouns that a tagger finds."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from modbridge.errors import SetupError
from modbridge_viecap.entities_config import Entities
from modbridge_viecap.filters import PEOPLE
from modbridge_viecap.lemmas import noun_lemmas
from modbridge_viecap.matcher import Matcher

_NOUNS = frozenset({"NN", "NNS"})  # common nouns, no names of persons or places: the authors' choice
_DESCRIBING = frozenset({"adult", "male", "female"})  # of animals as often as of people


class Extractor(ABC):
    """Finds words for entities in captions."""

    @abstractmethod
    def extract(self, texts: Sequence[str]) -> list[list[str]]:
        """For each text the entities it names, in order of first appearance, each once."""
        ...


class VocabularyExtractor(Extractor):
    """The names of a vocabulary. With `people`, one that names people at all ("woman") finds also the other common
    words for them ("guy"), as a tagger would."""

    def __init__(self, names: Sequence[str], synonyms: Mapping[str, Sequence[str]], *, people: bool) -> None:
        held = {*names, *(word for words in synonyms.values() for word in words)}
        more = sorted(PEOPLE - held - _DESCRIBING) if people and held & PEOPLE else []
        self._matcher = Matcher([*names, *more], synonyms)

    def extract(self, texts: Sequence[str]) -> list[list[str]]:
        return self._matcher.find_all(texts)


class TextBlobExtractor(Extractor):
    """Nouns by TextBlob's PatternTagger, whose data come with it, as lemmas by lemminflect."""

    def __init__(self) -> None:
        self._tagger = _imported("textblob", "textblob.en.taggers").PatternTagger()

    def extract(self, texts: Sequence[str]) -> list[list[str]]:
        return [_each_once(_noun(word) for word, tag in self._tagger.tag(text) if tag in _NOUNS) for text in texts]


class NltkExtractor(Extractor):
    """Nouns by NLTK's tokeniser and tagger, as lemmas by WordNet: the authors' way."""

    def __init__(self) -> None:
        self._nltk = _imported("nltk", "nltk")
        try:
            self._lemmatise: Callable[[str], str] = _imported("nltk", "nltk.stem").WordNetLemmatizer().lemmatize
            self.extract(["dogs run"])
        except LookupError as error:
            found = " ".join(str(error).replace("*", "").split())[:60]
            raise SetupError(
                f"the extractor 'nltk' lacks data of NLTK ({found}); expected punkt_tab, "
                f"averaged_perceptron_tagger_eng and wordnet. With network: python -m nltk.downloader punkt_tab "
                f"averaged_perceptron_tagger_eng wordnet; without: copy them to a folder that NLTK_DATA names. Or set "
                f"entities.extractor to vocabulary or textblob."
            ) from error

    def extract(self, texts: Sequence[str]) -> list[list[str]]:
        tagged = (self._nltk.pos_tag(self._nltk.word_tokenize(text)) for text in texts)
        return [_each_once(self._lemmatise(word.lower()) for word, tag in row if tag in _NOUNS) for row in tagged]


class SpacyExtractor(Extractor):
    """Nouns by a pipeline of spaCy's, as its lemmas."""

    def __init__(self, model: str) -> None:
        spacy = _imported("spacy", "spacy")
        try:
            self._pipeline = spacy.load(model, exclude=["parser", "ner"])
        except OSError as error:
            raise SetupError(
                f"the extractor 'spacy' finds no pipeline {model!r}; expected an installed one or a folder. With "
                f"network: python -m spacy download en_core_web_sm; or set entities.extractor to vocabulary."
            ) from error

    def extract(self, texts: Sequence[str]) -> list[list[str]]:
        documents = self._pipeline.pipe(texts)
        return [_each_once((word.lemma_ or word.text).lower() for word in d if word.pos_ == "NOUN") for d in documents]


def build_extractor(config: Entities, names: Sequence[str], synonyms: Mapping[str, Sequence[str]]) -> Extractor:
    """The extractor that a config names. Raises SetupError where it lacks a package or data."""
    match config.extractor:
        case "vocabulary":
            return VocabularyExtractor(names, synonyms, people=config.people)
        case "textblob":
            return TextBlobExtractor()
        case "nltk":
            return NltkExtractor()
        case "spacy":
            return SpacyExtractor(config.spacy_model)


def _imported(extra: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SetupError(
            f"the extractor {extra!r} needs the package {extra}, which cannot be imported ({error}). Install it: "
            f"pip install 'modbridge-viecap[{extra}]', or set entities.extractor to vocabulary."
        ) from error


def _noun(word: str) -> str:
    lower = word.lower()
    lemmas = noun_lemmas(lower)
    return lower if lower in lemmas or not lemmas else lemmas[0]


def _each_once(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in words if word.strip()))
