"""A word-level vocabulary, learned from captions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from modbridge.errors import ArtefactError, DataError

END, UNKNOWN = "<end>", "<unk>"

# A word keeps its inner apostrophes and hyphens ("don't", "well-known"); every other sign stands alone.
_WORD = r"\w+(?:['’\-]\w+)*|[^\w\s]"


def learn_words(captions: Sequence[str]) -> PreTrainedTokenizerBase:
    """A tokenizer whose vocabulary is every word of `captions`, the most frequent first, beside "<end>" and "<unk>".

    Decoding joins words with single spaces, none before . , ! ? ; and :. Raises DataError if there are no words.
    """
    split = _splitter()
    count: Counter[str] = Counter()
    for caption in captions:
        count.update(word for word, _ in split.pre_tokenize_str(caption))
    if not count:
        raise DataError(f"the {len(captions)} training captions hold no words; expected text to learn from.")
    names = [END, UNKNOWN, *sorted(count, key=lambda word: (-count[word], word))]
    tokenizer = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(Regex(r"^(?![.,!?;:]$)"), " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(tokenizer)


def read_words(path: Path) -> PreTrainedTokenizerBase:
    """The tokenizer that `save_words` wrote. Raises ArtefactError if the file is missing or broken."""
    try:
        return _wrapped(Tokenizer.from_file(str(path)))
    except Exception as error:  # the tokenizers library raises bare Exceptions
        raise ArtefactError(
            f"{path} cannot be read as a tokenizer ({error}); expected the word vocabulary that was saved with the "
            f"decoder. Copy the artefact again, whole, or fit the decoder anew."
        ) from error


def save_words(tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a tokenizer that `learn_words` gave, as tokenizer.json."""
    tokenizer.backend_tokenizer.save(str(path))


def _splitter() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)


def _wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerBase:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, unk_token=UNKNOWN
    )
