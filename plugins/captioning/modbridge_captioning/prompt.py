"""The prompt: words, and retrieved captions, around the prefix vectors."""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modbridge_captioning.blocks import CAPTIONS, HINT, Prompt, Retrieval
from modbridge_captioning.lead import Lead

_PLACES = re.compile(f"{re.escape(CAPTIONS)}|{re.escape(HINT)}")


def filled(side: str, captions: str, hint: str) -> str:
    """One side of a prompt with its places filled; what fills them is not looked through for more places."""
    return _PLACES.sub(lambda place: captions if place[0] == CAPTIONS else hint, side)


class PromptWords:
    """A `Prompt` for one tokenizer. Each side of the vectors is one text, captions and hints filled in, and tokenised
    as such, without the tokens that a tokenizer would begin or end a text with."""

    def __init__(self, config: Prompt, retrieval: Retrieval | None, tokenizer: PreTrainedTokenizerBase) -> None:
        self.sides = config.sides(retrieval is not None)
        self.separator = "" if retrieval is None else retrieval.separator
        self.tokenizer = tokenizer
        self._bare = self._tokens([filled(side, "", "") for side in self.sides])

    def lead(
        self,
        prefix: torch.Tensor,
        captions: Sequence[Sequence[str]] | None,
        hints: Sequence[str] | None,
        lm: PreTrainedModel,
        given: torch.Tensor | None = None,
    ) -> Lead:
        """The prompt of B items around their prefix vectors (B, P, E), or those that are `given` (bool (B, P)).
        `captions`: those retrieved for each. `hints`: the words given with each."""
        count, sides = len(prefix), []
        words = [*zip(captions or [()] * count, hints or [""] * count, strict=True)]
        for side, bare in zip(self.sides, self._bare, strict=True):
            if _PLACES.search(side):
                sides.append(self._tokens([filled(side, self._joined(found), hint) for found, hint in words]))
            else:
                sides.append([bare] * count)
        return Lead.between(prefix, sides[0], sides[1], lm, given)

    def longest(self, captions: Sequence[str], count: int) -> int:
        """The tokens of a prompt that holds `count` times the longest of `captions`; of the bare one without any."""
        if not captions:
            return sum(map(len, self._bare))
        longest = max(zip(map(len, self._tokens(captions)), captions, strict=True))[1]
        return sum(map(len, self._tokens([filled(side, self._joined([longest] * count), "") for side in self.sides])))

    def hint_tokens(self, hint: str) -> int:
        """How many tokens `hint` adds to the bare prompt."""
        whole = self._tokens([filled(side, "", hint) for side in self.sides])
        return sum(map(len, whole)) - sum(map(len, self._bare))

    def _joined(self, captions: Sequence[str]) -> str:
        return "".join(f"{caption}{self.separator}" for caption in captions)

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        encoded = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)
        return [list(ids) for ids in encoded["input_ids"]]
