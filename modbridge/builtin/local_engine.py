"""The engine `local`: this process does everything."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from modbridge.builtin.engine_config import LocalEngineConfig
from modbridge.interfaces.engine import Engine, Work


class LocalEngine(Engine[LocalEngineConfig]):
    """Hands all tasks to one worker, here."""

    in_process: ClassVar[bool] = True

    def map(
        self, opened: Callable[..., Work], about: tuple[Any, ...], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        return enumerate(opened(*about)(tasks))
