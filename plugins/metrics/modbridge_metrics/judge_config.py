"""Configs of the metrics that ask a judge, and what they ask."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from modbridge.config.component import Part, Purpose
from modbridge.config.kinds import JudgeConfig, MetricConfig
from modbridge.store.keys import file_hash

AXES = ("coverage", "hallucination", "layout")
HIGHEST = 6

# Ours, as are the words of the next: the papers do not print theirs.
VQA_PROMPT = "Answer the question by its caption alone, in one word or as few as possible."
RATING_PROMPT = """\
Rate how well a caption describes an image, on three scales. Each rating is a whole number from 0 (worst) to 6 (best).

coverage: how much of what matters in the image the caption mentions.
hallucination: 6 if all that the caption says is true of the image, 0 if hardly anything is.
layout: how well the caption tells where things are, and how they stand to each other.

{view}

{references}

The caption to be rated:
{caption}

Answer with these three lines and nothing else:
coverage: <0 to 6>
hallucination: <0 to 6>
layout: <0 to 6>"""
SEEN = "You see the image. Here is also what people said of it:"
UNSEEN = "You do not see the image; judge by what people said of it:"


def _a_column(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ValueError("expected a name in snake_case, such as vqa_zero_shot")
    return name


def _lacking(what: str, path: str | None) -> str | None:
    if path is None or Path(path).expanduser().is_file():
        return None
    return f"the file of {what} {path} is not there; give the path of one"


class AskingConfig(MetricConfig):
    """What metrics that ask a judge share.

    `judge`: whom they ask, any judge by its name: `lm_judge`, `chat_judge`.
    """

    judge: Annotated[JudgeConfig, Part("judge")]

    def missing(self) -> str | None:
        return self.judge.missing()


class TextVqaConfig(AskingConfig):
    """Questions on an image, answered by who reads its caption and sees nothing else (VLV, section 4.3): what of the
    image the caption tells. The figure is VQA accuracy, a fraction.

    `questions`: a file with a JSON object a line, `{"key": item, "question": text, "answers": [texts]}`, with all that
    people answered (ten in VQA v2 and OK-VQA), or one right answer.
    `examples`: a file with a JSON object a line, `{"caption": text, "question": text, "answer": text}`, which are
    shown first (few-shot); None shows none (zero-shot). `shots`: how many of them, from the first on; None is all.
    `prompt`: what stands before all; None is our own.
    `column`: what the figure is called, where several stand in one table.
    """

    type: Literal["text_vqa"] = "text_vqa"
    questions: str
    examples: str | None = None
    shots: Annotated[int, Field(ge=1)] | None = None
    prompt: str | None = None
    column: Annotated[str, AfterValidator(_a_column)] = "vqa"

    @model_validator(mode="after")
    def _shots_of_examples(self) -> TextVqaConfig:
        if self.shots is not None and self.examples is None:
            raise ValueError(f"shots is {self.shots}, and there are no examples to show: give their file, or no shots")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    def missing(self) -> str | None:
        return _lacking("questions", self.questions) or _lacking("examples", self.examples) or super().missing()

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but files count by what stands in them."""
        fields = super().key_fields(*purposes)
        for name in ("questions", "examples"):
            path = Path(fields[name] or "").expanduser()
            if fields[name] and path.is_file():
                fields[name] = file_hash(path)
        return fields


class JudgedConfig(AskingConfig):
    """How well captions describe their images, as a judge rates them from 0 to 6 (VLV's "arena"): how much they cover,
    how little they make up, how well they tell the layout; and the mean of the three. Each is higher for the better.

    A judge that sees images is shown the item's own; all are shown the item's references.
    `items`: how many of the items are rated, the same for every captioner; None is all. (The paper's are 200.)
    `prompt`: the question, in which {view}, {references} and {caption} are replaced; None is our own. The answer must
    hold a line for each scale, "coverage: 4".
    """

    type: Literal["judged"] = "judged"
    items: Annotated[int, Field(ge=1)] | None = None
    prompt: str | None = None

    @model_validator(mode="after")
    def _a_prompt_with_the_caption(self) -> JudgedConfig:
        if self.prompt is not None and "{caption}" not in self.prompt:
            raise ValueError("prompt must hold {caption}, where the caption that is rated is put")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        return (*(f"judged_{axis}" for axis in AXES), "judged_mean")

    @property
    def reads_media(self) -> bool:
        return self.judge.sees_images
