"""Stage embed: every item and every text of a source through the encoder, once.

Items are read ahead of the encoder (`read_ahead.py`), and vectors written in shards as they come (`store/shards.py`),
so that a killed run goes on after its last shard. Equal texts are embedded once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ArtefactError, ConfigError, DataError, ModbridgeError, PluginError, Problem, SetupError
from modbridge.interfaces.encoder import Encoder, require_finite
from modbridge.interfaces.fitting import Progress
from modbridge.interfaces.source import Source, text_key
from modbridge.spaces import Embeddings
from modbridge.stages.fit_encoder import encoder, encoder_key, plan_of
from modbridge.stages.read_ahead import Batch, Reader, bucketed, read_ahead
from modbridge.store import shards
from modbridge.store.keys import stable_hash

FORMAT = 2  # of a store; another one is made anew
ENOUGH = 4  # so many different items with one vector are no accident


def embed_key(session: Session, cell: Cell, split: str, side: str) -> str:
    """What decides a source's vectors: the encoder, the content, and which side of it."""
    source = session.fingerprint(source_config(cell, split, side))
    return stable_hash([FORMAT, encoder_key(session, cell), source, side])


def source_config(cell: Cell, split: str, side: str) -> SourceConfig:
    """The source that one side of a split comes from: of data.train the media are those of data.unpaired, if given."""
    data = cell.config.data
    if split == "train" and side != "text" and data.unpaired is not None:
        return data.unpaired
    found: SourceConfig = getattr(data, split)
    return found


def embeddings(session: Session, cell: Cell, split: str, side: str) -> Embeddings:
    """The vectors of one side ("text", or the media's modality) of data.train, data.validation or data.test.

    Keys are item keys for media, and `text_key(item, number)` for texts.
    """
    key = embed_key(session, cell, split, side)

    def build(out: Path, work: Path) -> None:
        source = session.source(source_config(cell, split, side))
        model = encoder(session, cell)
        items = _texts(source, stored=_stored(model, side)) if side == "text" else _media(source)
        _embed_all(session, model, items, side, out, work)

    def load() -> Embeddings:
        if session.cache.has("embed", key) and _readable_again(session, cell, split, side, key):
            session.cache.take_back("embed", key)
        return _read(session, cell, _made(session, key, f"{split} {side}", build), side)

    return session.remember(f"embeddings {key}", load)


def embedded_texts(session: Session, cell: Cell, texts: Sequence[str]) -> Embeddings:
    """The vectors of any texts by the cell's encoder, made once; keys are their numbers.

    Raises ConfigError for an encoder that only looks up vectors that were made elsewhere.
    """
    model = encoder(session, cell)
    if _stored(model, "text"):
        message = f"{model.config.type!r} only looks up stored vectors, and other texts are to be embedded here"
        hint = "choose an encoder that computes vectors, or give a vocabulary with vectors of its own (precomputed)"
        raise ConfigError([Problem("encoder", message, where=cell.document.where("encoder"), hint=hint)])
    key = stable_hash([FORMAT, encoder_key(session, cell), "texts", list(texts)])

    def build(out: Path, work: Path) -> None:
        distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        rows = [distinct[text] for text in texts]
        items = _Items([str(i) for i in range(len(texts))], rows, list(distinct), list(distinct))
        _embed_all(session, model, items, "text", out, work)

    return _read(session, cell, _made(session, key, f"{len(texts)} texts", build), "text")


def left_out(session: Session, cell: Cell, split: str, side: str) -> list[str]:
    """The keys of the items that could not be read and were left out."""
    embeddings(session, cell, split, side)
    folder = session.cache.path("embed", embed_key(session, cell, split, side))
    return sorted(_unread(shards.read_index(folder)))


def _made(session: Session, key: str, label: str, build: Callable[[Path, Path], None]) -> Path:
    """The store of an embedding. What is broken of one that is there is made again, and nothing else."""
    if session.cache.has("embed", key):
        bad = shards.broken(session.cache.path("embed", key))
        if bad:
            session.talk.say(f"embed: {label}: {', '.join(bad)} cut short or altered; making that again")
            session.cache.take_back("embed", key, lambda folder, work: shards.reopen(folder, work, bad))
    return session.stage("embed", key, label, build)


