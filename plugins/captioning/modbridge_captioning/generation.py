"""Writing captions: the search, what ends it, and how likely its captions are."""

from __future__ import annotations

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modbridge.errors import ConfigError
from modbridge_captioning.blocks import Generate
from modbridge_captioning.lead import Lead, token_losses
from modbridge_captioning.targets import IGNORED, CaptionBatch

_SCORED_AT_ONCE = 16  # rows of logits over the whole vocabulary held at once (16 x 39 x 50257 float32: 125 MB)


def ends_of(tokenizer: PreTrainedTokenizerBase, stop: str | None, name: str) -> list[int]:
    """The tokens that end a caption: end-of-text, and `stop` with and without a space before it.

    Raises ConfigError, naming the vocabulary by `name`, for a `stop` that is no token.
    """
    ends = {int(tokenizer.eos_token_id)}
    if stop is not None:
        encoded = tokenizer([stop, f" {stop}"], add_special_tokens=False)["input_ids"]
        single = {ids[0] for ids in encoded if len(ids) == 1}
        # SentencePiece puts a space before "." where it stands alone, but not behind a word.
        single |= {tokenizer.convert_tokens_to_ids(stop)}
        single -= {tokenizer.unk_token_id, None}
        if not single:
            raise ConfigError(
                f"generate.stop {stop!r} is not one token of the vocabulary of {name}, so it would never stop a "
                f"caption; expected one token such as '.', or null."
            )
        ends |= single
    return sorted(ends)


def write(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lead: Lead, search: Generate, ends: list[int]
) -> list[tuple[str, float]]:
    """Captions behind `lead`, each with its log-probability, its end included, divided by its number of tokens (to the
    power `length_penalty` in beam search)."""
    beams = {"num_beams": search.num_beams, "length_penalty": search.length_penalty} if search.num_beams > 1 else {}
    generate: Any = lm.generate
    ids = generate(
        inputs_embeds=lead.embeddings,
        attention_mask=lead.mask,
        generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=search.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=tokenizer.eos_token_id,
            **beams,
        ),
    )
    final = torch.isin(ids, torch.tensor(ends, device=ids.device))
    lengths = torch.where(final.any(1), final.int().argmax(1) + 1, ids.shape[1])
    there = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    written = CaptionBatch(ids[:, :-1], there[:, :-1].long(), ids.masked_fill(~there, IGNORED))
    losses = [
        token_losses(lm, lead.rows(i, i + _SCORED_AT_ONCE), written.rows(i, i + _SCORED_AT_ONCE)).sum(1)
        for i in range(0, len(ids), _SCORED_AT_ONCE)
    ]
    scores = (-torch.cat(losses) / lengths**search.length_penalty).tolist()
    texts = []
    for row, length in zip(ids.tolist(), lengths.tolist(), strict=True):
        words = [token for token in row[:length] if token != tokenizer.eos_token_id]
        text = tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(" ".join(str(text).split()))
    return list(zip(texts, scores, strict=True))
