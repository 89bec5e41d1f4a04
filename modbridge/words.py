"""A word-level tokenizer whose vocabulary is learned from captions, for dual encoders trained from nothing."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from modbridge.errors import ArtefactError, DataError

PAD, UNKNOWN, START, FIRST_WORD = 0, 1, 2, 3
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")
_LONGEST = 77


class WordTokenizer:
    """Texts as word ids: start, words, end, padding.

    The end has the highest id, since open_clip's text tower reads its vector where the highest id stands.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.words = list(words)
        self.context_length = context_length
        self._ids = {word: FIRST_WORD + i for i, word in enumerate(self.words)}
        self.end = FIRST_WORD + len(self.words)

    @classmethod
    def learn(cls, captions: Iterable[str], min_count: int, context_length: int | None) -> WordTokenizer:
        """The words that stand at least `min_count` times in `captions`, in alphabetical order.

        Without a context length it is that of the longest caption, 77 at most. Raises DataError if there are no words.
        """
        counts: Counter[str] = Counter()
        longest = 0
        for caption in captions:
            words = split_words(caption)
            counts.update(words)
            longest = max(longest, len(words))
        kept = sorted(word for word, count in counts.items() if count >= min_count)
        if not kept:
            raise DataError(
                f"the training captions hold no word that stands {min_count} times or more; nothing to learn from."
            )
        return cls(kept, context_length or min(longest + 2, _LONGEST))

    @property
    def vocab_size(self) -> int:
        return self.end + 1

    def __call__(self, text: str) -> torch.Tensor:
        """int64 (context_length,). Over-long texts are cut, as open_clip's tokenizer cuts them."""
        ids = [START, *(self._ids.get(word, UNKNOWN) for word in split_words(text))][: self.context_length - 1]
        ids.append(self.end)
        return torch.tensor(ids + [PAD] * (self.context_length - len(ids)), dtype=torch.int64)

    def save(self, path: Path) -> None:
        content = {"context_length": self.context_length, "words": self.words}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=0), "utf-8")

    @classmethod
    def load(cls, path: Path) -> WordTokenizer:
        """Raises ArtefactError if the file is missing or damaged."""
        try:
            content = json.loads(path.read_text("utf-8"))
            return cls(content["words"], content["context_length"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"the vocabulary {path} cannot be read: {error}") from error


def split_words(text: str) -> list[str]:
    """Lower-cased words, without punctuation."""
    return _WORD.findall(text.lower())
