"""Texts as token ids, by a model's own tokenizer, by words learned in the run, or by bytes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from modbridge.errors import ArtefactError
from modbridge.pretrained import check_vocabulary
from modbridge.words import PAD

Tokenize = Callable[[str], torch.Tensor]
"""A text as int64 (L,): start, tokens, end, and maybe padding."""

_BYTE_START, _BYTE_END, _FIRST_BYTE = 1, 2, 3
SPREAD_PROMPTS = ("a dog barks", "heavy rain falls on a roof", "people are talking while music plays")
_ONE_VECTOR = 0.9999  # ours; under random weights of full size unrelated prompts reach cosines of 0.9994
_SUSPECT = 0.99  # ours; a published checkpoint whose text side had collapsed was reported at 0.999


class ByteTokenizer:
    """Texts as their UTF-8 bytes between start and end, padded to `context_length`; over-long ones are cut."""

    start, end = _BYTE_START, _BYTE_END
    vocab_size = _FIRST_BYTE + 256

    def __init__(self, context_length: int) -> None:
        self.context_length = context_length

    def __call__(self, text: str) -> torch.Tensor:
        body = [_FIRST_BYTE + byte for byte in text.encode()][: self.context_length - 2]
        ids = [_BYTE_START, *body, _BYTE_END]
        return torch.tensor(ids + [PAD] * (self.context_length - len(ids)), dtype=torch.int64)


class OwnTokenizer:
    """A model's own tokenizer from its files; texts longer than its tower reads are cut. Pads nothing."""

    def __init__(self, tokenizer: Any, text_config: Any, model: str) -> None:
        check_vocabulary(len(tokenizer), text_config.vocab_size, model)
        self._tokenizer = tokenizer
        self._longest = text_config.max_position_embeddings - text_config.pad_token_id - 1  # positions begin after it

    def __call__(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, truncation=True, max_length=self._longest)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)


def padded(texts: Sequence[torch.Tensor], pad: int) -> dict[str, torch.Tensor]:
    """Token ids of several texts as one batch (B, L), as long as the longest, with its mask."""
    bare = [ids[: int((ids != pad).nonzero().max()) + 1] for ids in texts]
    rows = torch.nn.utils.rnn.pad_sequence(bare, batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(ids) for ids in bare])
    return {"input_ids": rows, "attention_mask": (torch.arange(rows.shape[1]) < lengths[:, None]).long()}


def check_spread(vectors: torch.Tensor, model: str) -> None:
    """Raise ArtefactError if `SPREAD_PROMPTS`, whose vectors (3, D) these are, all get one vector; warn if nearly."""
    cosines = (vectors @ vectors.T)[torch.triu(torch.ones(3, 3), diagonal=1).bool()]
    if not (cosines < _ONE_VECTOR).any():
        raise ArtefactError(
            f"model {model}: unrelated prompts get the same vector (cosines from {float(cosines.min()):.5f}): its text "
            f"tower or its tokenizer is damaged. Fetch it again, or take another checkpoint."
        )
    if not (cosines < _SUSPECT).any():
        warnings.warn(
            f"model {model}: unrelated prompts have cosines from {float(cosines.min()):.4f}. Unless its weights are "
            f"random, its text side has collapsed: take another checkpoint.",
            stacklevel=2,
        )
