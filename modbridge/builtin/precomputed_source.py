"""The items of a file of stored vectors, with captions from a .jsonl file or none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modbridge.builtin.items import Item, ItemSource, few, window
from modbridge.builtin.jsonl import captions_of, read_lines, refuse, text_of
from modbridge.builtin.precomputed_config import PrecomputedSourceConfig, file_hash
from modbridge.builtin.vector_file import read_keys
from modbridge.errors import DataError

Line = tuple[tuple[str, ...], dict[str, Any]]


class PrecomputedSource(ItemSource[PrecomputedSourceConfig]):
    """The items in the order of their vectors. The medium of an item is its id, which the encoder looks up.

    Without a captions file an item has as many empty texts as text vectors: enough to fit and judge bridges. Raises
    DataError for items without captions, and where an item has more text vectors than captions.
    """

    def __init__(self, config: PrecomputedSourceConfig) -> None:
        path = Path(config.file).expanduser()
        where = f"{path} ({config.modality})"
        keys = list(window(read_keys(path, config.vectors[config.modality]), config, where))
        text = config.vectors.get("text")
        self._vectors = Counter(read_keys(path, text) if text else ())
        if self._vectors and not self._vectors.keys() & set(keys):
            raise DataError(
                f"{path}: none of its {self._vectors.total()} text vectors is of an item: texts are of "
                f"{next(iter(self._vectors))!r} and the like, items are called like {keys[0]!r}. Let "
                f"`vectors.text.keys` name the item of each text; or leave `vectors.text` out, for media that no text "
                f"belongs to (data.unpaired)."
            )
        lines = _lines(config)
        skipped: list[str] = []
        if lines is not None:
            skipped = [key for key in keys if key not in lines]
            _check(keys, skipped, lines, self._vectors, config)
            keys = [key for key in keys if key in lines]
        items = []
        for key in keys:
            texts, facts = ((("",) * self._vectors[key]), {}) if lines is None else lines[key]
            items.append(Item(key, key, texts, facts))
        super().__init__(config, items, skipped, where, file_hash(path))

    def embedded_texts(self, row: int) -> int:
        """How many text vectors the file holds for the item; its further captions are references only."""
        return self._vectors[self.items[row].key]


def _lines(config: PrecomputedSourceConfig) -> dict[str, Line] | None:
    """The captions file by item id; None if there is none."""
    if config.captions is None:
        return None
    used = {config.key_field, config.captions_field, config.first}
    lines: dict[str, Line] = {}
    problems = []
    for place, row in read_lines(Path(config.captions).expanduser()):
        try:
            key = text_of(row, config.key_field)
            texts = captions_of(row, config.captions_field)
            if config.first is not None:
                texts = _put_first(texts, row, config.first)
            if key in lines:
                raise ValueError(f"a second line for the item {key!r}; put all its captions on one")
        except ValueError as error:
            problems.append(f"{place}: {error}")
            continue
        lines[key] = (texts, {name: value for name, value in row.items() if name not in used})
    refuse(problems)
    return lines


def _put_first(texts: tuple[str, ...], row: dict[str, Any], name: str) -> tuple[str, ...]:
    number = row.get(name)
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(texts):
        raise ValueError(f"the field {name!r} holds {number!r}; expected a caption's number, 0 to {len(texts) - 1}")
    return (texts[number], *texts[:number], *texts[number + 1 :])


def _check(
    keys: Sequence[str],
    skipped: Sequence[str],
    lines: dict[str, Line],
    vectors: Counter[str],
    config: PrecomputedSourceConfig,
) -> None:
    if skipped and config.missing == "error":
        example = next(iter(lines), None)
        raise DataError(
            f"{config.captions} has no line for {len(skipped)} of {len(keys)} items: {few(skipped)}; its items "
            f"({config.key_field!r}) are named like {example!r}. Add the lines, name another `key_field`, or say "
            f"`missing: skip`."
        )
    short = [key for key in keys if key in lines and len(lines[key][0]) < vectors[key]]
    if short:
        raise DataError(
            f"{few(short)}: more text vectors than captions ({vectors[short[0]]} for {len(lines[short[0]][0])} of "
            f"{short[0]!r}), so it is unclear which text each vector is of. `vectors.text.keys` names the item of "
            f"every text vector; check it, and that the captions file is complete."
        )
