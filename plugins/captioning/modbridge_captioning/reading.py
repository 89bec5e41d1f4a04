"""What a language model has read of each row of a batch, of which rows can be dropped, repeated and added."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer

from modbridge_captioning.lead import Lead, position_ids


def keeps_rows_apart(lm: PreTrainedModel) -> bool:
    """Whether an LM keeps plain keys and values of what it has read: one with a sliding window forgets some, a
    recurrent one keeps something else."""
    kind: Any = type(lm)
    own = kind.prepare_inputs_for_generation is not GenerationMixin.prepare_inputs_for_generation
    if own or "past_key_values" not in inspect.signature(lm.forward).parameters:
        return False
    return all(type(layer) is DynamicLayer for layer in DynamicCache(config=lm.config).layers)


class Reading:
    """B rows that an LM has begun to read, LEFT-padded: their keys and values, and where there are any (`mask`)."""

    def __init__(self, lm: PreTrainedModel, lead: Lead) -> None:
        """Read `lead` (B rows). `logits`: float32 (B, V), of what follows."""
        self.lm: Any = lm
        self.mask = lead.mask
        self.cache: Any = DynamicCache(config=lm.config)
        self.logits = self._read(inputs_embeds=lead.embeddings)

    def __len__(self) -> int:
        return len(self.mask)

    def go_on(self, tokens: torch.Tensor) -> torch.Tensor:
        """Read one more token (B,) of each row; logits, float32 (B, V), of what follows."""
        self.mask = pad(self.mask, (0, 1), value=1)
        return self._read(input_ids=tokens[:, None])

    def take(self, rows: torch.Tensor) -> None:
        """Leave `rows` (int64) alone, in their order, and no column in which none of them has anything."""
        mask = self.mask[rows]
        start = mask.shape[1] - (int(mask.sum(1).max()) if len(rows) else 0)
        self.mask = mask[:, start:]
        for layer in self.cache.layers:
            layer.keys, layer.values = layer.keys[rows, :, start:], layer.values[rows, :, start:]

    def add(self, other: Reading) -> None:
        """Add the rows of another."""
        width = max(self.mask.shape[1], other.mask.shape[1])
        self.mask = torch.cat([_widened(self.mask, width, 1), _widened(other.mask, width, 1)])
        for layer, more in zip(self.cache.layers, other.cache.layers, strict=True):
            layer.keys = torch.cat([_widened(layer.keys, width, 2), _widened(more.keys, width, 2)])
            layer.values = torch.cat([_widened(layer.values, width, 2), _widened(more.values, width, 2)])

    def _read(self, **new: torch.Tensor) -> torch.Tensor:
        count = next(iter(new.values())).shape[1]
        places = {name: all_of_them[:, -count:] for name, all_of_them in position_ids(self.lm, self.mask).items()}
        # By index, which makes a copy: where the weights are frozen, torch takes ten times as long for the view that
        # the number 1 would give.
        last = torch.tensor([-1], device=self.mask.device)
        out = self.lm(
            **new, **places, attention_mask=self.mask, past_key_values=self.cache, use_cache=True, logits_to_keep=last
        )
        logits: torch.Tensor = out.logits[:, -1].float()
        return logits


def _widened(x: torch.Tensor, width: int, dim: int) -> torch.Tensor:
    """Zeros before what stands along `dim`, up to `width`."""
    return pad(x, (0, 0) * (x.dim() - 1 - dim) + (width - x.shape[dim], 0))
