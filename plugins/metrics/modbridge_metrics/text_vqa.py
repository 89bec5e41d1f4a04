"""Text-only visual question answering: what a reader of captions knows of the images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeGuard

from modbridge.errors import DataError
from modbridge.interfaces import Decoded, Judge, Metric, Question, Reference, Score
from modbridge_metrics.caption import check_items
from modbridge_metrics.json_lines import json_lines
from modbridge_metrics.judge_config import VQA_PROMPT, TextVqaConfig
from modbridge_metrics.vqa_answers import ENOUGH, accuracy


@dataclass(frozen=True)
class Asked:
    """A question on an item, and what people answered."""

    key: str
    question: str
    answers: tuple[str, ...]


class TextVqa(Metric[TextVqaConfig]):
    """VQA accuracy of a judge that reads an item's caption and nothing else, the mean over all questions on the items
    that were captioned. An item's score is the mean over its own; one without questions has none, and the note counts
    them. Of an answer the first line counts.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """Raises DataError for files that cannot be read and where no question is on any of the items."""
        check_items(predictions, references)
        problem, column = self.config.missing(), self.config.column
        if problem:
            return {column: Score(None, note=problem)}
        rows = {one.key: row for row, one in enumerate(predictions)}
        every = read_questions(self.config.questions)
        asked = [one for one in every if one.key in rows]
        if not asked:
            raise DataError(
                f"none of the {len(every)} questions of {self.config.questions} is on one of the items: the first is "
                f"on {every[0].key!r}, the first item is {predictions[0].key!r}. Give questions on the test items, by "
                f"their keys as predictions.jsonl has them."
            )
        judge = self.parts["judge"]
        assert isinstance(judge, Judge)
        captions = [predictions[rows[one.key]].text for one in asked]
        answers = judge.ask(_Questions(self._head(), captions, [one.question for one in asked]))
        found: list[list[float]] = [[] for _ in predictions]
        for one, answer in zip(asked, answers, strict=True):
            found[rows[one.key]].append(accuracy(first_line(answer), one.answers))
        items = tuple(fmean(each) if each else math.nan for each in found)
        return {column: Score(fmean([a for each in found for a in each]), items, note=_note(found, len(every)))}

    def _head(self) -> str:
        """What stands before the caption and the question: what is to be done, and the examples."""
        examples = [] if self.config.examples is None else read_examples(self.config.examples)
        shots = self.config.shots
        if shots is not None and shots > len(examples):
            raise DataError(
                f"{self.config.examples} holds {len(examples)} examples, and shots asks for {shots}; give more, or "
                f"lower shots."
            )
        blocks = [self.config.prompt or VQA_PROMPT]
        blocks += [f"{shown(caption, question)} {answer}" for caption, question, answer in examples[:shots]]
        return "".join(f"{block}\n\n" for block in blocks)


@dataclass(frozen=True)
class _Questions(Sequence[Question]):
    """A question on each caption, written when it is asked for: with the examples before each, the 214,000 of VQA v2
    take gigabytes."""

    head: str
    captions: Sequence[str]
    questions: Sequence[str]

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Question(self.head + shown(self.captions[index], self.questions[index]))


def shown(caption: str, question: str) -> str:
    """A question with the caption that it is to be answered by, up to where the answer stands."""
    return f"Caption: {' '.join(caption.split())}\nQuestion: {' '.join(question.split())}\nAnswer:"


def first_line(answer: str) -> str:
    """What counts of an answer: a language model without end goes on with a question of its own."""
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    return lines[0].removeprefix("Answer:").strip() if lines else ""


def read_questions(path: str) -> list[Asked]:
    """The questions of a file. Raises DataError for a line of another form."""
    found = []
    for where, line in json_lines(path):
        key, question, answers = line.get("key"), line.get("question"), line.get("answers", [])
        texts = isinstance(answers, list) and answers and all(isinstance(one, str) for one in answers)
        if not (_a_text(key) and _a_text(question) and texts):
            raise DataError(
                f'{where}: expected {{"key": "an item", "question": "...", "answers": ["...", ...]}}, found '
                f"{str(line)[:120]}. Correct the line."
            )
        if len(answers) != 1 and len(answers) <= ENOUGH:
            raise DataError(
                f"{where}: found {len(answers)} answers; expected one that is right, or those of more than {ENOUGH} "
                f"people (VQA has ten), since {ENOUGH} that agree make an answer right."
            )
        found.append(Asked(key, question, tuple(answers)))
    return found


def read_examples(path: str) -> list[tuple[str, str, str]]:
    """(caption, question, answer) of each line of a file. Raises DataError for a line of another form."""
    found = []
    for where, line in json_lines(path):
        caption, question, answer = (line.get(name) for name in ("caption", "question", "answer"))
        if not (_a_text(caption) and _a_text(question) and _a_text(answer)):
            raise DataError(
                f'{where}: expected {{"caption": "...", "question": "...", "answer": "..."}}, found '
                f"{str(line)[:120]}. Correct the line."
            )
        found.append((caption, question, answer))
    return found


def _a_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _note(found: Sequence[Sequence[float]], questions: int) -> str:
    asked, without = sum(map(len, found)), sum(not each for each in found)
    told = [f"{asked} questions"]
    told += [f"{questions - asked} of other items left out"] if questions > asked else []
    told += [f"no question on {without} of {len(found)} items"] if without else []
    return ", ".join(told)
