"""Prior: where one modality's vectors lie."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch

from modbridge.config.kinds import PriorConfig
from modbridge.interfaces.component import Component
from modbridge.interfaces.fitting import Fitting
from modbridge.noise import Draw
from modbridge.spaces import Embeddings

PriorConfigT = TypeVar("PriorConfigT", bound=PriorConfig)


class Prior(Component[PriorConfigT]):
    """Knows where clean vectors lie and pulls others towards them. Works on vectors as its bridge scales them."""

    @abstractmethod
    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        """Learn from clean vectors (N, D); `observed` holds paired vectors of another modality, row by row."""
        ...

    @abstractmethod
    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw) -> torch.Tensor:
        """Vectors (B, D) pulled towards the clean ones, starting at the noise level `start_step`; 0 changes nothing."""
        ...

    @abstractmethod
    def diffuse(self, x: torch.Tensor, *, step: int, draw: Draw) -> torch.Tensor:
        """Clean vectors (B, D) with the noise of level `step`; 0 changes nothing."""
        ...
