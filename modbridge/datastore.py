"""The datastore: training captions with their vectors, and which of them are near."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from modbridge.config.search import Exact, Faiss, require_faiss
from modbridge.errors import ArtefactError, DataError, PortError
from modbridge.spaces import Embeddings

if TYPE_CHECKING:
    from modbridge.approximate import Index

FILE = "captions.json"
_QUERIES, _BLOCK = 1024, 16384  # rows of cosines at once: 64 MB of float32
_SPARE = 8  # candidates beyond those asked for, whose order is settled in float64
_ROUGH = 1e-5  # by how much a float32 cosine may be off


@dataclass(frozen=True)
class Datastore:
    """M different training captions. A caption that several items have is there once.

    `vectors`: float16 (M, D), unit length but for rounding: clean text vectors (of the first item with that caption).
    `texts`: the captions. `items`: of each, the keys of the items that have it.
    """

    vectors: torch.Tensor
    texts: tuple[str, ...]
    items: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, embeddings: Embeddings, texts: Sequence[str], device: torch.device) -> Datastore:
        """The store of N captions and their vectors (N, D), whose keys are "item#number"."""
        items: dict[str, dict[str, None]] = {}
        first = []
        for row, (key, text) in enumerate(zip(embeddings.keys, texts, strict=True)):
            if _plain(text) not in items:
                first.append(row)
            items.setdefault(_plain(text), {})[_item(key)] = None
        unit = functional.normalize(embeddings.values[first].to(device, torch.float32), dim=1)
        # Rounded at once, so that a store that was saved and loaded finds the same.
        return cls(unit.half(), tuple(items), tuple(tuple(of) for of in items.values()))

    def nearest(self, queries: torch.Tensor, count: int, search: Exact | Faiss = "exact") -> list[list[str]]:
        """The `count` captions nearest to each vector (B, D), the nearest first.

        With `search` by FAISS, of those that an index picks out. It is built when it is first asked for, and not
        stored. Raises SetupError if FAISS is not installed.
        """
        return [[text for text, _ in found] for found in self.nearest_scored(queries, count, search)]

    def nearest_scored(
        self, queries: torch.Tensor, count: int, search: Exact | Faiss = "exact"
    ) -> list[list[tuple[str, float]]]:
        """As `nearest`, each caption with its cosine to the vector."""
        self._require(queries)
        if search == "exact":
            at, cosines = self._search(queries, count, (-math.inf, math.inf), [()] * len(queries))
        else:
            require_faiss(search)
            at, cosines = self._search_few(queries, count, search.probes)
        return [
            [(self.texts[i], cosine) for i, cosine in zip(row, of, strict=True) if i >= 0]
            for row, of in zip(at.tolist(), cosines.tolist(), strict=True)
        ]

    def centred(self, mean: torch.Tensor) -> Datastore:
        """The same captions, their unit vectors without `mean` (D,) and of unit length again."""
        unit = functional.normalize(self.vectors.float(), dim=1) - mean.to(self.vectors.device, torch.float32)
        return Datastore(functional.normalize(unit, dim=1).half(), self.texts, self.items)

    def beside(self, other: Datastore) -> Datastore:
        """The same captions, the vectors of `other` put behind these (M, D + D'): a cosine of two such unit vectors
        made of unit vectors is the mean of both cosines. Raises ArtefactError if the other has other captions."""
        if self.texts != other.texts:
            raise ArtefactError(
                f"two stores of captions are to be searched together, and they are not the same: {len(self.texts)} "
                f"captions, and {len(other.texts)}. Fit the decoder anew."
            )
        return Datastore(torch.cat([self.vectors, other.vectors], dim=1), self.texts, self.items)

    def similar(
        self, vectors: Embeddings, texts: Sequence[str], count: int, between: tuple[float, float]
    ) -> list[list[str]]:
        """For each of N captions, up to `count` others whose cosine to it lies `between` two, the nearest first: never
        the caption itself, nor one that its own item has."""
        self._require(vectors.values)
        by_item: dict[str, list[int]] = {}
        for row, keys in enumerate(self.items):
            for key in keys:
                by_item.setdefault(key, []).append(row)
        by_text = {text: row for row, text in enumerate(self.texts)}
        own = [
            tuple({*by_item.get(_item(key), ()), *([by_text[_plain(text)]] if _plain(text) in by_text else [])})
            for key, text in zip(vectors.keys, texts, strict=True)
        ]
        at, _ = self._search(vectors.values, count, between, own)
        return [[self.texts[i] for i in row if i >= 0] for row in at.tolist()]

    def save(self, folder: Path) -> None:
        """Write texts and items; the vectors are a tensor of the artefact."""
        content = {"texts": self.texts, "items": self.items}
        (folder / FILE).write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, dim: int, device: torch.device) -> Datastore:
        """What `save` wrote, its vectors zero until they are given. Raises ArtefactError if it cannot be read."""
        try:
            content = json.loads((folder / FILE).read_text(encoding="utf-8"))
            texts, items = tuple(content["texts"]), tuple(map(tuple, content["items"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(
                f"{folder / FILE} cannot be read ({error}); expected the training captions that are looked up. Copy "
                f"the artefact again, whole, or fit it anew."
            ) from error
        return cls(torch.zeros(len(texts), dim, dtype=torch.float16, device=device), texts, items)

    def with_vectors(self, vectors: torch.Tensor | None) -> Datastore:
        """This store with the given vectors. Raises ArtefactError if they are not those of its captions."""
        if vectors is None or vectors.shape != self.vectors.shape or vectors.dtype != torch.float16:
            found = "none" if vectors is None else f"{vectors.dtype} {tuple(vectors.shape)}"
            raise ArtefactError(
                f"the stored captions have other vectors than expected: found {found}, expected torch.float16 "
                f"{tuple(self.vectors.shape)}. Copy the artefact again, whole, or fit it anew."
            )
        return Datastore(vectors.to(self.vectors.device), self.texts, self.items)

    def _require(self, queries: torch.Tensor) -> None:
        dim = self.vectors.shape[1]
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise PortError(
                f"captions are retrieved by vectors of {dim} numbers, like those of the training captions; found "
                f"{tuple(queries.shape[1:])} an item. Look them up by bridged vectors (retrieval.query or .source), or "
                f"use an encoder that puts both modalities into one space."
            )
        if not torch.isfinite(queries).all():
            raise DataError(
                "a vector that captions are to be retrieved by holds NaN or infinity; look for a broken item."
            )

    def _search(
        self, queries: torch.Tensor, count: int, between: tuple[float, float], excluded: Sequence[Sequence[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Rows of the nearest captions, int64 (B, count), -1 where there are too few, and their cosines, float64, both
        on the CPU. Never more than _QUERIES x _BLOCK cosines are held."""
        device = self.vectors.device
        found = [(torch.empty(0, count, dtype=torch.int64), torch.empty(0, count, dtype=torch.float64))]
        for start in range(0, len(queries), _QUERIES):
            part = queries[start : start + _QUERIES].to(device, torch.float32)
            x = functional.normalize(part, dim=1)
            pairs = [(r, c) for r, cols in enumerate(excluded[start : start + _QUERIES]) for c in cols]
            out = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)
            best = torch.full((len(x), 0), -math.inf, device=device)
            at = torch.full((len(x), 0), -1, dtype=torch.int64, device=device)
            for first in range(0, len(self.vectors), _BLOCK):
                block = functional.normalize(self.vectors[first : first + _BLOCK].float(), dim=1)
                cosines = x @ block.T
                cosines[(cosines <= between[0] - _ROUGH) | (cosines >= between[1] + _ROUGH)] = -math.inf
                inside = out[(out[:, 1] >= first) & (out[:, 1] < first + len(block))]
                cosines[inside[:, 0], inside[:, 1] - first] = -math.inf
                top = cosines.topk(min(count + _SPARE, len(block)), dim=1)
                best, at = torch.cat([best, top.values], dim=1), torch.cat([at, top.indices + first], dim=1)
                order = best.topk(min(count + _SPARE, best.shape[1]), dim=1)
                best, at = order.values, at.gather(1, order.indices)
            found.append(self._settled(x, at.masked_fill(best == -math.inf, -1), count, between))
        return torch.cat([rows for rows, _ in found]), torch.cat([of for _, of in found])

    def _search_few(self, queries: torch.Tensor, count: int, probes: int) -> tuple[torch.Tensor, torch.Tensor]:
        """As `_search`, between any cosines, among the rows of a few lists of the index."""
        found = [(torch.empty(0, count, dtype=torch.int64), torch.empty(0, count, dtype=torch.float64))]
        for part in torch.split(queries, _QUERIES):
            x = functional.normalize(part.to(torch.float32), dim=1)
            at = self._index.candidates(x, count + _SPARE, probes)
            found.append(self._settled(x, at, count, (-math.inf, math.inf)))
        return torch.cat([rows for rows, _ in found]), torch.cat([of for _, of in found])

    @cached_property
    def _index(self) -> Index:
        from modbridge.approximate import Index

        rows, dim = self.vectors.shape

        def blocks() -> Iterator[torch.Tensor]:
            return (functional.normalize(part.float(), dim=1) for part in torch.split(self.vectors, _BLOCK))

        return Index.build(rows, dim, blocks)

    def _settled(
        self, x: torch.Tensor, at: torch.Tensor, count: int, between: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The `count` best of the candidates `at` (B, K) and their cosines, in float64 and, where level, in the store's
        order: whatever the batch, the same."""
        at = at.cpu().sort(dim=1).values
        candidates = functional.normalize(self.vectors[at.clamp(min=0).to(self.vectors.device)].cpu().double(), dim=2)
        queries = functional.normalize(x.cpu().double(), dim=1)
        cosines = (candidates @ queries[:, :, None])[..., 0].round(decimals=9)
        cosines[(at < 0) | (cosines <= between[0]) | (cosines >= between[1])] = -math.inf
        order = cosines.argsort(dim=1, descending=True, stable=True)[:, :count]
        best = cosines.gather(1, order)
        found = at.gather(1, order).masked_fill(best == -math.inf, -1)
        short = (0, count - found.shape[1])
        return functional.pad(found, short, value=-1), functional.pad(best, short, value=-math.inf)


def _item(key: str) -> str:
    """The item that the text with this key belongs to."""
    return key.rsplit("#", 1)[0]


def _plain(text: str) -> str:
    return " ".join(text.split())
