"""That the example builds, without a network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from modbridge.errors import ModbridgeError
from modbridge.plugins.registry import KINDS
from modbridge.testing.conformance.outcome import Check, Failed, NotRun
from modbridge.testing.conformance.subject import Subject


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


def offline_build(subject: Subject) -> None:
    with without_network() as asked:
        if subject.trouble is not None:
            raise subject.trouble
        _ = subject.ports
        try:
            subject.build()
        except NotRun:
            raise
        except ModbridgeError as error:
            raise _not_built(error, asked) from error
        except Exception as error:
            raise _not_built(error, asked) from error
    if asked:
        raise Failed(
            f"building the example asked for {', '.join(sorted(set(asked))[:3])}",
            "an example that needs no network",
            "give the example tiny random weights, or files of its own by `example_from`",
        )


def _not_built(error: Exception, asked: list[str]) -> Failed:
    wanted = f" (it had asked for {asked[0]})" if asked else ""
    return Failed(
        f"the example cannot be built{wanted}: {type(error).__name__}: {error}",
        "that the example builds without a network",
        "mend it, or give an example with tiny random weights, or files of its own by `example_from`",
    )


CHECKS = (Check("offline_build", KINDS, "its example is a whole config and builds without a network", offline_build),)
