"""What is made ahead, in order, by worker processes: the way torch's DataLoader does it."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from modbridge.errors import SetupError

T = TypeVar("T")


def made_ahead(
    made: Dataset[T], plan: Iterable[Any], workers: int, *, pin: bool, what: str, advice: str
) -> Iterator[T]:
    """`made[asked]` for each of the `plan`, in its order. With `workers` processes, two for each of them are ready or
    being made before they are asked for; without, each is made when it is asked for.

    The plan is gone through in this process, as far as what is being made. `pin`: tensors in page-locked memory.
    Raises SetupError where a process is ended from outside; `what` it did and `advice` are for its message.
    """
    loader = DataLoader(
        made,
        sampler=plan,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin,
        # Networks need not travel to a process that is a copy of this one. Elsewhere a copy is not safe.
        multiprocessing_context=multiprocessing.get_context("fork") if workers and sys.platform == "linux" else None,
        generator=torch.Generator(),  # torch would draw a number from everyone's otherwise
    )
    batches = _started(loader)
    try:
        yield from batches
    except (RuntimeError, EOFError, ConnectionError) as error:
        # What was raised over there says so, and passes.
        if not workers or str(error).startswith("Caught"):
            raise
        raise SetupError(
            f"a process that {what} was ended ({type(error).__name__}: {error}); most often it is want of memory, also "
            f"of /dev/shm. {advice}"
        ) from error


def _started(loader: DataLoader[T]) -> Iterator[T]:
    """The loader's batches, its processes started, without the handler that torch sets for their death: it raises
    wherever this process is by then, also while it tells of it. A death is found when the next batch is waited for."""
    ours = hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGCHLD) if ours else None
    batches: Iterator[T] = iter(loader)
    if before is not None:
        signal.signal(signal.SIGCHLD, before)
    return batches
