"""Finds the names of a vocabulary in texts: words and their lemmas, no tagger."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from modbridge_viecap.lemmas import name_forms, text_forms

# Words are runs of letters and digits: "t-shirt" and "man's" are two each. Marks that end a phrase are tokens, so that
# no name is found across them.
_tokens = re.compile(r"[^\W_]+|[.,;:!?()\"]").findall


class _Node:
    """A place in the trie of names.

    `edges`: by each form of a next word, how far that form lies from the word as the name writes it, and where it
    leads. `end`: (0 for a name, 1 for a synonym; the name's number) if one ends here.
    """

    __slots__ = ("children", "edges", "end")

    def __init__(self) -> None:
        self.children: dict[str, _Node] = {}
        self.edges: dict[str, list[tuple[int, _Node]]] = {}
        self.end: tuple[int, int] | None = None

    def child(self, word: str) -> _Node:
        if word not in self.children:
            self.children[word] = _Node()
            for far, form in enumerate(name_forms(word)):
                self.edges.setdefault(form, []).append((far, self.children[word]))
        return self.children[word]

    def branches(self, word: str) -> list[tuple[int, _Node]]:
        """Where a word of a text leads, each with how far it lies from the name's own word."""
        return [
            (near + far, child) for near, form in enumerate(text_forms(word)) for far, child in self.edges.get(form, ())
        ]


class _Starts(dict[str, list[tuple[int, _Node]]]):
    """The branches from the root, by word, made when a word is first met."""

    def __init__(self, root: _Node) -> None:
        self.root = root

    def __missing__(self, word: str) -> list[tuple[int, _Node]]:
        self[word] = self.root.branches(word)
        return self[word]


class Matcher:
    """Says which names of a vocabulary stand in a text.

    A text is read from left to right. Where several names start, the longest counts ("hot dog" is no "dog"), then the
    one whose words are nearest to the text's: the words themselves before their lemmas, nouns before verbs, names
    before synonyms, then the order of the names. What a name has taken is not read again. Capitals do not matter.

    `names`: what is looked for; of two that are the same words the first counts. `synonyms`: other words, by name.
    Raises ValueError for synonyms of a name that is not among the names.
    """

    def __init__(self, names: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None) -> None:
        self._names = list(names)
        root = _Node()
        numbers: dict[str, int] = {}
        for number, name in enumerate(self._names):
            numbers.setdefault(name, number)
            _put(root, name, (0, number))
        for name, others in (synonyms or {}).items():
            if name not in numbers:
                raise ValueError(f"synonyms are given for {name!r}, which is not among the {len(self._names)} names")
            for other in others:
                _put(root, other, (1, numbers[name]))
        self._starts = _Starts(root)

    def find(self, text: str) -> list[str]:
        """The names that the text says, in order of first appearance, each once."""
        tokens = _tokens(text.lower())
        found: dict[int, None] = {}
        starts, place, length = self._starts, 0, len(tokens)
        while place < length:
            branches = starts[tokens[place]]
            place += 1
            if branches:
                number, place = _longest(branches, tokens, place)
                if number >= 0:
                    found[number] = None
        return [self._names[number] for number in found]

    def find_all(self, texts: Sequence[str]) -> list[list[str]]:
        """`find` of each text."""
        return [self.find(text) for text in texts]


def _put(root: _Node, name: str, end: tuple[int, int]) -> None:
    node = root
    for word in _tokens(name.lower()):
        node = node.child(word)
    if node is not root:
        node.end = end if node.end is None else min(node.end, end)


def _longest(branches: list[tuple[int, _Node]], tokens: list[str], place: int) -> tuple[int, int]:
    """The number of the longest name from the branches of the word before `place`, and the place behind it; -1 and
    `place` if none ends."""
    best, behind = -1, place
    while branches:
        ends = [(far, *node.end) for far, node in branches if node.end is not None]
        if ends:
            best, behind = min(ends)[2], place
        if place == len(tokens):
            break
        word = tokens[place]
        branches = [(far + more, child) for far, node in branches if node.edges for more, child in node.branches(word)]
        place += 1
    return best, behind
