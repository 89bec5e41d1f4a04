"""The words a word may stand for: itself and its dictionary forms (lemminflect's, which needs no data of its own)."""

from __future__ import annotations

from functools import cache

from lemminflect import getAllLemmas, getAllLemmasOOV

Forms = tuple[str, ...]


@cache
def noun_lemmas(word: str) -> Forms:
    """The nouns that a lower-case word may be a form of ("men": man); those of unknown words follow by rule."""
    known = getAllLemmas(word)
    return tuple(known.get("NOUN", ()) if known else getAllLemmasOOV(word, "NOUN").get("NOUN", ()))


@cache
def verb_lemmas(word: str) -> Forms:
    """The verbs that a lower-case word may be a form of ("barking": bark); none for unknown words."""
    return tuple(getAllLemmas(word).get("VERB", ()))


@cache
def text_forms(word: str) -> Forms:
    """What a word of a text may stand for, the nearest first: itself, nouns, verbs."""
    return tuple(dict.fromkeys((word, *noun_lemmas(word), *verb_lemmas(word))))


@cache
def name_forms(word: str) -> Forms:
    """What a word of a name may stand for, the nearest first: itself and nouns; verbs only where it is no noun, so that
    "clapping" is heard in "claps" but "building" is not seen in "builds" (ours)."""
    nouns = noun_lemmas(word)
    verbs = () if "NOUN" in getAllLemmas(word) else verb_lemmas(word)
    return tuple(dict.fromkeys((word, *nouns, *verbs)))
