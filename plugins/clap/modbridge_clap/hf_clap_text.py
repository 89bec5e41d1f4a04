"""Texts as token ids, by a model's own tokenizer, by words learned in the run, or by bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from modbridge.pretrained import check_vocabulary
from modbridge.words import PAD

Tokenize = Callable[[str], torch.Tensor]
"""A text as int64 (L,): start, tokens, end, and maybe padding."""

_BYTE_START, _BYTE_END, _FIRST_BYTE = 1, 2, 3


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
