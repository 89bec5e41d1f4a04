"""Making the shards of an embedding, in this process or by the workers of an engine.

A task is one shard. Whoever does it reads the items, embeds them and writes the shard where it is wanted, so that no
vector passes through the process that asked.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.elsewhere import require_token, token_in
from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import SourceConfig
from modbridge.errors import DataError, ModbridgeError, SetupError
from modbridge.interfaces.encoder import Encoder, require_finite
from modbridge.interfaces.engine import Work
from modbridge.interfaces.source import Source, text_key
from modbridge.moments import Moments
from modbridge.stages.fit_encoder import encoder
from modbridge.stages.read_ahead import Batch, Reader, bucketed, read_ahead
from modbridge.store import shards
from modbridge.store.tally import Tally

PILE = 256 << 20  # bytes of vectors that wait on the device for their shard to be whole


@dataclass(frozen=True)
class Items:
    """What to embed: distinct items with their names, and which of them each key stands for."""

    keys: Sequence[str]
    rows: Sequence[int]
    distinct: Sequence[Any]
    names: Sequence[str]

    def ends(self, rows: range) -> tuple[str, ...]:
        """The names of the first and the last of the distinct items `rows`."""
        return tuple(self.names[row] for row in (rows[0], rows[-1]) if row < len(self.names))


class Media(Sequence[Any]):
    """A source's media as a sequence that reads on access."""

    def __init__(self, source: Source[Any]) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: Any) -> Any:
        return self.source.media(row)


@dataclass(frozen=True)
class Wanted:
    """Whose vectors are wanted: of one side of a source, or of `texts` that belong to none."""

    side: str
    source: SourceConfig | None = None
    texts: tuple[str, ...] = ()

    def items(self, session: Session, model: Encoder[Any]) -> Items:
        """The items, the same on every machine."""
        if self.source is None:
            distinct = {text: at for at, text in enumerate(dict.fromkeys(self.texts))}
            numbers = [str(number) for number in range(len(self.texts))]
            return Items(numbers, [distinct[text] for text in self.texts], list(distinct), list(distinct))
        source = session.source(self.source)
        if self.side == "text":
            return _texts(source, stored=stored(model, "text"))
        keys = source.keys()
        return Items(keys, range(len(keys)), Media(source), keys)


@dataclass(frozen=True)
class Span:
    """A shard to be made: its file, its rows among the distinct items, and the names of the first and the last, by
    which a worker knows that it reads the same data."""

    name: str
    rows: range
    ends: tuple[str, ...] = ()


@dataclass(frozen=True)
class Made:
    """A shard that was written: its note, and what is to be said of it."""

    note: shards.Note
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class Here:
    """What a worker in the process that asked need not make again."""

    items: Items
    advance: Callable[[int], None]
    say: Callable[[str], None]


def stored(model: Encoder[Any], side: str) -> bool:
    """Whether the vectors are there already, by key, so that nothing needs to be read or prepared."""
    return model.lookup((), side) is not None


