"""Objective: what embeddings are taught by, through frozen parts of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from modbridge.config.kinds import ObjectiveConfig
from modbridge.errors import PluginError
from modbridge.interfaces.component import Component
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.noise import Draw

ObjectiveConfigT = TypeVar("ObjectiveConfigT", bound=ObjectiveConfig)


class Objective(Component[ObjectiveConfigT]):
    """A loss of embeddings, such as how well a frozen text-to-image model denoises the image that they came from.

    It is a part of what is trained by it, an encoder above all, and of what uses the same networks otherwise, such as a
    decoder that paints. It is built once for all of them, stands at no port, and is in none of their artefacts.

    While it serves as a loss none of its parameters requires a gradient (the core sees to it, `freeze`), but gradients
    pass through it: `loss` must not be under `torch.no_grad` where it reads `z`.
    """

    def prepare(self, item: Any) -> Any:
        """What `loss` needs of one item, a medium as the source gives it; on the CPU, possibly in a worker process.

        Must not touch the device. Raises DataError for an item that cannot be read.
        """
        return item

    def collate(self, items: Sequence[Any]) -> Any:
        """Prepared items as one batch. By default tensors are stacked."""
        return torch.stack(list(items)) if items and isinstance(items[0], torch.Tensor) else list(items)

    @abstractmethod
    def loss(self, z: torch.Tensor, batch: Any, draw: Draw) -> torch.Tensor:
        """The loss (B,) of each item's embedding in `z`, (B, D) or (B, n, D), given what `collate` made of the items.

        No item's loss may depend on the others, so that batches can be divided; all that is random comes from `draw`.
        """
        ...

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train its networks on a source's items and texts. Only for objectives whose config says `needs_fit`."""
        raise PluginError(f"the objective {self.config.type!r} cannot be trained.")

    def modules(self) -> dict[str, torch.nn.Module]:
        """All its networks by name: those that `fit` trains and its own artefact keeps, and those that come frozen."""
        return {}

    def freeze(self) -> None:
        """Make all its networks ready to serve: no gradients of their own, in evaluation mode."""
        for module in self.modules().values():
            module.requires_grad_(False).eval().zero_grad(set_to_none=True)
