"""Metric: how good predictions are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import torch

from modbridge.config.kinds import MetricConfig
from modbridge.errors import PluginError
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.fitting import Progress

MetricConfigT = TypeVar("MetricConfigT", bound=MetricConfig)


@dataclass(frozen=True)
class Reference:
    """What an item's prediction is judged by: its reference texts and what is known of it; for metrics that
    `reads_media` the item itself too, which `read` gives."""

    key: str
    texts: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[], Any] | None = field(default=None, compare=False, repr=False)

    @property
    def media(self) -> Any:
        """The item, as its source gives it (`modbridge.media.load_image` reads any image), fetched at every call: it
        may be large. None for metrics that do not read media."""
        return None if self.read is None else self.read()


@dataclass(frozen=True)
class Score:
    """One column: the corpus score (None: not available, `note` says why) and one score an item, in order."""

    corpus: float | None
    items: tuple[float, ...] = ()
    higher_is_better: bool = True
    note: str = ""


class _Unseen:
    """Progress that nobody looks at."""

    def advance(self, count: int = 1, note: str = "") -> None:
        pass


def _unseen(label: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
    return nullcontext(_Unseen())


@dataclass(frozen=True)
class Scoring:
    """The surroundings of one scoring.

    `work`: a folder that is this scoring's alone and stays until its scores do, so that what a long one keeps there is
    found again after a kill; None where nothing is kept. `progress(label, total, done)` counts steps, `done` of them
    finished before: `with self.scoring.progress("painting", n) as progress: ... progress.advance(1)`.
    """

    work: Path | None = None
    progress: Callable[..., AbstractContextManager[Progress]] = _unseen


class Metric(ABC, Generic[MetricConfigT]):
    """Judges predictions. `parts`: its nested components, built, by the name of the config field that holds them.

    Metrics of images (`judges`) are given `Decoded` whose `image` is read when the sequence is asked for the item: go
    through it once, in batches.
    """

    context = BuildContext()
    """Its device, the run's seed and `parts` once more; set by the core when it is built."""

    scoring = Scoring()
    """The surroundings of the scoring that goes on; set by the core."""

    def __init__(self, config: MetricConfigT, parts: Mapping[str, Component[Any]] = MappingProxyType({})) -> None:
        self.config, self.parts = config, parts

    @abstractmethod
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """A score for each of `config.columns`. Row i of both sequences is the same item."""
        ...

    @property
    def device(self) -> torch.device:
        """Where networks of its own are to work."""
        return self.context.device

    def judge(
        self, predictions: Sequence[Decoded], references: Sequence[Reference], scoring: Scoring | None = None
    ) -> dict[str, Score]:
        """As `score`, checked: PluginError unless there is a Score for each column, of every item or of none."""
        self.scoring = scoring or Scoring()
        found, columns = self.score(predictions, references), self.config.columns
        if set(found) != set(columns) or not all(isinstance(one, Score) for one in found.values()):
            raise PluginError(
                f"the metric {self.config.type!r} gave {found!r:.200}; expected a Score for each of its columns: "
                f"{', '.join(columns)}."
            )
        for name, one in found.items():
            if one.items and len(one.items) != len(predictions):
                raise PluginError(
                    f"the metric {self.config.type!r} gave {len(one.items)} scores of {name} for {len(predictions)} "
                    f"items; expected one for each, or none."
                )
        return found

    @property
    def tokenizer(self) -> str | None:
        """The name of the tokenizer the scores depend on, shown under every table; None if there is none."""
        return None
