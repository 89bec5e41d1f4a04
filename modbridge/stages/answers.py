"""What judges answered, kept beside the stages' results: no question is asked twice, whatever is scored with it.

A folder for each judge, `answers/<key>`, holds one line an answer. It outlives a kill, and a change of the other
metrics or of the captioner; `modbridge cache --clear answers` empties it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from modbridge.assembly.session import Session
from modbridge.errors import SetupError
from modbridge.interfaces.component import Component
from modbridge.interfaces.judge import Judge
from modbridge.interfaces.metric import Metric
from modbridge.store.keys import stable_hash

ANSWERS = "answers"
FILE = "answers.jsonl"


class AnswerFile:
    """One judge's answers, by their questions' digests. A line that a kill broke off, or that is no answer for another
    reason, is passed over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def known(self) -> dict[str, str]:
        found = {}
        text = self.path.read_text(encoding="ascii", errors="replace") if self.path.is_file() else ""
        for line in text.splitlines():
            with suppress(ValueError):
                match json.loads(line):
                    case [str(digest), str(answer)]:
                        found[digest] = answer
        return found

    def keep(self, answers: dict[str, str]) -> None:
        # JSON escapes line breaks, and all but ASCII: a line is an answer.
        lines = "".join(json.dumps([digest, answer]) + "\n" for digest, answer in answers.items()).encode("ascii")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(end - 1, 0))
                torn = file.read() not in (b"", b"\n")
                file.write(b"\n" + lines if torn else lines)
        except OSError as error:
            raise SetupError(f"answers cannot be kept in {self.path}: {error.strerror or error}.") from error


@contextmanager
def attended(session: Session, metrics: Iterable[Metric[Any]]) -> Iterator[None]:
    """While it lasts, the judges inside these metrics keep their answers, and show how far they are."""
    judges = {id(judge): judge for metric in metrics for judge in _judges(metric.parts.values())}
    with ExitStack() as stack:
        for judge in judges.values():
            key = stable_hash([judge.config.key_fields(), session.revisions(judge.config, "judge")])
            file = AnswerFile(session.cache.root / ANSWERS / key / FILE)
            stack.enter_context(judge.attended(file, session.talk.progress))
        yield


def _judges(parts: Iterable[Component[Any]]) -> Iterator[Judge[Any]]:
    for part in parts:
        if isinstance(part, Judge):
            yield part
        yield from _judges(part.context.parts.values())
