"""Captions by transformers' `generate`, and how likely they are."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import GenerationConfig, PreTrainedModel

from modbridge_captioning.lead import Lead, token_losses
from modbridge_captioning.targets import IGNORED, CaptionBatch

_SCORED_AT_ONCE = 16  # rows of logits over the whole vocabulary held at once (16 x 39 x 50257 float32: 125 MB)


def searched(
    lm: PreTrainedModel, lead: Lead, config: GenerationConfig, at_once: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What `generate` writes behind each row of `lead` (N rows), `at_once` in a batch: tokens, int64 (N, config's
    max_new_tokens), how many of them are written (N,), and the sums of their log-probabilities (N,)."""
    generate: Any = lm.generate
    limit, count = int(config.max_new_tokens), len(lead.mask)
    tokens, lengths = lead.mask.new_zeros(count, limit), lead.mask.new_zeros(count)
    logs = torch.zeros(count, device=lead.mask.device)
    for rows in torch.split(lead.mask.sum(1).argsort(stable=True), at_once):
        part = lead.rows(rows)
        ids = generate(inputs_embeds=part.embeddings, attention_mask=part.mask, generation_config=config)
        final = torch.isin(ids, torch.tensor(config.eos_token_id, device=ids.device))
        lengths[rows] = torch.where(final.any(1), final.int().argmax(1) + 1, ids.shape[1])
        tokens[rows] = pad(ids, (0, limit - ids.shape[1]))
        there = torch.arange(ids.shape[1], device=ids.device) < lengths[rows][:, None]
        written = CaptionBatch(ids[:, :-1], there[:, :-1].long(), ids.masked_fill(~there, IGNORED))
        for some in torch.split(torch.arange(len(ids), device=ids.device), _SCORED_AT_ONCE):
            logs[rows[some]] = -token_losses(lm, part.rows(some), written.rows(some)).sum(1)
    return tokens, lengths, logs
