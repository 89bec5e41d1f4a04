"""How captions become words. Scores under different tokenizers are not comparable, so each has a name."""

from __future__ import annotations

import re
from collections.abc import Sequence

from modbridge_metrics.config import Tokenizer
from modbridge_metrics.environment import PTB_FILES, bundle
from modbridge_metrics.java import JavaFailed, run_java

NAMES: dict[Tokenizer, str] = {
    "simple": "simple (modbridge)",
    "ptb": "PTB (Stanford CoreNLP 3.4.1, as pycocoevalcap)",
    "whitespace": "whitespace",
}

# pycocoevalcap's list. The brackets never match, since the tokenizer writes them in lower case ("-lrb-"); kept so,
# because published numbers are computed so.
PTB_PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)

_QUOTES = str.maketrans("‘’", "''")
_BREAKS = re.compile(r"[\"`“”()\[\]{}?!;…–—]|''|--+|\.\.+|(?<!\d)[,:]|[,:](?!\d)")
_CLITIC = re.compile(r"(?<=\w)('(?:s|re|ve|ll|d|m)|n't)(?!\w)")
_CLITICS = frozenset(["'s", "'re", "'ve", "'ll", "'d", "'m"])


def tokenize(texts: Sequence[str], tokenizer: Tokenizer) -> list[str]:
    """Each text as words with one blank between; "" for a text without words. Order and number are kept.

    Raises JavaFailed if the ptb tokenizer fails.
    """
    if tokenizer == "simple":
        return [" ".join(simple_words(text)) for text in texts]
    if tokenizer == "whitespace":
        return [" ".join(text.split()) for text in texts]
    return ptb(texts)


def simple_words(text: str) -> list[str]:
    """The words of the "simple" tokenizer (ours).

    Lower case; the marks '' ' `` ` brackets . ? ! , : - -- ... ; and double quotes go, except inside a word
    ("black-and-white", "3.5", "10:30"); clitics stand apart as in PTB ("it 's", "does n't"). Of 29,885 COCO and
    AudioCaps captions it differs from "ptb" on 0.2 %, mostly abbreviations: it drops the last stop of "p.m.".
    """
    text = _BREAKS.sub(" ", text.lower().translate(_QUOTES))
    words = (word.rstrip("-.'") for word in _CLITIC.sub(r" \1", text).split())
    words = (word if word in _CLITICS else word.lstrip("-.'") for word in words)
    return [word for word in words if word]


def ptb(texts: Sequence[str]) -> list[str]:
    """Stanford's PTBTokenizer as pycocoevalcap calls it: lower case, its punctuation list removed.

    Run here, not through pycocoevalcap's class, which writes into its own installed folder and pairs captions with
    output lines without counting them. White space of any kind inside a caption counts as one blank.
    """
    flat = [" ".join(text.split()) for text in texts]
    spoken = [text for text in flat if text]
    if not spoken:
        return flat
    folder = bundle()
    assert folder is not None, "callers ask config.missing() first"
    arguments = ["-cp", str(folder / PTB_FILES[0]), "edu.stanford.nlp.process.PTBTokenizer"]
    output = run_java(
        "the ptb tokenizer", [*arguments, "-preserveLines", "-lowerCase"], folder, "\n".join(spoken) + "\n"
    )
    lines = output.removesuffix("\n").split("\n")
    if len(lines) != len(spoken):
        raise JavaFailed(f"the ptb tokenizer: {len(spoken)} captions went in, {len(lines)} lines came out.")
    kept = (" ".join(w for w in line.split(" ") if w and w not in PTB_PUNCTUATION) for line in lines)
    return [next(kept) if text else "" for text in flat]
