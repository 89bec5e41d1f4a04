"""Cells spread over processes. Results meet in the cache, so a worker only says that a cell is done, or why not.

Each worker has a session of its own; a stage that two cells share is made by one of them while the other waits
(`store/cache.py`). A worker that dies, killed for its memory or by a crash, fails the one cell that it was at.
"""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from modbridge.errors import ModbridgeError

Job = Callable[[int], None]


@dataclass(frozen=True)
class Failure:
    """Why a cell could not be done: what to say, the exit code that it stands for, and where it came from."""

    message: str
    exit_code: int = 3
    traceback: str = field(default="", compare=False)

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """What to say of an error; one that nobody raised on purpose is a bug."""
        where = "".join(traceback.format_exception(error))
        if isinstance(error, ModbridgeError):
            return cls(str(error), error.exit_code, where)
        return cls(f"{type(error).__name__}: {error} (this is a bug in modbridge; --debug shows where)", 3, where)


def in_turn(indices: Sequence[int], job: Job) -> Iterator[tuple[int, Failure | None]]:
    """Do the cells one after the other in this process; gives each as it is done."""
    for index in indices:
        try:
            job(index)
        except Exception as error:
            yield index, Failure.of(error)
        else:
            yield index, None


def spread(
    indices: Sequence[int], jobs: int, opened: Callable[..., Job], *about: Any
) -> Iterator[tuple[int, Failure | None]]:
    """Do the cells in `jobs` processes; gives each as it is done, in no order.

    `opened(*about)` is called once in every process and gives what does a cell; it and `about` are pickled.
    """
    context = multiprocessing.get_context("spawn")
    left = list(reversed(indices))
    workers: dict[Connection, tuple[Any, int | None]] = {}

    def start() -> None:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, opened, about), daemon=True)
        process.start()
        theirs.close()
        workers[ours] = (process, None)
        hand_out(ours)

    def hand_out(to: Connection) -> None:
        process, _ = workers[to]
        index = left.pop() if left else None
        workers[to] = (process, index)
        with suppress(OSError):  # one that died is found below, by its pipe's end
            to.send(index)

    try:
        for _ in range(min(jobs, len(indices))):
            start()
        while any(index is not None for _, index in workers.values()):
            for ready in wait([pipe for pipe, (_, index) in workers.items() if index is not None]):
                assert isinstance(ready, Connection)
                process, index = workers[ready]
                assert index is not None
                try:
                    failure: Failure | None = ready.recv()
                except (EOFError, OSError):
                    process.join()
                    del workers[ready]
                    yield index, Failure(_death(process.exitcode))
                    if left:
                        start()
                    continue
                yield index, failure
                hand_out(ready)
    finally:
        for process, _ in workers.values():
            process.terminate()
        for process, _ in workers.values():
            process.join()


def _serve(pipe: Connection, opened: Callable[..., Job], about: tuple[Any, ...]) -> None:
    """A worker's whole life: cells as they are handed out, until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer; it ends the workers
    job: Job | None = None
    with suppress(EOFError, OSError):  # the parent is gone: nobody waits for what comes
        while (index := pipe.recv()) is not None:
            failure = None
            try:
                job = job or opened(*about)
                job(index)
            except Exception as error:
                failure = Failure.of(error)
            pipe.send(failure)


def _death(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        more = ", most likely for want of memory; try fewer --jobs" if name == "SIGKILL" else ""
        return f"its process was ended by {name}{more}"
    return f"its process ended with exit code {code}"
