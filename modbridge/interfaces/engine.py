"""Engine: where the work of embedding and generation is done, in this process or over a cluster."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, TypeVar

from modbridge.config.kinds import EngineConfig
from modbridge.interfaces.component import Component

EngineConfigT = TypeVar("EngineConfigT", bound=EngineConfig)
Work = Callable[[Sequence[Any]], Iterator[Any]]
"""What a worker does: tasks into their results, one for each and in their order, as they come."""


class Engine(Component[EngineConfigT]):
    """Does tasks that are independent of each other. Which engine does them changes no result."""

    in_process: ClassVar[bool] = False
    """Whether all is done in the process that asks. What such an engine is given need not be picklable."""

    @abstractmethod
    def map(
        self, opened: Callable[..., Work], about: tuple[Any, ...], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        """The number and the result of every task, each once, as they are done and in any order.

        `opened(*about)` is called once in every worker; what it gives is handed some of the tasks at a time, so that it
        can read ahead from one to the next. `opened`, `about`, tasks and results are pickled on their way. A task that
        is lost with its worker is done again by another: it may have been begun, or even done, before.

        An error of `modbridge.errors` that a worker raises is raised here as the same class with the same message.
        Raises SetupError where workers cannot be had, or die again and again.
        """
        ...
