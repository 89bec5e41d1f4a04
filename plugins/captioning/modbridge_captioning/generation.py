"""Writing captions: the search, what ends it, and how likely its captions are."""

from __future__ import annotations

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from modbridge.errors import ConfigError
from modbridge_captioning.blocks import Generate
from modbridge_captioning.lead import Lead
from modbridge_captioning.reading import keeps_rows_apart
from modbridge_captioning.search import Search
from modbridge_captioning.searched import searched


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
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lead: Lead, search: Generate, ends: list[int], at_once: int
) -> list[tuple[str, float]]:
    """Captions behind `lead`, each with its log-probability, its end included, divided by its number of tokens (to the
    power `length_penalty` in beam search). At most `at_once` are written together, those with prompts of like length,
    so that little is padded."""
    rows, scores = written(lm, tokenizer, lead, search, ends, at_once)
    texts = []
    for row in rows:
        words = [token for token in row if token != tokenizer.eos_token_id]
        text = tokenizer.decode(words, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        texts.append(" ".join(str(text).split()))
    return list(zip(texts, scores, strict=True))


def written(
    lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, lead: Lead, search: Generate, ends: list[int], at_once: int
) -> tuple[list[list[int]], list[float]]:
    """As `write`: the tokens behind each row of `lead`, their end included, and how likely they are."""
    if keeps_rows_apart(lm):
        found = Search(lm, lead, ends, search.max_new_tokens, search.num_beams, search.length_penalty)
        found.write(at_once)
        tokens, lengths, scores = found.tokens, found.lengths, found.scores
    else:
        beams = {"num_beams": search.num_beams, "length_penalty": search.length_penalty} if search.num_beams > 1 else {}
        config = GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=search.max_new_tokens,
            do_sample=False,
            use_cache=True,
            eos_token_id=ends,
            pad_token_id=tokenizer.eos_token_id,
            **beams,
        )
        tokens, lengths, logs = searched(lm, lead, config, at_once)
        scores = logs / lengths**search.length_penalty
    rows = [row[:length] for row, length in zip(tokens.tolist(), lengths.tolist(), strict=True)]
    return rows, scores.tolist()
