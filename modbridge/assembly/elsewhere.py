"""What the workers of an engine need of the machine that they are on: the folders of the one that asked."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from modbridge.errors import SetupError

PATIENCE = 5.0  # seconds: a network's file system may show a new file late


@contextmanager
def token_in(folder: Path) -> Iterator[Path]:
    """A file in `folder` by which workers know that they see that very folder, for as long as they work."""
    token = folder.resolve() / f".seen-{uuid4().hex}"
    token.touch()
    try:
        yield token
    finally:
        token.unlink(missing_ok=True)


def require_token(token: Path) -> None:
    """Raise SetupError where the folder of `token_in` is not the one that is seen here under its path."""
    end = time.monotonic() + PATIENCE
    while not token.is_file():
        if time.monotonic() > end:
            there = "holds something else" if token.parent.is_dir() else "is not there"
            raise SetupError(
                f"the worker on {socket.gethostname()} does not see the cache: {token.parent} {there} on that machine. "
                f"Put the cache on a file system that every machine sees under one path, and name it by --cache or "
                f"MODBRIDGE_CACHE."
            )
        time.sleep(0.2)
