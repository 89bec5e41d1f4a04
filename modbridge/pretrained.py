"""What encoders of published weights share: lower precision, and whether tokenizer and text
tower are whole."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from modbridge.errors import ArtefactError

SPREAD_PROMPTS = ("a dog barks", "heavy rain falls on a roof", "people are talking while music plays")
_ONE_VECTOR = 0.9999  # ours; under random weights of full size unrelated prompts reach cosines of 0.9994
_SUSPECT = 0.99  # ours; a published checkpoint whose text side had collapsed was reported at 0.999
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


def check_spread(vectors: torch.Tensor, model: str) -> None:
    """Raise ArtefactError if `SPREAD_PROMPTS`, whose vectors (3, D) these are, all get one vector; warn if nearly."""
    cosines = (vectors @ vectors.T)[torch.triu(torch.ones(3, 3), diagonal=1).bool()]
    if not (cosines < _ONE_VECTOR).any():
        raise ArtefactError(
            f"{model}: unrelated prompts get the same vector (cosines from {float(cosines.min()):.5f}): its text "
            f"tower or its tokenizer is damaged. Fetch it again, or take another checkpoint."
        )
    if not (cosines < _SUSPECT).any():
        warnings.warn(
            f"{model}: unrelated prompts have cosines from {float(cosines.min()):.4f}. Unless its weights are "
            f"random, its text side has collapsed: take another checkpoint.",
            stacklevel=2,
        )
