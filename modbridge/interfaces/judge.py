"""Judge: a model that answers questions in words, by which metrics judge what decoders say."""

from __future__ import annotations

import hashlib
import warnings
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from PIL import Image

from modbridge.config.kinds import JudgeConfig
from modbridge.errors import ConfigError, DataError, PluginError, Problem, SetupError
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.fitting import Progress
from modbridge.media import load_image
from modbridge.store.keys import file_hash, stable_hash

JudgeConfigT = TypeVar("JudgeConfigT", bound=JudgeConfig)


@dataclass(frozen=True)
class Question:
    """What a judge is asked. `text`: all that it reads. `image`: what it is shown beside it, the path of a file, a PIL
    image or an array, uint8 (H, W, 3); None: nothing."""

    text: str
    image: Any = None

    def digest(self) -> str:
        """Digits that tell questions apart by what they say and show. Raises DataError for an image that cannot be
        read."""
        if self.image is None:
            return stable_hash(self.text)
        if isinstance(self.image, str | Path):
            try:
                return stable_hash([self.text, file_hash(Path(self.image))])
            except OSError as error:
                raise DataError(f"the image {self.image} cannot be read: {error.strerror or error}.") from error
        # As it is seen: the palette and the orientation of a PIL image stand beside its pixels.
        pixels = np.asarray(load_image(self.image) if isinstance(self.image, Image.Image) else self.image)
        told = [str(getattr(self.image, "mode", "")), str(pixels.dtype), list(pixels.shape)]
        return stable_hash([self.text, *told, hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()])


class Answers(Protocol):
    """Answers that were given before, by their questions' digests; and where new ones are kept."""

    def known(self) -> dict[str, str]: ...

    def keep(self, answers: dict[str, str]) -> None: ...


Shown = Callable[[str, int, int], AbstractContextManager[Progress]]
"""What shows progress: label, how many in all, how many of them before."""


class Judge(Component[JudgeConfigT]):
    """Answers questions. Authors write `answer`; metrics call `ask`.

    It is a part of the metrics that ask it, is built once for all of them, and stands at no port.
    """

    def __init__(self, config: JudgeConfigT, context: BuildContext) -> None:
        super().__init__(config, context)
        self._answers: Answers | None = None
        self._shown: Shown | None = None
        self._most: int | None = None

    @abstractmethod
    def answer(self, questions: Sequence[Question]) -> list[str]:
        """An answer to each of N questions, in their order. It depends on its question alone: not on the others, nor
        on anything that is drawn."""
        ...

    @property
    def batch_size(self) -> int:
        """How many questions are given to `answer` at once."""
        return int(getattr(self.config, "batch_size", 16))

    @contextmanager
    def attended(self, answers: Answers, shown: Shown) -> Iterator[None]:
        """While it lasts, `ask` takes and keeps `answers`, and shows how far it is."""
        before = self._answers, self._shown
        self._answers, self._shown = answers, shown
        try:
            yield
        finally:
            self._answers, self._shown = before

    def ask(self, questions: Sequence[Question]) -> list[str]:
        """The answers to N questions, in their order; the same question is asked once. A question is fetched when its
        turn comes, so that a lazy sequence need not hold all their images.

        Raises ConfigError for an image where the config says that it sees none, DataError for a question without words
        and PluginError if `answer` does not give one text for each.
        """
        digests = [self._checked_question(question).digest() for question in questions]
        places = {digest: number for number, digest in reversed(list(enumerate(digests)))}
        known = {} if self._answers is None else self._answers.known()
        found = {digest: known[digest] for digest in places if digest in known}
        left = [digest for digest in dict.fromkeys(digests) if digest not in found]
        showing = nullcontext(None) if self._shown is None else self._shown("judge", len(places), len(found))
        with showing as progress, torch.inference_mode():
            at = 0
            while at < len(left):
                some = left[at : at + min(self._most or self.batch_size, self.batch_size)]
                try:
                    given = self._checked(self.answer([questions[places[digest]] for digest in some]), len(some))
                except torch.OutOfMemoryError as error:
                    self._most = self._fewer(len(some), error)
                    continue
                new = dict(zip(some, given, strict=True))
                if self._answers is not None:
                    self._answers.keep(new)
                found |= new
                at += len(some)
                if progress is not None:
                    progress.advance(len(some))
        return [found[digest] for digest in digests]

    def _checked_question(self, question: Question) -> Question:
        if not question.text.strip():
            raise DataError(f"the judge {self.config.type!r} was asked a question without words.")
        if question.image is not None and not self.config.sees_images:
            hint = "choose a judge that sees images, or ask without them"
            message = f"the judge {self.config.type!r} sees no images, and was asked about one"
            raise ConfigError([Problem("judge", message, hint=hint)])
        return question

    def _checked(self, found: Any, count: int) -> list[str]:
        if not isinstance(found, list) or not all(isinstance(one, str) for one in found):
            raise PluginError(
                f"the judge {self.config.type!r} answered {found!r:.80}; expected a list of texts, "
                f"one for each question."
            )
        if len(found) != count:
            raise PluginError(
                f"the judge {self.config.type!r} gave {len(found)} answers to {count} questions; expected one for "
                f"each, in their order."
            )
        return found

    def _fewer(self, count: int, error: torch.OutOfMemoryError) -> int:
        if count <= 1:
            raise SetupError(
                f"the device has no memory to answer one question ({str(error).split('. ')[0]}). Use a smaller judge, "
                f"a lower precision where it has one, or another device."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        told = f"{self.config.type}: out of memory on the device; going on with {count // 2} questions at once"
        warnings.warn(told, stacklevel=3)
        return count // 2
