"""What predictions are judged by: the texts of each item, what is known of it, and, if asked for, the item itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import SourceConfig
from modbridge.errors import DataError
from modbridge.interfaces.metric import Reference


def references(
    session: Session, cell: Cell, keys: Sequence[str], config: SourceConfig, *, media: bool = False, texts: bool = True
) -> list[Reference]:
    """What each item of a source is judged by. `media`: by itself too. `texts`: it must have some, else DataError."""
    source = session.source(config)
    rows = {key: i for i, key in enumerate(source.keys())}
    skip = cell.config.evaluate.caption if cell.config.evaluate.references == "others" else None
    found = []
    for key in keys:
        row = rows[key]
        known = tuple(text for i, text in enumerate(source.texts(row)) if i != skip)
        if texts and not known:
            raise DataError(
                f"the item {key!r} of {config.type!r} has no reference left to score against; evaluate.references: "
                f"others needs two captions an item."
            )
        found.append(Reference(key, known, source.facts(row), partial(source.media, row) if media else None))
    return found
