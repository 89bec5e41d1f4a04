"""What the linear maps share: v' = n(z + mean_t) with z = (n(v) - mean_v) A, A one matrix or several in a row.

Centred frame: v' = n(z), t' = n(n(t) - mean_t).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch

from modbridge.builtin.bridges.map_config import FramedConfig
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.geometry import centre, unit
from modbridge.noise import Draw

ConfigT = TypeVar("ConfigT", bound=FramedConfig)


class MapBridge(StatisticsBridge[ConfigT]):
    """A linear map between the two modalities' means. Authors write `matrices`, and `fit`, which calls `keep`."""

    @abstractmethod
    def matrices(self) -> dict[str, tuple[int, int]]:
        """The shapes of its matrices by name, in the order in which row vectors are multiplied by them."""
        ...

    def keep(self, source_mean: torch.Tensor, text_mean: torch.Tensor, **matrices: torch.Tensor) -> None:
        """Take up what was fitted."""
        # In the layout in which they come back from a file, so that a loaded bridge gives the very same numbers.
        laid_out = {name: matrix.contiguous() for name, matrix in matrices.items()}
        self.load_tensors({"source_mean": source_mean, "text_mean": text_mean, **laid_out})

    def shapes(self) -> dict[str, tuple[int, ...]]:
        dim = self.context.dim()
        return {"source_mean": (dim,), "text_mean": (dim,), **self.matrices()}

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return unit(self._mapped(x)) if self.config.frame == "centred" else self._among_texts(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return centre(x, self.statistic("text_mean")) if self.config.frame == "centred" else x

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        return [("encoded", x), ("bridged", self._among_texts(x))]

    def _among_texts(self, x: torch.Tensor) -> torch.Tensor:
        return unit(self._mapped(x) + self.statistic("text_mean").to(x))

    def _mapped(self, x: torch.Tensor) -> torch.Tensor:
        z = unit(x) - self.statistic("source_mean").to(x)
        for name in self.matrices():
            z = z @ self.statistic(name).to(x)
        return z


class SquareMapBridge(MapBridge[ConfigT]):
    """A linear map with one matrix (D, D)."""

    def matrices(self) -> dict[str, tuple[int, int]]:
        return {"map": (self.context.dim(), self.context.dim())}
