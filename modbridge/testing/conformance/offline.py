"""A process without a network, which remembers what was asked of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def without_network() -> Iterator[list[str]]:
    """No host answers; gives the list of those that were asked for."""
    asked: list[str] = []
    look_up, connect = socket.getaddrinfo, socket.socket.connect

    def no_name(host: Any, *args: Any, **more: Any) -> Any:
        asked.append(str(host))
        raise socket.gaierror(socket.EAI_NONAME, f"{host}: there is no network in this check")

    def no_way(self: socket.socket, address: Any) -> Any:
        if self.family == getattr(socket, "AF_UNIX", None):
            return connect(self, address)
        asked.append(str(address))
        raise OSError(f"{address}: there is no network in this check")

    socket.getaddrinfo, socket.socket.connect = no_name, no_way  # type: ignore[assignment, method-assign]
    try:
        yield asked
    finally:
        socket.getaddrinfo, socket.socket.connect = look_up, connect  # type: ignore[method-assign]
