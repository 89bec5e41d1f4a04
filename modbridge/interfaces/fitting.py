"""What a component is given while it is fitted: data, seed, progress, checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch

from modbridge.distributed import World
from modbridge.spaces import Embeddings

if TYPE_CHECKING:
    from modbridge.interfaces.bridge import FitData


class Progress(Protocol):
    """Counts finished steps; shown with rate and time left."""

    def advance(self, count: int = 1, note: str = "") -> None: ...


@dataclass(frozen=True)
class WeightsJudge:
    """Says how good the weights are while a fit goes on, so that the best can be kept.

    `measure()` looks at the component as it is (in evaluation mode, without gradients) and gives a finite number;
    `name` is what it is, for logs. `every`: epochs between two judgements.
    """

    name: str
    measure: Callable[[], float]
    every: float = 1.0
    higher_is_better: bool = False


class Fitting(Protocol):
    """The surroundings of one fit. The core implements it; authors and tests only use it.

    `judge`: what the weights are to be chosen by, to be handed to `modbridge.training.train`; None to keep the last.
    `world`: the processes that do this fit together; `train` sees to them.
    """

    seed: int
    judge: WeightsJudge | None
    world: World

    def progress(self, label: str, total: int, done: int = 0) -> AbstractContextManager[Progress]:
        """Show progress over `total` steps, `done` of them finished before."""
        ...

    def restore(self, name: str) -> dict[str, Any] | None:
        """The last checkpoint saved under `name` by an earlier, interrupted run of the same fit; None at the start."""
        ...

    def checkpoint(self, name: str, state: Callable[[], dict[str, Any]], *, force: bool = False) -> None:
        """Save `state()` (nested dicts and lists of tensors, numbers, strings) if enough time has passed or `force`."""
        ...

    def log(self, **values: float | int | str) -> None:
        """One line of the run's metrics.jsonl. `note`: a sentence that a reader of the table must know, such as that
        fewer samples than dimensions were regularised; it is said at once and stands under every table."""
        ...

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of `texts` (N, D) as the run's encoder gives them, made once; keys are their numbers.

        Raises ConfigError for an encoder that only looks up vectors that were made elsewhere.
        """
        ...

    def fit_part(self, part: Any, clean: Embeddings, observed: Embeddings | None = None) -> None:
        """Fit a nested component on `clean`, or load it if it was fitted on the very same vectors before."""
        ...

    def fit_bridge(self, bridge: Any, data: FitData) -> None:
        """Fit a nested bridge on `data`, or load it if it was fitted on the very same vectors before, or if its
        `weights` are given. Its checkpoints are its own, whatever it calls them."""
        ...

    def fit_decoder(self, decoder: Any, vectors: TextVectors, targets: Sequence[str]) -> None:
        """Fit a nested decoder on this fit's own vectors, with whatever hints, or load it, as `fit_bridge`. It is
        selected by this fit's `judge`."""
        ...


@dataclass(frozen=True)
class Hints:
    """Words given with each vector, for decoders that read words too (a hard prompt).

    `batch(rows, epoch)` -> a text for each row. `words`: texts with every word that a hint may hold, in training or
    later, for tokenizers that learn their words. `longest`: the longest hint of training. `key`: decides all of them
    but `words`.
    """

    batch: Callable[[Sequence[int], int], list[str]]
    words: Sequence[str]
    longest: str
    key: str


@dataclass(frozen=True)
class TextVectors:
    """The vectors a decoder is trained on: text embeddings as the augmenter gives them.

    `batch(rows, epoch)` -> float tensor (len(rows), D) or (len(rows), n, D) on the training device. With fresh noise
    every epoch differs; without, each epoch gives the same. `embeddings` are the clean text vectors. `hints`: words
    given with each of them, if there are any. `mask`: of ragged sequences, and of no others, bool (N, n): row by row
    where what `batch` gives has a token, every epoch.
    """

    embeddings: Embeddings
    batch: Callable[[Sequence[int], int], torch.Tensor]
    hints: Hints | None = None
    mask: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.embeddings)
