"""What the statistics bridges share: the numbers they were fitted on, kept and checked."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import torch

from modbridge.config.kinds import BridgeConfig
from modbridge.errors import ArtefactError, DataError
from modbridge.geometry import Statistics, to_text_frame
from modbridge.interfaces import Bridge, FitData, Fitting

ConfigT = TypeVar("ConfigT", bound=BridgeConfig)


class StatisticsBridge(Bridge[ConfigT]):
    """A bridge whose artefact is a few float64 tensors, named in `kept`: a "..._mean" is (D,), all else a number.

    Fitting takes the text vectors' mean and radius, and the source vectors' mean.
    """

    kept: ClassVar[tuple[str, ...]] = ("text_mean", "text_radius", "source_mean")

    _values: dict[str, torch.Tensor] | None = None

    def fit(self, data: FitData, fitting: Fitting) -> None:
        text = Statistics.of(data.text.values)
        source = Statistics.of(data.require_source(f"the bridge {self.config.type!r}").values)
        self._values = {"text_mean": text.mean, "text_radius": text.radius, "source_mean": source.mean}

    def statistic(self, name: str) -> torch.Tensor:
        """One of the fitted numbers, float64. Raises DataError before fitting or loading."""
        if self._values is None:
            raise DataError(f"the bridge {self.config.type!r} has not been fitted; call `fit`, or load an artefact.")
        return self._values[name]

    def in_text_frame(self, z: torch.Tensor) -> torch.Tensor:
        """Centred vectors (B, D) put back among the raw text vectors."""
        return to_text_frame(z, self.statistic("text_mean"), self.statistic("text_radius"))

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: self.statistic(name) for name in self.kept}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        dim = self.context.dim()
        wanted = {name: (dim,) if name.endswith("_mean") else () for name in self.kept}
        found = {name: tuple(value.shape) for name, value in tensors.items()}
        if wanted != found:
            raise ArtefactError(
                f"the stored statistics are not those of a {self.config.type!r} bridge at dimension {dim}: expected "
                f"{wanted}, found {found}. They were saved under another config or encoder."
            )
        self._values = {name: value.double().cpu() for name, value in tensors.items()}