def made_shards(
    session: Session, cell: Cell, wanted: Wanted, items: Items, work: Path
) -> tuple[dict[str, shards.Note], Moments | None]:
    """The notes of all shards, in their order, and the moments of their vectors, each counted as often as it has keys.
    Shards that stand in `work` already are left as they are."""
    side, engine = wanted.side, session.engine
    total, rows = len(items.distinct), session.shard_rows
    spans = [Span(shards.shard_name(at // rows), range(at, min(at + rows, total))) for at in range(0, total, rows)]
    spans = [replace(span, ends=items.ends(span.rows)) for span in spans]
    notes = {span.name: note for span in spans if (note := shards.whole(work, span.name)) is not None}
    left = [span for span in spans if span.name not in notes]
    done = total - sum(len(span.rows) for span in left)
    times = torch.bincount(torch.tensor(items.rows), minlength=total)
    with ExitStack() as stack:
        tally = stack.enter_context(Tally(work, [span.name for span in spans], times))
        for name in notes:
            tally.add(name)
        progress = stack.enter_context(session.talk.progress(f"embed {side}", total, done))
        here = Here(items, progress.advance, session.talk.say) if engine.in_process else None
        token = None if engine.in_process else stack.enter_context(token_in(work))
        said = set[str]()
        about = (session, cell, wanted, work.resolve(), token, here)
        for number, made in engine.map(open_worker, about, left) if left else ():
            notes[left[number].name] = made.note
            tally.add(left[number].name)
            for line in made.said:
                if line not in said:  # every worker finds out for itself
                    session.talk.say(line)
                    said.add(line)
            if here is None:
                progress.advance(len(left[number].rows))
        moments = tally.moments()
    return {span.name: notes[span.name] for span in spans}, moments


def open_worker(
    session: Session, cell: Cell, wanted: Wanted, work: Path, token: Path | None, here: Here | None
) -> Work:
    """What writes shards into the folder `work`. Batches that are too much for the device are halved from there on.

    Raises SetupError where a worker does not see that folder.
    """
    if token is not None:
        require_token(token)
    model = encoder(session, cell)
    items = wanted.items(session, model) if here is None else here.items
    return _Shards(session, model, items, wanted.side, work, here).made


class _TooLarge(ModbridgeError):
    """A batch that was too much for the device's memory."""


class _Shards:
    """Makes shards, in batches of a size that the device has shown to have room for."""

    def __init__(
        self, session: Session, model: Encoder[Any], items: Items, side: str, work: Path, here: Here | None
    ) -> None:
        self.session, self.model, self.items, self.side, self.work = session, model, items, side, work
        self.size = int(getattr(model.config, "batch_size", 64))
        self.local = here is not None
        self.said: list[str] = []
        self.say = self.said.append if here is None else here.say
        self.advance = (lambda count: None) if here is None else here.advance
        self.counted = 0

    def made(self, spans: Sequence[Span]) -> Iterator[Made]:
        """Write shards. Those that stand already, since their worker was lost later, are left as they are.

        Raises DataError where the data are not those of the process that asked, or an item cannot be read, SetupError
        where the device has no room for one item.
        """
        for span in spans:
            if self.items.ends(span.rows) != span.ends:
                raise DataError(
                    f"{socket.gethostname()} sees other data: of its {len(self.items.distinct)} {self.side} items "
                    f"number {span.rows[0]} to {span.rows[-1]} are not {span.ends[0]!r} to {span.ends[-1]!r}. Give "
                    f"every machine the same data under the same paths."
                )
        # The process that asked has looked already at what it asks of itself.
        standing = {} if self.local else {span.name: shards.whole(self.work, span.name) for span in spans}
        written = self._written([span for span in spans if standing.get(span.name) is None])
        for span in spans:
            note = standing.get(span.name)
            yield next(written) if note is None else Made(note)

    def _written(self, left: list[Span]) -> Iterator[Made]:
        while left:
            vectors = self._vectors(left)
            try:
                while left:
                    with self.session.guard(self.model.config, "encoder", f"it embedded {self.side} items"):
                        note = shards.write_shard(self.work, left[0].name, *next(vectors))
                    said = tuple(self.said)
                    self.said.clear()
                    left.pop(0)
                    yield Made(note, said)
            except _TooLarge as error:
                if self.size == 1:
                    raise SetupError(
                        f"the device has no memory for one {self.side} item ({error}). Use a lower `precision`, a "
                        f"smaller encoder, or another device."
                    ) from error
                self.advance(-self.counted)
                self.size //= 2
                self.say(f"embed {self.side}: out of memory on the device; going on with batches of {self.size}")

    def _vectors(
        self, spans: Sequence[Span]
    ) -> Iterator[tuple[torch.Tensor, list[int], dict[str, str], torch.Tensor | None]]:
        """Of each shard its vectors on the CPU, the rows that they belong to, its items that could not be read, and the
        mask of ragged sequences. One reader serves all shards, so that it is ahead of the encoder from one shard to the
        next."""
        model, side, names = self.model, self.side, self.items.names
        length = len if side == "text" else None
        size = self.session.shard_rows if stored(model, side) else self.size
        plan = [bucketed(self.items.distinct, span.rows, size, length) for span in spans]
        batches = [rows for of in plan for rows in of]
        if stored(model, side):
            read: Iterator[Batch] = (Batch(rows, None) for rows in batches)
        else:
            reader = Reader(model, self.items.distinct, side, batches)
            read = read_ahead(reader, getattr(model.config, "workers", 0), pin=model.device.type == "cuda")
        for of in plan:
            parts: list[tuple[torch.Tensor, torch.Tensor | None]] = []
            present: list[int] = []
            unread: dict[str, str] = {}
            self.counted = 0
            for _, batch in zip(of, read, strict=False):
                for row, message in batch.unread.items():
                    if self.session.on_error != "skip":
                        raise DataError(
                            f"item {names[row]!r} cannot be read: {message} "
                            f"Mend or remove it, or leave such items out with --on-error skip."
                        )
                    unread[names[row]] = message
                if batch.rows:
                    parts.append(_embedded(model, batch, side, [names[row] for row in batch.rows]))
                    present += batch.rows
                    if sum(values.nbytes for values, _ in parts if values.device.type != "cpu") > PILE:
                        parts = [(values.cpu(), mask if mask is None else mask.cpu()) for values, mask in parts]
                count = len(batch.rows) + len(batch.unread)
                self.counted += count
                self.advance(count)
            # One copy and one look at the numbers a shard: the device is not waited for after every batch.
            if not parts:
                none = model.encode([], side)
                parts = [(none.values, none.mask)]
            found = _on_cpu([values for values, _ in parts])
            masks = [mask for _, mask in parts if mask is not None]
            mask = _on_cpu(masks) if masks else None
            require_finite(found, [names[row] for row in present], mask)
            yield found, present, unread, mask


def _on_cpu(parts: list[torch.Tensor]) -> torch.Tensor:
    """Batches one after another; copied once where all of them are on the device still."""
    if len({part.device for part in parts}) == 1:
        return torch.cat(parts).cpu()
    return torch.cat([part.cpu() for part in parts])


def _embedded(
    model: Encoder[Any], batch: Batch, side: str, names: list[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    stored = model.lookup(names, side)
    if stored is not None:
        return model.labelled(stored, side, len(names))
    try:
        return model.embed_batch(batch.inputs, side, len(names))
    except torch.OutOfMemoryError as error:
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        raise _TooLarge(str(error).split(". ")[0]) from error


def _texts(source: Source[Any], *, stored: bool) -> Items:
    keys: list[str] = []
    rows: list[int] = []
    distinct: dict[str, int] = {}
    names: list[str] = []
    for row, item in enumerate(source.keys()):
        for number in range(source.embedded_texts(row)):
            text = source.texts(row)[number]
            keys.append(text_key(item, number))
            at = distinct.setdefault(keys[-1] if stored else text, len(distinct))
            if at == len(names):
                names.append(keys[-1])
            rows.append(at)
    if not keys:
        raise DataError(f"the source {source.config.type!r} brings no texts to embed; expected captions.")
    return Items(keys, rows, list(distinct), names)