def _unread(index: Mapping[str, Any]) -> dict[str, str]:
    """The items of a store that could not be read, and why."""
    return {key: reason for note in index["shards"].values() for key, reason in note["unread"].items()}


def _readable_again(session: Session, cell: Cell, split: str, side: str, key: str) -> bool:
    """Whether an item that was left out can be read by now."""
    try:
        skipped = [] if side == "text" else list(_unread(shards.read_index(session.cache.path("embed", key))))
    except ArtefactError:  # a damaged store is made again in any case
        return False
    if not skipped:
        return False
    source = session.source(source_config(cell, split, side))
    rows = {item: row for row, item in enumerate(source.keys())}
    one = Reader(encoder(session, cell), _Media(source), side, [[rows[item]] for item in skipped])
    return any(one[number].rows for number in range(len(skipped)))


@dataclass(frozen=True)
class _Items:
    """What to embed: distinct items, and which of them each key stands for."""

    keys: list[str]
    rows: list[int]
    distinct: Sequence[Any]
    names: list[str]


def _stored(model: Encoder[Any], side: str) -> bool:
    """Whether the vectors are there already, by key, so that nothing needs to be read or prepared."""
    return model.lookup((), side) is not None


def _texts(source: Source[Any], *, stored: bool) -> _Items:
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
    return _Items(keys, rows, list(distinct), names)


class _Media(Sequence[Any]):
    """A source's media as a sequence that reads on access."""

    def __init__(self, source: Source[Any]) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: Any) -> Any:
        return self.source.media(row)


def _media(source: Source[Any]) -> _Items:
    keys = source.keys()
    return _Items(keys, list(range(len(keys))), _Media(source), keys)


