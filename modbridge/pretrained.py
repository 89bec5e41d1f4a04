"""What encoders of published weights share: lower precision, and a look at whether the tokenizer is whole."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from modbridge.errors import ArtefactError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def lower_precision(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast to "bf16" or "fp16" on the device; nothing for "fp32". Weights stay as they are."""
    return torch.autocast(device.type, _DTYPES[precision]) if precision in _DTYPES else nullcontext()


def check_vocabulary(found: int, expected: int, model: str) -> None:
    """Raise ArtefactError unless a tokenizer is of the size its model expects: libraries may hand out empty ones
    without a word. A tenth may be missing, since embedding tables are padded."""
    if not 0.9 * expected <= found <= expected:
        raise ArtefactError(
            f"the tokenizer of {model} has {found} tokens, its text tower {expected}: the tokenizer's files are "
            f"missing or belong to another model. Fetch them again."
        )
