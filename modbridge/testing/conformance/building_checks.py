"""That the example builds, without a network."""

from __future__ import annotations

from modbridge.plugins.registry import KINDS
from modbridge.testing.conformance.offline import without_network
from modbridge.testing.conformance.outcome import Check, Failed, NotRun
from modbridge.testing.conformance.subject import Subject


def offline_build(subject: Subject) -> None:
    if subject.trouble is not None:
        raise subject.trouble
    with without_network() as asked:
        _ = subject.ports
        try:
            subject.build()
        except NotRun:
            raise
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
