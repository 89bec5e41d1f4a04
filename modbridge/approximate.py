"""An index by FAISS over many unit vectors, which picks out those that may be near a query.

Inverted lists (IVF): k-means gives 4 sqrt(M) centres (FAISS's guidelines: 4 to 16 times; fewer where a list would hold
less than 30 of M vectors), each vector stands in the list of its nearest centre, and a query looks through the lists of
its nearest centres. Vectors are kept as float16, 2 D + 8 bytes each with their number, beside 4 D bytes a centre.
Nothing of M x D is held in float32: k-means sees 64 vectors for each centre, drawn from a fixed seed, and the others
come block by block. Whoever asks settles the order of what is found by the vectors themselves.

Loads faiss: import this module only where it was asked for (`modbridge.config.search.require_faiss`).

Source: Johnson et al., "Billion-scale similarity search with GPUs" (2017), and the guidelines of FAISS.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

from modbridge.errors import ArtefactError, SetupError

Blocks = Callable[[], Iterator[torch.Tensor]]
LEAST, SAMPLE = 30, 64  # vectors in a list on average, at least; vectors for each centre that k-means sees


class Index:
    """`count` vectors of `dim` numbers, known by their numbers in the order in which they came."""

    def __init__(self, index: Any) -> None:
        self._index = index
        self.count, self.dim, self.lists = int(index.ntotal), int(index.d), int(index.nlist)

    @classmethod
    def build(cls, count: int, dim: int, blocks: Blocks) -> Index:
        """The index of `count` unit vectors. `blocks()` gives them in order, (n, dim) float32, and is asked twice."""
        lists = lists_of(count)
        index = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(dim), dim, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, SAMPLE
        index.train(_sample(count, min(count, SAMPLE * lists), dim, blocks))
        for block in blocks():
            index.add(_array(block))
        return cls(index)

    @property
    def bytes(self) -> int:
        """What it takes in RAM, but for room to grow."""
        return self.count * (2 * self.dim + 8) + self.lists * self.dim * 4

    def candidates(self, queries: torch.Tensor, count: int, probes: int) -> torch.Tensor:
        """The numbers of the `count` (at most all) vectors with the greatest inner product with each query (B, dim),
        among those in `probes` lists: int64 (B, count) on the CPU, ascending. Where these lists hold too few, four
        times as many are looked through, and so on. A query that holds NaN has -1 everywhere."""
        count = min(count, self.count)
        x = _array(queries)
        found = np.full((len(x), count), -1, dtype=np.int64)
        short = np.arange(len(x))
        probes = min(probes, self.lists)
        while len(short):
            asked: Any = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
            found[short] = self._index.search(x[short], count, params=asked)[1]
            if probes == self.lists:
                break
            short = short[(found[short] < 0).any(axis=1)]
            probes = min(4 * probes, self.lists)
        return torch.from_numpy(np.sort(found, axis=1))

    def save(self, path: Path) -> None:
        """Write it in FAISS's own format. Raises SetupError where that cannot be done."""
        try:
            faiss.write_index(self._index, str(path))
        except RuntimeError as error:
            raise SetupError(f"{path} cannot be written ({error}); is the disk full?") from error

    @classmethod
    def load(cls, path: Path, count: int, dim: int, *, mapped: bool) -> Index:
        """What `save` wrote; its lists are read as they are needed if `mapped`. Raises ArtefactError for a file that
        cannot be read, or is of other vectors than `count` of `dim` numbers."""
        try:
            index = cls(faiss.read_index(str(path), faiss.IO_FLAG_MMAP if mapped else 0))
        except (RuntimeError, AttributeError) as error:  # AttributeError: an index without lists
            raise ArtefactError(
                f"{path} cannot be read as an index of FAISS ({error}). Fit the bridge anew."
            ) from error
        if (index.count, index.dim) != (count, dim):
            raise ArtefactError(
                f"{path} is an index of {index.count} vectors of {index.dim} numbers; expected {count} of {dim}. Fit "
                f"the bridge anew."
            )
        return index


def lists_of(count: int) -> int:
    """How many lists an index of `count` vectors has."""
    return max(1, min(round(4 * math.sqrt(count)), count // LEAST))


def exact_cosines(queries: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Cosines of queries (B, D) with vectors (B, K, D) of their own, float64, level where they differ by less than
    1e-9: what settles an order."""
    x, y = queries.double(), vectors.double()
    lengths = x.norm(dim=1, keepdim=True) * torch.linalg.vector_norm(y, dim=2)
    cosines: torch.Tensor = ((y @ x[:, :, None])[..., 0] / lengths).round(decimals=9)
    return cosines


def _sample(count: int, wanted: int, dim: int, blocks: Blocks) -> np.ndarray:
    """`wanted` of the vectors, float32, in their order, drawn from a fixed seed: everyone's index is the same."""
    chosen = np.sort(np.random.default_rng(0).choice(count, wanted, replace=False, shuffle=False))
    sample = np.empty((wanted, dim), dtype=np.float32)
    start = 0
    for block in blocks():
        first, last = np.searchsorted(chosen, [start, start + len(block)])
        sample[first:last] = _array(block)[chosen[first:last] - start]
        start += len(block)
    return sample


def _array(vectors: torch.Tensor) -> np.ndarray:
    found: np.ndarray = np.ascontiguousarray(vectors.detach().cpu().float().numpy())
    return found
