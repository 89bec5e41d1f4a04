"""A judge by rules, for tests: it answers what colour it is from the caption alone, and rates by counting words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from modbridge.config.kinds import JudgeConfig
from modbridge.interfaces import Judge, Question
from modbridge.plugins import ComponentSpec, hookimpl


class RuleConfig(JudgeConfig):
    """Rules."""

    images: bool = False
    """Whether it sees images."""

    @property
    def sees_images(self) -> bool:
        return self.images


class Rule(Judge[RuleConfig]):
    asked: ClassVar[list[Question]] = []
    said: ClassVar[dict[str, str]] = {}

    def answer(self, questions: Sequence[Question]) -> list[str]:
        Rule.asked += questions
        return [self._one(question) for question in questions]

    def _one(self, question: Question) -> str:
        for part, answer in Rule.said.items():
            if part in question.text:
                return answer
        if question.text.endswith("Answer:"):
            caption = question.text.rpartition("Caption:")[2].partition("\n")[0]
            colours = re.findall("red|green|blue", caption)
            return f" {colours[0].title()}.\nCaption: another" if colours else "I cannot say"
        words = len(question.text.partition("rated:\n")[2].partition("\n")[0].split())
        bright = 6 if question.image is not None and np.asarray(question.image).mean() > 127 else 3
        return f"coverage: {min(words, 6)}\n**Hallucination:** {bright}/6\nlayout = 1.5"


@hookimpl
def modbridge_components(register: Any) -> None:
    code = {"config": f"{__name__}:RuleConfig", "impl": f"{__name__}:Rule"}
    register(ComponentSpec(kind="judge", name="rule", summary="rules", example={"type": "rule"}, **code))
