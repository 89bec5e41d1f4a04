"""Hints: words given with each vector, which stand in the prompt. What must hold of them before they are read."""

from __future__ import annotations

from collections.abc import Sequence

from modbridge.errors import ConfigError, DataError
from modbridge.interfaces.fitting import Hints
from modbridge_captioning.blocks import HINT, PREFIX
from modbridge_captioning.config import PrefixLmConfig
from modbridge_captioning.lead import Lead

_NO_PLACE = (
    f"hints are given with the vectors, but the prompt of the decoder 'prefix_lm' has no place for them: put {HINT} "
    f"into prompt.template."
)


def require_hints(config: PrefixLmConfig, hints: Hints | None) -> None:
    """Raise ConfigError unless there are hints exactly where the prompt has a place for them."""
    if hints is not None and not config.reads_hints:
        raise ConfigError(_NO_PLACE)
    if hints is None and config.reads_hints:
        raise ConfigError(
            f"prompt.template has a place for {HINT}, but no hints are given with the vectors: make this decoder the "
            f"writer of one that gives them (viecap), or take {HINT} out of prompt.template."
        )


def require_one_each(config: PrefixLmConfig, hints: Sequence[str], keys: Sequence[str]) -> None:
    """Raise ConfigError if the prompt has no place for hints, DataError unless there is one for each key."""
    if not config.reads_hints:
        raise ConfigError(_NO_PLACE)
    if len(hints) != len(keys):
        raise DataError(f"{len(hints)} hints for {len(keys)} vectors; expected one each.")


def require_training_room(hint: str, tokens: int, before: int, caption: int, positions: int) -> None:
    """Raise ConfigError unless the longest hint, of `tokens`, has room in so many positions: behind a prefix and
    prompt of `before` tokens, and before the longest caption."""
    needed = before + tokens + caption
    if needed > positions:
        cut = positions - before - tokens
        raise ConfigError(
            f"the hint {_brief(hint)} has {tokens} tokens; with a prefix and prompt of {before} and captions of up to "
            f"{caption} it needs {needed} positions, and the language model has {positions}. Give shorter hints (fewer "
            f"names in each)" + (f", or set max_tokens to at most {cut} to cut captions." if cut > 0 else ".")
        )


def require_room(
    lead: Lead, hints: Sequence[str], keys: Sequence[str], positions: int | None, following: int, name: str
) -> None:
    """Raise DataError, naming the hint, unless every row of `lead` holds something, and the longest leaves room for the
    tokens that follow (`name`: the field that bounds them)."""
    length = lead.embeddings.shape[1]
    # Only an empty hint leaves a row empty; looking at the mask would make every step wait for the device.
    if not all(hint.strip() for hint in hints) and not bool(lead.mask.any(1).all()):
        row = int(lead.mask.sum(1).argmin())
        raise DataError(
            f"the hint of {keys[row]!r} is empty, and prompt.template holds nothing else, so that a caption has "
            f"nothing to follow; give every item a hint, or put words or {PREFIX} into prompt.template."
        )
    if positions is not None and length + following > positions:
        row, cut = int(lead.mask.sum(1).argmax()), positions - length
        raise DataError(
            f"the hint of {keys[row]!r} ({_brief(hints[row])}) is too long: prefix and prompt have {length} tokens "
            f"with it, and {following} more need {length + following} positions; the language model has {positions}. "
            f"Give shorter hints (fewer names in each)" + (f", or set {name} to at most {cut}." if cut > 0 else ".")
        )


def _brief(hint: str) -> str:
    return repr(hint if len(hint) <= 60 else f"{hint[:57]}...")