def _embed_all(session: Session, model: Encoder[Any], items: _Items, side: str, out: Path, work: Path) -> None:
    """Shard by shard, those that are there already left as they are. Where a batch is too much for the device, batches
    are halved from there on."""
    total, rows = len(items.distinct), session.shard_rows
    spans = {shards.shard_name(at // rows): range(at, min(at + rows, total)) for at in range(0, total, rows)}
    notes = {name: note for name in spans if (note := shards.whole(work, name)) is not None}
    size = int(getattr(model.config, "batch_size", 64))
    while True:
        left = {name: span for name, span in spans.items() if name not in notes}
        done = total - sum(map(len, left.values()))
        try:
            with (
                session.talk.progress(f"embed {side}", total, done) as progress,
                session.guard(model.config, "encoder", f"it embedded {side} items"),
            ):
                for name, values, present, unread in _vectors(session, model, items, side, left, size, progress):
                    notes[name] = shards.write_shard(work, name, values, present, unread)
            break
        except _TooLarge as error:
            if size == 1:
                raise SetupError(
                    f"the device has no memory for one {side} item ({error}). Use a lower `precision`, a smaller "
                    f"encoder, or another device."
                ) from error
            size = size // 2
            session.talk.say(f"embed {side}: out of memory on the device; going on with batches of {size}")
    skipped = {key: reason for note in notes.values() for key, reason in note.unread.items()}
    if len(skipped) == total:
        raise DataError(f"none of the {total} {side} items could be read; the first: {next(iter(skipped.values()))}")
    _check_variety(model, side, [work / name for name in spans])
    about = {"type": side, "port": model.port(side).to_json()}
    shards.close(work, out, {name: notes[name] for name in spans}, {"keys": items.keys, "rows": items.rows}, about)


class _TooLarge(ModbridgeError):
    """A batch that was too much for the device's memory."""


Shard = tuple[str, torch.Tensor, list[int], dict[str, str]]


def _vectors(
    session: Session,
    model: Encoder[Any],
    items: _Items,
    side: str,
    spans: Mapping[str, range],
    size: int,
    progress: Progress,
) -> Iterator[Shard]:
    """Each shard's name, its vectors on the CPU, the rows that they belong to, and its items that could not be read.
    One reader serves all shards, so that it is ahead of the encoder from one shard to the next."""
    plan = {name: bucketed(items.distinct, span, size, len if side == "text" else None) for name, span in spans.items()}
    batches = [rows for of in plan.values() for rows in of]
    if _stored(model, side):
        read: Iterator[Batch] = (Batch(rows, None) for rows in batches)
    else:
        reader = Reader(model, items.distinct, side, batches)
        pin = model.device.type == "cuda"
        read = read_ahead(reader, getattr(model.config, "workers", 0), pin=pin)
    for name, of in plan.items():
        values: list[torch.Tensor] = []
        present: list[int] = []
        unread: dict[str, str] = {}
        for _, batch in zip(of, read, strict=False):
            for row, message in batch.unread.items():
                if session.on_error != "skip":
                    raise DataError(
                        f"item {items.names[row]!r} cannot be read: {message} "
                        f"Mend or remove it, or leave such items out with --on-error skip."
                    )
                unread[items.names[row]] = message
            if batch.rows:
                values.append(_embedded(model, batch, side, [items.names[row] for row in batch.rows]))
                present += batch.rows
            progress.advance(len(batch.rows) + len(batch.unread))
        # One copy and one look at the numbers a shard: the device is not waited for after every batch.
        found = torch.cat(values).cpu() if values else model.encode([], side).values.cpu()
        require_finite(found, [items.names[row] for row in present])
        yield name, found, present, unread


def _embedded(model: Encoder[Any], batch: Batch, side: str, names: list[str]) -> torch.Tensor:
    stored = model.lookup(names, side)
    if stored is not None:
        return model.labelled(stored, side, len(names))
    try:
        return model.embed_batch(batch.inputs, side, len(names))
    except torch.OutOfMemoryError as error:
        if model.device.type == "cuda":
            torch.cuda.empty_cache()
        raise _TooLarge(str(error).split(". ")[0]) from error


def _check_variety(model: Encoder[Any], side: str, files: Sequence[Path]) -> None:
    """Raise PluginError if many different items all have one vector: weights or tokenizer are broken."""
    first, count = None, 0
    for file in files:
        values, _ = shards.read_shards(file.parent, [file.name])
        if first is None and len(values):
            first = values[:1]
        if first is not None and not torch.allclose(values, first.expand_as(values), atol=1e-6):
            return
        count += len(values)
    if count >= ENOUGH:
        raise PluginError(
            f"the encoder {model.config.type!r} gave {count} different {side} items the same vector. Its weights or "
            f"its tokenizer are broken (a tokenizer loaded without its files has almost no vocabulary)."
        )


def _read(session: Session, cell: Cell, folder: Path, side: str) -> Embeddings:
    index = shards.read_index(folder)
    skipped = _unread(index)
    if skipped:
        count, (name, reason) = len(skipped), next(iter(skipped.items()))
        if session.on_error != "skip":
            raise DataError(
                f"{count} items could not be read when these vectors were made, the first {name!r}: {reason} "
                f"Mend them, or go on without them with --on-error skip."
            )
        session.talk.say(f"embed: {count} unreadable {side} items left out, the first {name!r}: {reason}")
    distinct, present = shards.read_shards(folder, list(index["shards"]))
    plan = plan_of(session, cell)
    port = plan.text if side == "text" else plan.source
    place = torch.full((int(max(index["rows"])) + 1,), -1, dtype=torch.int64)
    place[present] = torch.arange(len(present))
    at = place[torch.tensor(index["rows"], dtype=torch.int64)]
    kept = [i for i, where in enumerate(at.tolist()) if where >= 0]
    keys = tuple(index["keys"][i] for i in kept)
    device = session.torch_device(cell.config.device)
    try:
        return Embeddings(distinct[at[at >= 0]].to(device), port, keys)
    except ModbridgeError as error:
        raise ArtefactError(f"{folder}: {error}") from error
