"""A worker: a process on some node that opens what it needs once and then does the tasks that it is handed."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, entry_points, version
from pathlib import Path
from typing import Any

import numpy as np

from modbridge.errors import PluginError, SetupError

# What the environment says of plugins and the hub holds in workers as well.
CARRIED = (
    "MODBRIDGE_PLUGINS",
    "MODBRIDGE_DISABLE",
    "MODBRIDGE_PLUGIN_SECONDS",
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_ENDPOINT",
    "HF_TOKEN",
)
# Beside modbridge and its plugins, what decides what they compute.
DECIDING = ("torch", "transformers", "open-clip-torch")


def _versions() -> dict[str, str]:
    """The versions of modbridge, of every plugin's distribution and of the libraries that decide results."""
    plugins = {point.dist.name for point in entry_points(group="modbridge") if point.dist is not None}
    found = {}
    for name in sorted({"modbridge", *plugins, *DECIDING}):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


@dataclass(frozen=True)
class Surroundings:
    """Where the process that asks is: relative paths of a config start at its folder."""

    folder: str = field(default_factory=os.getcwd)
    environment: dict[str, str] = field(
        default_factory=lambda: {name: os.environ[name] for name in CARRIED if name in os.environ}
    )
    versions: dict[str, str] = field(default_factory=_versions)

    def enter(self) -> None:
        """Make this process's surroundings the same. Raises SetupError where another modbridge is installed."""
        here = _versions()
        if here != self.versions:
            names = sorted(n for n in {*here, *self.versions} if here.get(n) != self.versions.get(n))
            found = "; ".join(f"{n} {here.get(n, 'missing')}, not {self.versions.get(n, 'missing')}" for n in names)
            raise SetupError(
                f"{socket.gethostname()} has other versions than the process that asked: {found}. Install the same on "
                f"every node."
            )
        os.environ.update(self.environment)
        if Path(self.folder).is_dir():  # where it is not, absolute paths still serve
            os.chdir(self.folder)


@dataclass(frozen=True)
class Failed:
    """An error on its way from a worker."""

    error: BaseException
    where: str

    @classmethod
    def of(cls, error: BaseException) -> Failed:
        """The error itself where it can travel, or else what it says."""
        try:
            travelled = pickle.loads(pickle.dumps(error))
            same = type(travelled) is type(error) and str(travelled) == str(error)
        except Exception:  # whatever a stranger's error does when it is pickled
            same = False
        kept = error
        if not same:
            kept = PluginError(f"{type(error).__name__}: {error}")
        told = "".join(traceback.format_exception(error))
        return cls(kept.with_traceback(None), f"on {socket.gethostname()}:\n{told}")

    def again(self) -> BaseException:
        """What is to be raised where the work was asked for; --debug shows where it came from."""
        self.error.add_note(self.where)
        return self.error


class Worker:
    """What Ray Data keeps on a node. `job`: the pickled pair of `opened` and `about` (see `Engine.map`)."""

    def __init__(self, job: bytes, surroundings: Surroundings) -> None:
        self.job, self.surroundings = job, surroundings
        self.work: Any = None

    def __call__(self, batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
        """Results, or the error that ended it, with the numbers of the tasks."""
        numbers = [int(number) for number in batch["number"]]
        try:
            if self.work is None:
                self.surroundings.enter()
                opened, about = _unpacked(self.job)
                self.work = opened(*about)
            results = self.work([pickle.loads(task) for task in batch["task"]])
            for number, result in zip(numbers, results, strict=True):
                yield _row(number, result)
        except Exception as error:
            yield _row(numbers[0], Failed.of(error))


def _unpacked(job: bytes) -> Any:
    """What is to be done. Raises SetupError where this node lacks the code of it."""
    try:
        return pickle.loads(job)
    except ImportError as error:
        raise SetupError(
            f"{socket.gethostname()} lacks what this run is made of ({error}). Install the same plugins and packages "
            f"on every node."
        ) from error


def _row(number: int, result: Any) -> dict[str, np.ndarray]:
    packed = np.empty(1, dtype=object)
    packed[0] = pickle.dumps(result)
    return {"number": np.array([number]), "result": packed}
