"""A decoder that writes nothing of its own: it repeats the captions of a file, so that those of any captioner, however
they were made, are scored as those of a run are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from modbridge.builtin.jsonl import read_lines, refuse, text_of
from modbridge.builtin.recorded_config import RecordedConfig
from modbridge.errors import DataError
from modbridge.interfaces import BuildContext, Decoded, Decoder, Fitting, TextVectors


class RecordedDecoder(Decoder[RecordedConfig]):
    """`captions`: the text of each item of the file, by its key.

    Raises DataError for a file that cannot be read, with every bad line as FILE:LINE.
    """

    def __init__(self, config: RecordedConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.captions = read_captions(Path(config.path).expanduser())

    @property
    def batch_size(self) -> int:
        """Many: it is dictionary work, and a message counts missing captions over a batch."""
        return 512

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Nothing to learn."""

    def decode_batch(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        keys: Sequence[str],
        seed: int,
        mask: torch.Tensor | None = None,
    ) -> list[Decoded]:
        """Raises DataError for items that the file has no caption of."""
        missing = [key for key in keys if key not in self.captions]
        if missing:
            raise DataError(
                f"{self.config.path} has no caption of {len(missing)} of {len(keys)} items that were asked for at "
                f"once: the first is {missing[0]!r}. It has {len(self.captions)} captions, the first of "
                f"{next(iter(self.captions))!r}. Give a line for each test item, by its key as predictions.jsonl has "
                f'it; one that was not captioned has "text": "".'
            )
        return [Decoded(key, self.captions[key]) for key in keys]


def read_captions(path: Path) -> dict[str, str]:
    """The captions of a file, by their items' keys, in its order. Raises DataError with every bad line."""
    found: dict[str, str] = {}
    places: dict[str, str] = {}
    problems = []
    for place, row in read_lines(path):
        try:
            key, text = text_of(row, "key"), row.get("text")
            if not isinstance(text, str):
                told = f"holds {text!r:.80}" if "text" in row else "is missing"
                raise ValueError(f"the field 'text' {told}; expected the item's caption")
            if key in found:
                raise ValueError(f"a second caption of {key!r}, after {places[key]}; expected one of each item")
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        found[key], places[key] = text, place
    refuse(problems)
    if not found:
        raise DataError(f'{path} holds no captions; expected {{"key": "an item", "text": "its caption"}} a line.')
    return found
