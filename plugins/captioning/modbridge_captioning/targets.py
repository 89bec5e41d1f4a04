"""Training captions as tokens: encoded once, kept flat, cut into right-padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from modbridge.errors import DataError

IGNORED = -100  # cross-entropy's own ignore index; never a token's id (id 0 is "!" in GPT-2)
_CHUNK = 10_000


@dataclass(frozen=True)
class CaptionBatch:
    """A batch of B captions, the longest of L tokens, for a model that predicts each token from those before it.

    `tokens`: int64 (B, L), right-padded. `mask`: int64 (B, L), 1 where a token is. `labels`: int64 (B, L + 1): the
    tokens, then the end-of-text token where it is taught; everything else is IGNORED.
    """

    tokens: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor

    def to(self, device: torch.device) -> CaptionBatch:
        return CaptionBatch(self.tokens.to(device), self.mask.to(device), self.labels.to(device))

    def rows(self, rows: torch.Tensor) -> CaptionBatch:
        """Those `rows` (int64)."""
        return CaptionBatch(self.tokens[rows], self.mask[rows], self.labels[rows])


@dataclass(frozen=True)
class Captions:
    """N tokenised captions. `flat`: all tokens, int32; caption i is `flat[starts[i] : starts[i] + lengths[i]]`.

    `whole`: bool (N,), False for captions that were cut, whose last token is therefore not their end.
    """

    flat: torch.Tensor
    starts: torch.Tensor
    lengths: torch.Tensor
    whole: torch.Tensor
    end: int

    @classmethod
    def encode(
        cls, texts: Sequence[str], keys: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_tokens: int | None
    ) -> Captions:
        """Tokens of `texts` as they stand: no beginning token, no leading space, no forced full stop.

        `max_tokens`: None cuts at min(mean + 10 standard deviations, longest), as C3's data set does. Raises DataError,
        naming the caption's key, for a caption without tokens or with the end-of-text token inside.
        """
        end = tokenizer.eos_token_id
        if not texts:
            raise DataError("there are no training captions; expected at least one.")
        encoded: list[list[int]] = []
        for i in range(0, len(texts), _CHUNK):
            chunk = list(texts[i : i + _CHUNK])
            encoded += tokenizer(chunk, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for key, text, ids in zip(keys, texts, encoded, strict=True):
            if not ids:
                raise DataError(f"the caption {key!r} is empty ({text!r}); leave it out of the training data.")
            if end in ids:
                raise DataError(
                    f"the caption {key!r} ({text[:60]!r}) holds {tokenizer.eos_token!r}, which marks the end of a "
                    f"caption; remove it from the text."
                )
        full = torch.tensor([len(ids) for ids in encoded])
        longest = int(full.max())
        if max_tokens is None and len(encoded) > 1:
            max_tokens = int(full.double().mean() + 10 * full.double().std())
        lengths = full.clamp(max=min(max_tokens or longest, longest))
        flat = torch.tensor(
            [token for ids, n in zip(encoded, lengths.tolist(), strict=True) for token in ids[:n]], dtype=torch.int32
        )
        return cls(flat, lengths.cumsum(0) - lengths, lengths, lengths == full, end)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def cut(self) -> int:
        """How many captions were cut."""
        return int((~self.whole).sum())

    def require_room(self, positions: int, prefix: int, texts: Sequence[str], keys: Sequence[str]) -> None:
        """Raise DataError, naming the longest caption, unless it fits behind the prefix into the LM's positions."""
        row = int(self.lengths.argmax())
        tokens = int(self.lengths[row])
        if prefix + tokens > positions:
            raise DataError(
                f"the caption {keys[row]!r} ({texts[row][:60]!r}) has {tokens} tokens; behind a prefix of {prefix} it "
                f"needs {prefix + tokens} positions, and the language model has {positions}. Set max_tokens to at most "
                f"{positions - prefix} to cut captions, or leave this one out."
            )

    def batch(self, rows: torch.Tensor, *, teach_end: bool, ignored: int | None = None) -> CaptionBatch:
        """The captions `rows` (int64 (B,)), padded to the longest of them. `ignored`: a token that is read but never
        asked for."""
        lengths = self.lengths[rows]
        column = torch.arange(int(lengths.max()) + 1)
        there = column < lengths[:, None]
        index = (self.starts[rows][:, None] + column).clamp(max=len(self.flat) - 1)
        tokens = self.flat[index].long().masked_fill(~there, self.end)
        labels = tokens.masked_fill(~there, IGNORED)
        if ignored is not None:
            labels = labels.masked_fill(labels == ignored, IGNORED)
        if teach_end:
            labels[(column == lengths[:, None]) & self.whole[rows][:, None]] = self.end
        return CaptionBatch(tokens[:, :-1], there[:, :-1].long(), labels)
