"""Talk and progress, on stderr: a live bar on a terminal, one line a minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from modbridge.interfaces.fitting import Progress

LINE_SECONDS = 60.0


class Talk:
    """What a run says while it works. `quiet` leaves only errors."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.quiet = quiet

    def say(self, message: str) -> None:
        if not self.quiet:
            self.console.print(message, markup=False, soft_wrap=True)

    @contextmanager
    def progress(self, label: str, total: int, done: int = 0) -> Iterator[Progress]:
        """Count `total` steps, `done` of them finished before; shown with rate and time left."""
        if self.quiet:
            yield _Silent()
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            with Bars(*columns, console=self.console, transient=True) as bars:
                yield _Bar(bars, bars.add_task(label, total=total, completed=done, rate="", note=""))
        else:
            yield _Lines(self, label, total, done)


class _Silent:
    def advance(self, count: int = 1, note: str = "") -> None:
        pass


class _Counter:
    """Steps, and the rate since this process began to count."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.done, self.begun, self.fresh = total, done, time.monotonic(), 0

    def count(self, count: int) -> None:
        self.done += count
        self.fresh += count

    @property
    def rate(self) -> float:
        return self.fresh / max(time.monotonic() - self.begun, 1e-9)


class _Bar(_Counter):
    def __init__(self, bars: Bars, task: TaskID) -> None:
        state = bars.tasks[-1]
        super().__init__(int(state.total or 0), int(state.completed))
        self.bars, self.task, self.shown = bars, task, 0.0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.count(count)
        now = time.monotonic()
        if now - self.shown > 0.1 or self.done >= self.total:
            self.shown = now
            self.bars.update(self.task, completed=self.done, rate=f"{self.rate:.1f}/s", note=note)


class _Lines(_Counter):
    def __init__(self, talk: Talk, label: str, total: int, done: int) -> None:
        super().__init__(total, done)
        self.talk, self.label, self.spoken = talk, label, time.monotonic()

    def advance(self, count: int = 1, note: str = "") -> None:
        self.count(count)
        now = time.monotonic()
        if now - self.spoken >= LINE_SECONDS:
            self.spoken = now
            left = (self.total - self.done) / max(self.rate, 1e-9)
            tail = f", {note}" if note else ""
            self.talk.say(f"{self.label}: {self.done}/{self.total}, {self.rate:.1f}/s, {left:.0f} s left{tail}")
