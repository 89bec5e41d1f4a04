"""A word-level tokenizer in transformers' format, its words learned from captions: what a small text encoder reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from modbridge.words import FIRST_WORD, PAD, START, UNKNOWN, WordTokenizer

_NAMES = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<start>", "eos_token": "<end>"}
_WORD = r"[^\W_]+(?:['’-][^\W_]+)*"  # modbridge.words reads the same


def words_tokenizer(captions: Iterable[str], min_count: int, length: int) -> Any:
    """A tokenizer of the words that stand `min_count` times or more in `captions`: start, words, end, padding up to
    `length`. The end has the highest id, where CLIP's own has it too."""
    learnt = WordTokenizer.learn(captions, min_count, length)
    vocabulary = {_NAMES["pad_token"]: PAD, _NAMES["unk_token"]: UNKNOWN, _NAMES["bos_token"]: START}
    vocabulary |= {word: FIRST_WORD + number for number, word in enumerate(learnt.words)}
    vocabulary[_NAMES["eos_token"]] = learnt.end
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=_NAMES["unk_token"]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), behavior="removed", invert=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{_NAMES['bos_token']} $A {_NAMES['eos_token']}",
        special_tokens=[(_NAMES["bos_token"], START), (_NAMES["eos_token"], learnt.end)],
    )
    wrapped: Any = PreTrainedTokenizerFast
    return wrapped(tokenizer_object=tokenizer, model_max_length=length, **_NAMES)
