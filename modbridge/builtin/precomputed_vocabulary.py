"""A vocabulary whose vectors are there already: nothing is embedded."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch.nn.functional import normalize

from modbridge.builtin.precomputed_config import Stored
from modbridge.builtin.precomputed_vocabulary_config import PrecomputedVocabularyConfig
from modbridge.builtin.vector_file import read_vectors
from modbridge.errors import DataError
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.vocabulary import Vocabulary


class PrecomputedVocabulary(Vocabulary[PrecomputedVocabularyConfig]):
    """Names and their vectors from files."""

    def names(self) -> list[str]:
        return list(dict.fromkeys(words[0] for words in self._entries))

    def synonyms(self) -> Mapping[str, tuple[str, ...]]:
        """The other words of each entry, where there is a `separator`; none that is a name or stands for two."""
        names = set(self.names())
        found = {name: dict[str, None]() for name in self.names()}
        for name, *others in self._entries:
            found[name].update(dict.fromkeys(word for word in others if word not in names))
        uses = Counter(word for words in found.values() for word in words)
        return {name: kept for name, words in found.items() if (kept := tuple(w for w in words if uses[w] == 1))}

    def index(self, fitting: Fitting) -> None:
        """Read the vectors. Raises PortError for another space than that of the port "text", DataError where they are
        not as many as the names, or one has no direction."""
        self.config.check(self.context.ports["text"])
        path, entries = Path(self.config.path).expanduser(), [words[0] for words in self._entries]
        values = read_vectors(path, Stored(array=self.config.vectors)).to(self.device, torch.float32)
        if len(values) != len(entries):
            raise DataError(
                f"{path}: {self.config.vectors!r} holds {len(values)} vectors, {self.config.names} {len(entries)} "
                f"names; expected as many of both, in one order."
            )
        row = {name: number for number, name in enumerate(self.listed)}
        owner = torch.tensor([row[name] for name in entries], device=self.device)
        unit = normalize(values, dim=1)
        sums = torch.zeros(len(row), values.shape[1], device=self.device).index_add_(0, owner, unit)
        broken = ~(sums.isfinite().all(dim=1) & (sums.norm(dim=1) > 1e-6))
        if broken.any():
            first = self.listed[int(broken.nonzero()[0])]
            raise DataError(
                f"{path}: the vector of {first!r} is zero or not finite, as are those of {int(broken.sum())} names in "
                f"all; expected a direction for each."
            )
        self._vectors = normalize(sums, dim=1)

    @cached_property
    def _entries(self) -> list[list[str]]:
        """For each row of the vectors its name and the other words for it."""
        path, separator = Path(self.config.names).expanduser(), self.config.separator
        try:
            listed = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read ({error}); expected a JSON list of names.") from error
        if not isinstance(listed, list) or not all(isinstance(name, str) for name in listed):
            raise DataError(f'{path} holds no list of names; expected JSON like ["tench", "goldfish"].')
        words = [[entry] if separator is None else entry.split(separator) for entry in listed]
        words = [[plain for word in entry if (plain := " ".join(word.split()))] for entry in words]
        if not all(words):
            raise DataError(f"{path}: entry {words.index([]) + 1} is empty; expected a name.")
        return words
