"""What a language model reads before the caption, and how likely a caption is behind it."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional
from transformers import PreTrainedModel

from modbridge_captioning.language_model import token_embedding
from modbridge_captioning.targets import IGNORED, CaptionBatch


@dataclass(frozen=True)
class Lead:
    """What stands before the captions of B items, LEFT-padded, so that every caption begins in the same column.

    `embeddings`: (B, T, E), zeros where there is padding. `mask`: int64 (B, T), 0 there. `padded`: if there is any.
    """

    embeddings: torch.Tensor
    mask: torch.Tensor
    padded: bool = False

    @classmethod
    def of(cls, prefix: torch.Tensor, given: torch.Tensor | None = None) -> Lead:
        """Prefix vectors (B, P, E) alone; of them those that are `given` (bool (B, P)), or all."""
        if given is None:
            return cls(prefix, torch.ones(prefix.shape[:2], dtype=torch.long, device=prefix.device))
        longest = int(given.sum(1).max())
        # Those that are not given first, all else in its order.
        order = given.int().argsort(dim=1, stable=True)[:, given.shape[1] - longest :]
        there = given.gather(1, order)
        rows = prefix.gather(1, order[..., None].expand(-1, -1, prefix.shape[2])).masked_fill(~there[..., None], 0.0)
        return cls(rows, there.long(), padded=not bool(there.all()))

    @classmethod
    def between(
        cls,
        prefix: torch.Tensor,
        before: Sequence[Sequence[int]],
        behind: Sequence[Sequence[int]],
        lm: PreTrainedModel,
        given: torch.Tensor | None = None,
    ) -> Lead:
        """As `of`, P = 0 for no prefix, between the tokens of B texts each."""
        lengths = [prefix.shape[1]] * len(prefix) if given is None else given.sum(1).tolist()
        rows = [(*b, *[-1] * n, *a) for b, n, a in zip(before, lengths, behind, strict=True)]
        longest = max(map(len, rows))
        # -1 where a vector stands, -2 where nothing does.
        ids = torch.tensor(
            [[-2] * (longest - len(row)) + [*row] for row in rows], dtype=torch.long, device=prefix.device
        )
        there = ids != -2
        words = token_embedding(lm)(ids.clamp(min=0)) * there[..., None]
        vectors = prefix if given is None else prefix[given]
        mixed = words.masked_scatter((ids == -1)[..., None], vectors.to(words.dtype))
        return cls(mixed, there.long(), padded=any(len(row) < longest for row in rows))

    def rows(self, rows: torch.Tensor) -> Lead:
        """Those `rows` (int64), without the columns in which none of them has anything."""
        mask = self.mask[rows]
        if not self.padded:
            return Lead(self.embeddings[rows], mask)
        longest = int(mask.sum(1).max())
        mask = mask[:, -longest:]
        return Lead(self.embeddings[rows, -longest:], mask, not bool(mask.all()))


def token_losses(lm: PreTrainedModel, lead: Lead, batch: CaptionBatch) -> torch.Tensor:
    """Cross-entropy of each label (B, L + 1), 0 where it is ignored, behind `lead`."""
    inputs = torch.cat([lead.embeddings, token_embedding(lm)(batch.tokens)], dim=1)
    mask = torch.cat([lead.mask, batch.mask], dim=1)
    count = batch.labels.shape[1]
    logits = lm(
        inputs_embeds=inputs,
        attention_mask=mask,
        logits_to_keep=count,
        use_cache=False,
        **(position_ids(lm, mask) if lead.padded else {}),
    ).logits
    each = functional.cross_entropy(
        logits[:, -count:].flatten(0, 1).float(), batch.labels.flatten(), ignore_index=IGNORED, reduction="none"
    )
    return each.view_as(batch.labels)


def position_ids(lm: PreTrainedModel, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """Positions that count from each row's first token on, as transformers' `generate` counts them. An LM that takes
    none counts them from the mask itself (OPT of old) or knows distances only (Bloom)."""
    if "position_ids" not in inspect.signature(lm.forward).parameters:
        return {}
    return {"position_ids": (mask.cumsum(1) - 1).masked_fill(mask == 0, 0)}
