"""What all checks of one plugin share."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from modbridge.interfaces.metric import Reference
from modbridge.plugins.manager import Plugins
from modbridge.plugins.registry import Registry


@dataclass(frozen=True)
class Trial:
    """What all checks of one plugin share. `plugin`: its name. `file`: of a single-file plugin. `items`: the user's own
    toy items, by modality. `references`: what the user's metrics judge by."""

    plugins: Plugins
    plugin: str
    file: str | None = None
    items: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    references: Sequence[Reference] = ()
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def registry(self) -> Registry:
        return self.plugins.registry

    @cached_property
    def folder(self) -> Path:
        """A folder that goes away with the trial."""
        found = Path(tempfile.mkdtemp(prefix="modbridge-conformance-"))
        weakref.finalize(self, shutil.rmtree, found, ignore_errors=True)
        return found

    def remember(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` gives, made once."""
        if name not in self.memory:
            self.memory[name] = make()
        return self.memory[name]
