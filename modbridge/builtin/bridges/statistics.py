"""What the statistics bridges share: the numbers they were fitted on, kept and checked."""

from __future__ import annotations

from math import prod
from typing import ClassVar, TypeVar

import torch

from modbridge.builtin.bridges.moments import require_finite
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import ArtefactError, DataError
from modbridge.geometry import Statistics, to_text_frame
from modbridge.interfaces import Bridge, FitData, Fitting

ConfigT = TypeVar("ConfigT", bound=BridgeConfig)


class StatisticsBridge(Bridge[ConfigT]):
    """A bridge whose artefact is a few float64 tensors, named in `kept`: a "..._mean" is (D,), all else a number.
    Override `shapes` where the config decides what is kept.

    Fitting takes the text vectors' mean and radius, and the source vectors' mean.
    """

    kept: ClassVar[tuple[str, ...]] = ("text_mean", "text_radius", "source_mean")

    _values: dict[str, torch.Tensor] | None = None

    @property
    def who(self) -> str:
        """What messages call it."""
        return f"the bridge {self.config.type!r}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor that the artefact keeps, by name."""
        return {name: (self.context.dim(),) if name.endswith("_mean") else () for name in self.kept}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        source = data.require_source(self.who)
        for vectors in (data.text, source):
            require_finite(vectors, self.who)
        text, shifted = Statistics.of(data.text), Statistics.of(source)
        self._values = {"text_mean": text.mean, "text_radius": text.radius, "source_mean": shifted.mean}

    def statistic(self, name: str) -> torch.Tensor:
        """One of the fitted tensors, float64. Raises DataError before fitting or loading."""
        if self._values is None:
            raise DataError(f"{self.who} has not been fitted; call `fit`, or load an artefact.")
        return self._values[name]

    def in_text_frame(self, z: torch.Tensor) -> torch.Tensor:
        """Centred vectors (B, D) put back among the raw text vectors."""
        return to_text_frame(z, self.statistic("text_mean"), self.statistic("text_radius"))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.statistic(name) for name in self.shapes()}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        wanted, found = self.shapes(), {name: tuple(value.shape) for name, value in tensors.items()}
        if wanted != found:
            raise ArtefactError(
                f"the stored statistics are not those of a {self.config.type!r} bridge at dimension "
                f"{self.context.dim()}: expected {wanted}, found {found}. They were saved under another config or "
                f"encoder."
            )
        self._values = {name: value.double().cpu() for name, value in tensors.items()}

    def parameter_count(self) -> int:
        """The number of numbers kept."""
        return sum(prod(shape) for shape in self.shapes().values())
