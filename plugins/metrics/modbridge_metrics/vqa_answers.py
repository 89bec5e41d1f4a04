"""When an answer to a visual question is right, as the VQA evaluation has it (Antol et al. 2015; VQA v2).

The public evaluation script leaves answers as they are where all ten people said the same; here they are normalised
always, so that "Yes." agrees with ten times "yes".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import fmean

ENOUGH = 3  # people who agree make an answer wholly right

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_NUMBERS = {
    "none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7",
    "eight": "8", "nine": "9", "ten": "10",
}  # fmt: skip
_ARTICLES = frozenset(["a", "an", "the"])
# The evaluation's list: each of them is recognised with one of its apostrophes left out.
_CONTRACTIONS = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've
there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's
what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've
wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""
_WHOLE = {
    word[:at] + word[at + 1 :]: word for word in _CONTRACTIONS.split() for at, c in enumerate(word) if c == "'"
} | {"somebody'd": "somebodyd"}  # its own


def normalised(answer: str) -> str:
    """An answer as it is compared: lower case, without marks and articles, numbers up to ten as digits, contractions
    with their apostrophes. A mark goes where it stands beside a blank (or a number has commas), else it is a blank."""
    text = " ".join(re.split(r"[\n\t]", answer)).strip()
    joined = re.search(r"\d,\d", text) is not None
    found = text
    for mark in _MARKS:
        found = found.replace(mark, "" if joined or f"{mark} " in text or f" {mark}" in text else " ")
    found = re.sub(r"\.(?!\d)", "", found)
    words = (_NUMBERS.get(word, word) for word in found.lower().split())
    return " ".join(_WHOLE.get(word, word) for word in words if word not in _ARTICLES)


def accuracy(answer: str, people: Sequence[str]) -> float:
    """How right an answer is, 0 to 1, given what people said: the mean of min(agreeing / 3, 1) over all choices of all
    people but one. Where there is one right answer, whether it is that."""
    said, known = normalised(answer), [normalised(one) for one in people]
    if len(known) == 1:
        return float(said == known[0])
    agreeing = known.count(said)
    return fmean(min((agreeing - (one == said)) / ENOUGH, 1.0) for one in known)
