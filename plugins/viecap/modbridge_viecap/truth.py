"""What is truly in an item, as names of a vocabulary, and what texts say of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modbridge.errors import DataError
from modbridge.interfaces.component import Component
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Reference
from modbridge.interfaces.vocabulary import Vocabulary
from modbridge_viecap.matcher import Matcher
from modbridge_viecap.name_files import normalised

FACT = "entities"


class Truth:
    """The names of a vocabulary, and of items and texts those that are true of them or stand in them.

    Raises DataError for a vocabulary whose file is missing or wrong.
    """

    def __init__(self, vocabulary: Component[Any]) -> None:
        assert isinstance(vocabulary, Vocabulary)
        names, synonyms = vocabulary.names(), vocabulary.synonyms()
        self.names = frozenset(map(normalised, names))
        self._named = {normalised(word): normalised(name) for name, words in synonyms.items() for word in words}
        self._matcher = Matcher(names, synonyms)

    def canonical(self, name: str) -> str:
        """The name that a word is or stands for; the word itself, in lower case, if it is neither."""
        word = normalised(name)
        return word if word in self.names else self._named.get(word, word)

    def said(self, texts: Sequence[str]) -> list[frozenset[str]]:
        """The names in each text, each once."""
        return [frozenset(map(normalised, found)) for found in self._matcher.find_all(texts)]

    def of(self, references: Sequence[Reference]) -> list[frozenset[str]]:
        """The true names of each item: its facts `entities` (a list of names), of which some may be no name of the
        vocabulary; without such facts all names that any of its texts says.

        Raises DataError for facts in another form, and for an item with neither facts nor texts.
        """
        return [self._known(one) if FACT in one.facts else self._read(one) for one in references]

    def _known(self, reference: Reference) -> frozenset[str]:
        found = reference.facts[FACT]
        if not isinstance(found, list | tuple) or not all(isinstance(word, str) and word.strip() for word in found):
            raise DataError(
                f"the facts of {reference.key!r} hold {FACT}: {found!r}; expected a list of names, [dog, frisbee]. "
                f"Mend the source."
            )
        return frozenset(self.canonical(word) for word in found)

    def _read(self, reference: Reference) -> frozenset[str]:
        if not reference.texts:
            raise DataError(
                f"the item {reference.key!r} has neither references nor known entities, so nothing says what is in it. "
                f"Leave it out, or give the source its captions."
            )
        return frozenset().union(*self.said(reference.texts))


def check_items(predictions: Sequence[Decoded], references: Sequence[Reference]) -> None:
    """Raises DataError unless there are items, row by row the same."""
    if not predictions:
        raise DataError("there are no predictions to score; expected at least one.")
    keys, others = [one.key for one in predictions], [one.key for one in references]
    if len(keys) != len(others):
        raise DataError(f"found {len(keys)} predictions for {len(others)} items; expected one for each.")
    for row, (key, other) in enumerate(zip(keys, others, strict=True)):
        if key != other:
            raise DataError(f"row {row} predicts {key!r} but its references are of {other!r}; give both in one order.")


def ratio(part: int, whole: int) -> float | None:
    """A share; None of nothing."""
    return part / whole if whole else None
