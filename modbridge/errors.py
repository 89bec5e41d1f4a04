"""The errors modbridge raises on purpose. Each message says what was found, what was expected and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ModbridgeError(Exception):
    """Base of every error that is told to the user without a traceback."""

    exit_code = 1


class DataError(ModbridgeError):
    """A data set, file or value is missing, unreadable or contradicts itself."""


class ArtefactError(ModbridgeError):
    """A stored artefact is damaged, incomplete, or of a schema this version cannot read."""


class PortError(ModbridgeError):
    """Two neighbours of a pipeline do not fit: their vectors live in different spaces, frames or shapes."""


class PluginError(ModbridgeError):
    """A plugin could not be loaded, or a component of it failed."""

    exit_code = 3


class SetupError(ModbridgeError):
    """The environment lacks something: network, disk, Java, a package."""

    exit_code = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a config: where it stands, what is wrong, what to do."""

    path: str
    message: str
    where: str = ""
    hint: str = ""

    def __str__(self) -> str:
        place = " ".join(part for part in (self.where and f"{self.where}:", self.path and f"{self.path}:") if part)
        text = f"{place} {self.message}".strip()
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(ModbridgeError):
    """A config is wrong. Holds every problem found, not only the first.

    `partial`: what could be read all the same, so that checking can go on and tell the rest too.
    """

    def __init__(self, problems: Sequence[Problem] | str, partial: object = None) -> None:
        self.partial = partial
        self.problems = [Problem("", problems)] if isinstance(problems, str) else list(problems)
        count = len(self.problems)
        head = "" if count == 1 else f"{count} mistakes in the config:\n  "
        super().__init__(head + "\n  ".join(str(problem) for problem in self.problems))
