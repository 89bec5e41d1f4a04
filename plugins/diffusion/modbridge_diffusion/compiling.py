"""torch.compile with its failures told in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from modbridge.errors import SetupError

_REMEDY = "It needs a C++ compiler (g++ or clang), and Triton on a GPU. Install what is missing, or leave out compile."


def compile_in_place(module: torch.nn.Module) -> None:
    """Have the module's calls compiled from the first one on; its state keeps its names. Raises SetupError where this
    Python or platform knows no torch.compile."""
    try:
        module.compile()
    except RuntimeError as error:
        raise SetupError(f"compile: true does not work here: {error}. {_REMEDY}") from error


@contextmanager
def compiled_call() -> Iterator[None]:
    """Around a call of a compiled module: where compiling fails, SetupError."""
    from torch._dynamo.exc import TorchDynamoException  # takes a second to import

    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise SetupError(f"compile: true does not work here: {reason} {_REMEDY}") from error
