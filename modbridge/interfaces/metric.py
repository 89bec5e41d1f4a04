"""Metric: how good predictions are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

from modbridge.config.kinds import MetricConfig
from modbridge.errors import PluginError
from modbridge.interfaces.component import Component
from modbridge.interfaces.decoder import Decoded

MetricConfigT = TypeVar("MetricConfigT", bound=MetricConfig)


@dataclass(frozen=True)
class Reference:
    """What an item's prediction is judged by: its reference texts and what is known of it."""

    key: str
    texts: tuple[str, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """One column: the corpus score (None: not available, `note` says why) and one score an item, in order."""

    corpus: float | None
    items: tuple[float, ...] = ()
    higher_is_better: bool = True
    note: str = ""


class Metric(ABC, Generic[MetricConfigT]):
    """Judges predictions. `parts`: its nested components, built, by the name of the config field that holds them."""

    def __init__(self, config: MetricConfigT, parts: Mapping[str, Component[Any]] = MappingProxyType({})) -> None:
        self.config, self.parts = config, parts

    @abstractmethod
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """A score for each of `config.columns`. Row i of both sequences is the same item."""
        ...

    def judge(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """As `score`, checked: PluginError unless there is a Score for each column, of every item or of none."""
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
