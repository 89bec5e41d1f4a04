"""Stage generate: a caption for every held-out item, decoded from its bridged vector."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.interfaces.decoder import Decoded
from modbridge.stages.cross import Crossed, crossed
from modbridge.stages.fit_decoder import decoder_key, fitted_decoder, required_decoder
from modbridge.stages.select import unscored_texts
from modbridge.store.artefact import read_manifest, write_manifest
from modbridge.store.keys import stable_hash

PREDICTIONS = "predictions.jsonl"
CHUNK = 512


@dataclass(frozen=True)
class Generated:
    """Captions in the order of the held-out items, the key that decides them, and the vectors they came from."""

    predictions: list[Decoded]
    key: str
    crossed: Crossed


def generated(session: Session, cell: Cell) -> Generated:
    """The held-out items' captions, made once. Goes on after the last finished chunk if it was interrupted."""
    config = required_decoder(cell)
    vectors = crossed(session, cell)
    parts = [decoder_key(session, cell), config.key_fields("decode"), vectors.key, cell.config.seed]
    if config.reads_references:
        parts += [cell.config.evaluate.caption, cell.config.evaluate.references]
    key = stable_hash(parts)

    def build(out: Path, work: Path) -> None:
        fitted = fitted_decoder(session, cell)
        oracle = cell.config.evaluate.input == "text"
        if config.reads_references:
            fitted.decoder.tell(unscored_texts(session, cell, cell.config.data.test or cell.config.data.train))
        total = len(vectors.bridged)
        chunk = max(CHUNK // fitted.decoder.batch_size, 1) * fitted.decoder.batch_size
        parts = []
        with session.talk.progress("generate", total) as progress:
            for start in range(0, total, chunk):
                rows = range(start, min(start + chunk, total))
                part = work / f"captions-{rows.start:09d}-{rows.stop:09d}.jsonl"
                if not part.is_file():
                    bridged = vectors.bridged.select(rows)
                    source = None if oracle else vectors.source.select(rows)
                    with session.guard(config, "decoder", "it wrote captions"):
                        found = fitted.decoder.decode(bridged, source=source, seed=cell.config.seed)
                    beside = part.with_suffix(".part")
                    beside.write_text("".join(json.dumps(_plain(d)) + "\n" for d in found), encoding="utf-8")
                    beside.replace(part)
                parts.append(part)
                progress.advance(len(rows))
        text = "".join(part.read_text(encoding="utf-8") for part in parts)
        (out / PREDICTIONS).write_text(text, encoding="utf-8")
        write_manifest(out, {"kind": "predictions", "type": config.type, "decoder": fitted.folder.name})

    folder = session.stage("generate", key, cell.label, build)
    read_manifest(folder)
    lines = (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()
    return Generated([Decoded(**json.loads(line)) for line in lines], key, vectors)


def _plain(decoded: Decoded) -> dict[str, object]:
    return {"key": decoded.key, "text": decoded.text, "score": decoded.score, "details": dict(decoded.details)}
