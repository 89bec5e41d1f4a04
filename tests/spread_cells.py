"""What `test_workers.py` gives to processes, which look for it by its name: that of a test is found by pytest alone."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from modbridge.errors import DataError


def opened(folder: str) -> Callable[[int], None]:
    """Cells that leave a file; 3 is the user's mistake, 4 a bug, 5 the death of its process."""
    with (Path(folder) / f"opened-{os.getpid()}").open("x"):
        pass

    def job(index: int) -> None:
        if index == 3:
            raise DataError("found nothing")
        if index == 4:
            raise ZeroDivisionError("division by zero")
        if index == 5:
            os.kill(os.getpid(), signal.SIGKILL)
        with (Path(folder) / f"done-{index}").open("x") as file:  # "x": a second try would fail
            file.write(str(os.getpid()))

    return job


def sleepy() -> Callable[[int], None]:
    def job(index: int) -> None:
        if index:
            time.sleep(60)

    return job
