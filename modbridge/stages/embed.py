"""Stage embed: every item and every text of a source through the encoder, once.

Vectors are written in shards as they come, so a killed run goes on after its last shard. Equal texts are embedded once.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ArtefactError, ConfigError, DataError, ModbridgeError, PluginError, Problem
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.fitting import Progress
from modbridge.interfaces.source import Source, text_key
from modbridge.spaces import Embeddings
from modbridge.stages.fit_encoder import encoder, encoder_key, plan_of
from modbridge.store.artefact import read_manifest, read_tensors, write_manifest
from modbridge.store.keys import stable_hash

INDEX = "index.json"
ENOUGH = 4  # so many different items with one vector are no accident


def embed_key(session: Session, cell: Cell, split: str, side: str) -> str:
    """What decides a source's vectors: the encoder, the content, and which side of it."""
    return stable_hash([encoder_key(session, cell), session.fingerprint(source_config(cell, split, side)), side])


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
        folder = session.cache.path("embed", key)
        if session.cache.has("embed", key) and _readable_again(session, cell, split, side, folder):
            shutil.rmtree(folder)
        return _read(session, cell, session.stage("embed", key, f"{split} {side}", build), side)

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
    key = stable_hash([encoder_key(session, cell), "texts", list(texts)])

    def build(out: Path, work: Path) -> None:
        distinct = {text: at for at, text in enumerate(dict.fromkeys(texts))}
        rows = [distinct[text] for text in texts]
        items = _Items([str(i) for i in range(len(texts))], rows, list(distinct), list(distinct))
        _embed_all(session, model, items, "text", out, work)

    return _read(session, cell, session.stage("embed", key, f"{len(texts)} texts", build), "text")


def left_out(session: Session, cell: Cell, split: str, side: str) -> list[str]:
    """The keys of the items that could not be read and were left out."""
    embeddings(session, cell, split, side)
    folder = session.cache.path("embed", embed_key(session, cell, split, side))
    return sorted(json.loads((folder / INDEX).read_text(encoding="utf-8"))["skipped"])


def _readable_again(session: Session, cell: Cell, split: str, side: str, folder: Path) -> bool:
    """Whether an item that was left out can be read by now."""
    skipped = json.loads((folder / INDEX).read_text(encoding="utf-8"))["skipped"]
    if not skipped or side == "text":
        return False
    source = session.source(source_config(cell, split, side))
    items = _Prepared(encoder(session, cell), _Media(source), side, 0, len(source))
    rows = {key: row for row, key in enumerate(source.keys())}
    return any(not isinstance(items[rows[key]][1], _Unreadable) for key in skipped)


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


@dataclass(frozen=True)
class _Unreadable:
    message: str


class _Prepared(Dataset[tuple[int, Any]]):
    """Items made ready by the encoder, possibly in worker processes; one that cannot be read becomes a note."""

    def __init__(self, encoder: Encoder[Any], items: Sequence[Any], side: str, start: int, stop: int) -> None:
        self.encoder, self.items, self.side, self.start, self.stop = encoder, items, side, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, offset: int) -> tuple[int, Any]:
        row = self.start + offset
        try:
            return row, self.encoder.prepare(self.items[row], self.side)
        except DataError as error:
            return row, _Unreadable(str(error))


def _as_list(batch: list[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return batch


def _batches(model: Encoder[Any], items: _Items, side: str, start: int, stop: int) -> Iterator[list[tuple[int, Any]]]:
    if _stored(model, side):
        yield [(row, None) for row in range(start, stop)]
        return
    workers = getattr(model.config, "workers", 0) if side != "text" else 0
    data = _Prepared(model, items.distinct, side, start, stop)
    size = getattr(model.config, "batch_size", 64)
    yield from DataLoader(data, batch_size=size, num_workers=workers, collate_fn=_as_list)


def _embed_all(session: Session, model: Encoder[Any], items: _Items, side: str, out: Path, work: Path) -> None:
    total = len(items.distinct)
    skipped: dict[str, str] = {}
    shards: list[str] = []
    with session.talk.progress(f"embed {side}", total) as progress:
        for start in range(0, total, session.shard_rows):
            stop = min(start + session.shard_rows, total)
            name = f"shard-{start // session.shard_rows:05d}.safetensors"
            shards.append(name)
            shard, notes = work / name, work / f"{name}.json"
            if not (shard.is_file() and notes.is_file() and _whole(shard)):
                with session.guard(model.config, "encoder", f"it embedded {side} items"):
                    values, rows, unread = _embed_some(session, model, items, side, range(start, stop), progress)
                # The notes come first: a shard that is there is a shard that is finished.
                notes.write_text(json.dumps(unread), encoding="utf-8")
                part = work / f".{name}.part"
                save_file({"values": values, "rows": torch.tensor(rows, dtype=torch.int64)}, part)
                part.replace(shard)
            else:
                progress.advance(stop - start)
            skipped |= json.loads(notes.read_text(encoding="utf-8"))
    if len(skipped) == total:
        raise DataError(f"none of the {total} {side} items could be read; the first: {next(iter(skipped.values()))}")
    _check_variety(model, side, [work / name for name in shards])
    for name in shards:
        (work / name).replace(out / name)
    index = {"keys": items.keys, "rows": items.rows, "shards": shards, "skipped": skipped}
    (out / INDEX).write_text(json.dumps(index), encoding="utf-8")
    write_manifest(out, {"kind": "embeddings", "type": side, "port": model.port(side).to_json()})


def _embed_some(
    session: Session, model: Encoder[Any], items: _Items, side: str, span: range, progress: Progress
) -> tuple[torch.Tensor, list[int], dict[str, str]]:
    values: list[torch.Tensor] = []
    rows: list[int] = []
    skipped: dict[str, str] = {}
    for batch in _batches(model, items, side, span.start, span.stop):
        good = []
        for row, prepared in batch:
            if not isinstance(prepared, _Unreadable):
                good.append((row, prepared))
            elif session.on_error == "skip":
                skipped[items.names[row]] = prepared.message
            else:
                raise DataError(
                    f"item {items.names[row]!r} cannot be read: {prepared.message} "
                    f"Mend or remove it, or leave such items out with --on-error skip."
                )
        if good:
            names = [items.names[row] for row, _ in good]
            values.append(model.embed_prepared([prepared for _, prepared in good], side, names).values.cpu())
            rows += [row for row, _ in good]
        progress.advance(len(batch))
    found = torch.cat(values) if values else torch.zeros((0, model.port(side).space.dim or 0))
    return found, rows, skipped


def _check_variety(model: Encoder[Any], side: str, shards: Sequence[Path]) -> None:
    """Raise PluginError if many different items all have one vector: weights or tokenizer are broken."""
    first, count = None, 0
    for shard in shards:
        values = read_tensors(shard)["values"]
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


def _whole(path: Path) -> bool:
    try:
        read_tensors(path)
    except ArtefactError:
        return False
    return True


def _read(session: Session, cell: Cell, folder: Path, side: str) -> Embeddings:
    read_manifest(folder)
    index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    if index["skipped"]:
        count, (name, reason) = len(index["skipped"]), next(iter(index["skipped"].items()))
        if session.on_error != "skip":
            raise DataError(
                f"{count} items could not be read when these vectors were made, the first {name!r}: {reason} "
                f"Mend them, or go on without them with --on-error skip."
            )
        session.talk.say(f"embed: {count} unreadable {side} items left out, the first {name!r}: {reason}")
    shards = [read_tensors(folder / name) for name in index["shards"]]
    distinct = torch.cat([shard["values"] for shard in shards])
    present = torch.cat([shard["rows"] for shard in shards])
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
