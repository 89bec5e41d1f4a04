"""Pages as scripts: the code blocks of a page, and the commands in them.

A comment above a block, which readers do not see, says what a test does with it:

    <!-- file: my.yaml -->          it is saved under this name
    <!-- not run: needs COCO -->    it is only parsed, and why
    <!-- prints -->                 the lines are among those that the commands before it printed ("..." stands for any)

and one anywhere on the page what holds for all of it:

    <!-- with: --profile smoke -->                   added to every `demo`, `run` and `compare`, so that tests are quick
    <!-- before: modbridge demo --profile smoke -->  run first: what an earlier page left behind
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

_BLOCK = re.compile(r"(?:^ *<!-- ([^>]*) -->\n+)?^( *)```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_PAGE_MARK = re.compile(r"^<!-- (with|before): ([^>]*) -->$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """One code block: its language, its text, and the mark above it ("" if there is none)."""

    language: str
    text: str
    mark: str = ""

    def marked(self, word: str) -> str | None:
        """What the mark says behind `word:`; None if it is another one."""
        found, _, value = self.mark.partition(":")
        return value.strip() if found.strip() == word else None


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page, in order."""
    return [
        Block(language, re.sub(rf"^{indent}", "", text, flags=re.MULTILINE), mark)
        for mark, indent, language, text in _BLOCK.findall(page.read_text("utf-8"))
    ]


def page_marks(page: Path, word: str) -> list[str]:
    """What the page's own marks of this word say."""
    return [value.strip() for found, value in _PAGE_MARK.findall(page.read_text("utf-8")) if found == word]


def lines_of(text: str) -> list[str]:
    """The lines of a shell block, with those joined that end in a backslash; comments and empty ones left out."""
    joined = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in joined if line.strip() and not line.lstrip().startswith("#")]


def commands(text: str) -> Iterator[list[str]]:
    """The modbridge commands of a shell block, from the verb on."""
    for line in lines_of(text):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&>")
        lexer.whitespace_split = True
        lexer.commenters = "#"
        words: list[str] = []
        for before, token in pairwise([";", *lexer, ";"]):
            if not set(token) <= set("|;&>"):
                words += [] if before == ">" else [token]
                continue
            if token == ">":
                continue
            while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] in ("uv", "run")):
                words.pop(0)
            if words and words[0] == "modbridge":
                yield words[1:]
            words = []
