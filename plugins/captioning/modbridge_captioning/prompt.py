"""The prompt: words, and retrieved captions, around the prefix vectors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modbridge_captioning.blocks import CAPTIONS, Prompt, Retrieval
from modbridge_captioning.lead import Lead


class PromptWords:
    """A `Prompt` for one tokenizer. Each side of the vectors is one text, captions filled in, and tokenised as such,
    without the tokens that a tokenizer would begin or end a text with."""

    def __init__(self, config: Prompt, retrieval: Retrieval | None, tokenizer: PreTrainedTokenizerBase) -> None:
        self.sides = config.sides(retrieval is not None)
        self.separator = "" if retrieval is None else retrieval.separator
        self.tokenizer = tokenizer
        self._fixed = self._tokens(self.sides)

    def lead(self, prefix: torch.Tensor, captions: Sequence[Sequence[str]] | None, lm: PreTrainedModel) -> Lead:
        """The prompt of B items around their prefix vectors (B, P, E). `captions`: those retrieved for each."""
        sides = []
        for side, fixed in zip(self.sides, self._fixed, strict=True):
            if captions is None or CAPTIONS not in side:
                sides.append([fixed] * len(prefix))
            else:
                sides.append(self._tokens([side.replace(CAPTIONS, self._joined(found)) for found in captions]))
        return Lead.between(prefix, sides[0], sides[1], lm)

    def longest(self, captions: Sequence[str], count: int) -> int:
        """The tokens of a prompt that holds `count` times the longest of `captions`; of the bare one without any."""
        if not captions:
            return sum(map(len, self._fixed))
        longest = max(zip(map(len, self._tokens(captions)), captions, strict=True))[1]
        filled = [side.replace(CAPTIONS, self._joined([longest] * count)) for side in self.sides]
        return sum(map(len, self._tokens(filled)))

    def _joined(self, captions: Sequence[str]) -> str:
        return "".join(f"{caption}{self.separator}" for caption in captions)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]
