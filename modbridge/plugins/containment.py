"""A stranger's code, contained: what it prints goes to stderr under its name, and it cannot hang for ever.

stdout belongs to results (`--json` must stay JSON), so neither `print` nor a child process of a plugin may reach it.
"""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, cast

from modbridge.errors import ConfigError, PluginError, Problem

SECONDS = "MODBRIDGE_PLUGIN_SECONDS"
DEFAULT_SECONDS = 30.0
STDOUT, STDERR = 1, 2


class _TooLong(BaseException):
    """Raised inside code that took too long. No Exception, so that a plugin's own `except Exception` lets it pass."""


class _Named:
    """Stands in for stdout: lines go to stderr behind a name, or that of the module that writes them; whatever else is
    asked of it, stderr answers."""

    def __init__(self, name: str | None) -> None:
        self.name, self.rest = name, ""

    def write(self, text: str) -> int:
        name = self.name or sys._getframe(1).f_globals.get("__name__", "?")
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            print(f"[{name}] {line}", file=sys.stderr)
        return len(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)


@contextmanager
def off_stdout(name: str | None = None) -> Iterator[None]:
    """What is printed meanwhile goes to stderr, each line behind `name`, by default that of the module that prints; so
    does what child processes print."""
    named = _Named(name)
    with _descriptor_to_stderr(), redirect_stdout(cast(Any, named)):
        try:
            yield
        finally:
            if named.rest:
                named.write("\n")


@contextmanager
def _descriptor_to_stderr() -> Iterator[None]:
    _flush()  # what was written before must not come out at the other place
    try:
        kept = os.dup(STDOUT)
    except OSError:  # there is no stdout to keep clean
        yield
        return
    try:
        os.dup2(STDERR, STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, STDOUT)
        os.close(kept)


def _flush() -> None:
    if sys.stdout is not None:  # as in a process that was started without one
        sys.stdout.flush()


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise PluginError inside code that takes longer; 0: no limit.

    It takes a POSIX system and the main thread, where the command line asks its plugins; elsewhere there is no limit.
    """
    main = threading.current_thread() is threading.main_thread()
    if seconds <= 0 or not main or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise _TooLong

    before = signal.signal(signal.SIGALRM, stop)
    # Again every second: code that swallows the first interruption meets a second one.
    waiting = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    except _TooLong:
        raise PluginError(
            f"it was not done after {seconds:g} s and was stopped. Switch it off with MODBRIDGE_DISABLE, or give it "
            f"more time with {SECONDS} (0: no limit)."
        ) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, *waiting)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def contained(name: str, seconds: float = DEFAULT_SECONDS) -> Iterator[None]:
    """Run a hook of the plugin `name`: off stdout, and within `seconds`."""
    with off_stdout(name), time_limit(seconds):
        yield


def seconds_allowed(environ: Mapping[str, str]) -> float:
    """How long a hook may take: MODBRIDGE_PLUGIN_SECONDS, or the default. Raises ConfigError if that is no number."""
    given = environ.get(SECONDS) or str(DEFAULT_SECONDS)
    try:
        found = float(given)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise ConfigError([Problem(SECONDS, f"{given!r} is no number of seconds", hint="like 60; 0: no limit")])
    return found
