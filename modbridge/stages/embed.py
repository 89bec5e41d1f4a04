"""Stage embed: every item and every text of a source through the encoder, once.

Items are read ahead of the encoder (`read_ahead.py`), and vectors written in shards as they come (`store/shards.py`),
so that a killed run goes on after its last shard. Equal texts are embedded once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from modbridge import room
from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ArtefactError, ConfigError, DataError, ModbridgeError, PluginError, Problem
from modbridge.interfaces.encoder import Encoder
from modbridge.spaces import Embeddings
from modbridge.stages.embed_shards import Media, Wanted, made_shards, stored
from modbridge.stages.fit_encoder import encoder, encoder_key, plan_of
from modbridge.stages.read_ahead import Reader
from modbridge.store import shards
from modbridge.store.keys import stable_hash

FORMAT = 3  # of a store; another one is made anew
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
    load = lambda: _read(session, cell, vectors_folder(session, cell, split, side), side)  # noqa: E731
    return session.remember(f"embeddings {key}", load)


def vectors_folder(session: Session, cell: Cell, split: str, side: str) -> Path:
    """The store of these vectors, made if it is not there. Nothing of it is read."""
    key = embed_key(session, cell, split, side)

    def build(out: Path, work: Path) -> None:
        _embed_all(session, cell, Wanted(side, source_config(cell, split, side)), out, work)

    def made() -> Path:
        if session.cache.has("embed", key) and _readable_again(session, cell, split, side, key):
            session.cache.take_back("embed", key)
        return _made(session, key, f"{split} {side}", build)

    return session.world.first(made)


def embedded_texts(session: Session, cell: Cell, texts: Sequence[str]) -> Embeddings:
    """The vectors of any texts by the cell's encoder, made once; keys are their numbers.

    Raises ConfigError for an encoder that only looks up vectors that were made elsewhere.
    """
    model = encoder(session, cell)
    if stored(model, "text"):
        message = f"{model.config.type!r} only looks up stored vectors, and other texts are to be embedded here"
        hint = "choose an encoder that computes vectors, or give a vocabulary with vectors of its own (precomputed)"
        raise ConfigError([Problem("encoder", message, where=cell.document.where("encoder"), hint=hint)])
    key = stable_hash([FORMAT, encoder_key(session, cell), "texts", list(texts)])

    def build(out: Path, work: Path) -> None:
        _embed_all(session, cell, Wanted("text", texts=tuple(texts)), out, work)

    folder = session.world.first(lambda: _made(session, key, f"{len(texts)} texts", build))
    return _read(session, cell, folder, "text")


def left_out(session: Session, cell: Cell, split: str, side: str) -> list[str]:
    """The keys of the items that could not be read and were left out."""
    return sorted(_unread(shards.read_index(vectors_folder(session, cell, split, side))))


def _made(session: Session, key: str, label: str, build: Callable[[Path, Path], None]) -> Path:
    """The store of an embedding. What is broken of one that is there is made again, and nothing else."""
    if session.cache.has("embed", key):
        bad = shards.broken(session.cache.path("embed", key))
        if bad:
            session.talk.say(f"embed: {label}: {', '.join(bad)} cut short or altered; making that again")
            session.cache.take_back("embed", key, shards.reopen)
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
    one = Reader(encoder(session, cell), Media(source), side, [[rows[item]] for item in skipped])
    return any(one[number].rows for number in range(len(skipped)))


def _embed_all(session: Session, cell: Cell, wanted: Wanted, out: Path, work: Path) -> None:
    """Shard by shard, those that are there already left as they are."""
    model, side = encoder(session, cell), wanted.side
    items = wanted.items(session, model)
    notes, moments = made_shards(session, cell, wanted, items, work)
    total = len(items.distinct)
    skipped = {key: reason for note in notes.values() for key, reason in note.unread.items()}
    if len(skipped) == total:
        raise DataError(f"none of the {total} {side} items could be read; the first: {next(iter(skipped.values()))}")
    _check_variety(model, side, [work / name for name in notes])
    about = {"type": side, "port": model.port(side).to_json()}
    shards.close(work, out, notes, {"keys": list(items.keys), "rows": list(items.rows)}, about, moments)


def _check_variety(model: Encoder[Any], side: str, files: Sequence[Path]) -> None:
    """Raise PluginError if many different items all have one vector: weights or tokenizer are broken."""
    first, count = None, 0
    for file in files:
        values, _ = shards.read_shard(file)
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
    values, kept = shards.read_vectors(folder, index)
    plan = plan_of(session, cell)
    port = plan.text if side == "text" else plan.source
    keys = tuple(index["keys"][i] for i in kept.tolist()) if skipped else tuple(index["keys"])
    mask = shards.read_mask(folder, index) if port.ragged else None
    device = session.torch_device(cell.config.device)
    if room.on_device(values.nbytes, device):
        values, mask = values.to(device), None if mask is None else mask.to(device)
    elif device.type != "cpu":
        session.talk.say(f"embed: {values.nbytes / 1e9:.1f} GB of {side} vectors stay in main memory")
    try:
        return Embeddings(values, port, keys, shards.read_moments(folder), mask=mask)
    except ModbridgeError as error:
        raise ArtefactError(f"{folder}: {error}") from error
