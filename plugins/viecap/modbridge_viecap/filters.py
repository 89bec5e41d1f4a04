"""Which of the words found in captions stay, and which of those are masked in one epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

from modbridge.noise import Draw
from modbridge_viecap.entities_config import Entities
from modbridge_viecap.matcher import Matcher

PERSON = "person"
# ViECap's words for people.
PEOPLE = frozenset(
    {
        "people", "person", "man", "men", "woman", "women", "adult", "boy", "girl", "kid", "children", "child", "baby",
        "guy", "player", "male", "female", "worker",
    }
)  # fmt: skip


@cache
def stop_words() -> frozenset[str]:
    """Words that name no entity (packaged; ours)."""
    text = (files("modbridge_viecap") / "names" / "stop_words.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


class EntityFilter:
    """Keeps those of the words found in a caption that name entities, as names of the vocabulary.

    A word for people becomes "person" and stays. Of the others those go that are stop words or single letters, then
    those that are neither a name of the vocabulary nor a form of one or of a synonym; what is left is the name. `most`
    is counted last. Each step is one of the config's and works alone.
    """

    def __init__(
        self, config: Entities, names: Sequence[str], synonyms: Mapping[str, Sequence[str]] | None = None
    ) -> None:
        self._config = config
        self._stop = stop_words() if config.stop_words else frozenset()
        self._names = frozenset(names)
        self._matcher = Matcher(names, synonyms)
        self._kept: dict[str, str | None] = {}

    def keep(self, found: Sequence[str]) -> list[str]:
        """What stays of the words found in one caption: in their order, each once."""
        kept: dict[str, None] = {}
        for word in found:
            if word not in self._kept:
                self._kept[word] = self._name(word)
            name = self._kept[word]
            if name is not None:
                kept[name] = None
        return list(kept)[: self._config.most]

    def keep_all(self, found: Sequence[Sequence[str]]) -> list[list[str]]:
        """`keep` for each caption."""
        return [self.keep(words) for words in found]

    def _name(self, word: str) -> str | None:
        """The name that a word becomes, or None if it goes."""
        if self._config.people and word in PEOPLE:
            return PERSON
        if self._config.stop_words and (word in self._stop or len(word) < 2):
            return None
        if not self._config.in_vocabulary or word in self._names:
            return word
        names = self._matcher.find(word)
        return names[0] if len(names) == 1 and len(word.split()) == 1 else None


def masked(
    named: Sequence[Sequence[str]], keys: Sequence[str], *, prob: float, seed: int, epoch: int
) -> list[list[str]]:
    """The names of each caption (B lists) without those that are masked: each with probability `prob`, by seed, epoch,
    the caption's key and the name's place alone, so that batches and their order change nothing."""
    if prob <= 0.0 or not named:
        return [list(names) for names in named]
    most = max(map(len, named))
    kept = (Draw.of(keys, seed, epoch).named("entity mask").uniform(most) >= prob).tolist()
    return [
        [name for name, stays in zip(names, row, strict=False) if stays] for names, row in zip(named, kept, strict=True)
    ]


def shuffled(named: Sequence[Sequence[str]], keys: Sequence[str], *, seed: int, epoch: int) -> list[list[str]]:
    """The names of each caption (B lists) in an order drawn as `masked` draws."""
    if not named:
        return []
    bits = Draw.of(keys, seed, epoch).named("entity order").bits(max(1, *map(len, named))).tolist()
    return [[name for _, name in sorted(zip(row, names, strict=False))] for names, row in zip(named, bits, strict=True)]
