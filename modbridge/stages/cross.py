"""The held-out vectors of a pipeline, carried across: what generate decodes and what the gap is measured on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import DataError
from modbridge.geometry import Statistics
from modbridge.interfaces.source import text_key
from modbridge.measures import fit_mean
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embeddings, left_out
from modbridge.stages.fit_bridge import Rows, bridge_key, fitted_bridge, item_rows, train_vectors
from modbridge.stages.fit_encoder import plan_of
from modbridge.store.artefact import read_tensors, write_manifest
from modbridge.store.keys import stable_hash


@dataclass(frozen=True)
class Crossed:
    """Held-out items: their vectors as encoded, as bridged, and of their paired caption, row by row.

    `fit_mean`: the mean (D,) of the bridged vectors of the fit split, made comparable with raw texts, for centred
    measures. `key` decides `bridged`.
    """

    source: Embeddings
    bridged: Embeddings
    text: Embeddings
    fit_mean: torch.Tensor
    key: str


@dataclass(frozen=True)
class Split:
    """One fit/test split of the training source, where there is no test source."""

    fit: Rows
    test: Rows


def text_statistics(session: Session, cell: Cell, split: Split | None = None) -> Statistics:
    """Mean and radius of the fit split's text vectors."""
    key = embed_key(session, cell, "train", "text")
    rows = split.fit if split else None

    def make() -> Statistics:
        return Statistics.of(train_vectors(session, cell, "text", rows).values)

    return session.remember(f"text statistics {key} {rows and rows.name}", make)


def held_out_from(cell: Cell, split: Split | None) -> str:
    """The source that held-out items come from."""
    return "train" if split is not None or cell.config.data.test is None else "test"


def held_out(session: Session, cell: Cell, split: Split | None = None) -> tuple[Embeddings, Embeddings]:
    """The held-out items' vectors and those of their paired captions (evaluate.caption), row by row."""
    modality = cell.config.data.train.modality
    where = held_out_from(cell, split)
    source = embeddings(session, cell, where, modality)
    if split:
        source = split.test.of(source)
    number = cell.config.evaluate.caption
    texts = embeddings(session, cell, where, "text")
    known = set(texts.keys)
    lacking = [key for key in source.keys if text_key(key, number) not in known]
    if lacking:
        raise DataError(
            f"{len(lacking)} held-out items have no caption number {number}, the first {lacking[0]!r}: every item "
            f"needs one as its pair (evaluate.caption)."
        )
    return source, texts.select(item_rows(texts, [text_key(key, number) for key in source.keys]))


def crossed(session: Session, cell: Cell, bridge: BridgeConfig | None = None, split: Split | None = None) -> Crossed:
    """The held-out vectors across `bridge` (the cell's own by default)."""
    config = bridge or cell.config.bridge
    modality = cell.config.data.train.modality
    where = held_out_from(cell, split)
    number = cell.config.evaluate.caption
    source, text = held_out(session, cell, split)
    names = [split.fit.name, split.test.name] if split else None
    left = [left_out(session, cell, w, modality) for w in ("train", where)]
    if cell.config.evaluate.input == "text":
        mean = text_statistics(session, cell, split).mean
        vectors = [embed_key(session, cell, w, "text") for w in ("train", where)]
        key = stable_hash(["text", vectors, number, names, left])
        return Crossed(source, Embeddings(text.values, text.port, source.keys), text, mean, key)

    rows = split.fit if split else None
    parts = [embed_key(session, cell, *at) for at in (("train", modality), ("train", "text"), (where, modality))]
    key = stable_hash(
        [
            bridge_key(session, cell, config, rows),
            config.key_fields("cross"),
            parts,
            names,
            cell.config.seed,
            left,
        ]
    )

    def build(out: Path, work: Path) -> None:
        fitted = fitted_bridge(session, cell, config, rows)
        fit = train_vectors(session, cell, modality, rows)
        with session.guard(config, "bridge", "it carried vectors across"):
            values = fitted.bridge.cross(source, cell.config.seed).values
            bridged_fit = fitted.bridge.cross(fit, cell.config.seed)
        text = text_statistics(session, cell, split)
        frame = bridged_fit.port.frame
        mean = fit_mean(bridged_fit.values, frame=frame, text_mean=text.mean, text_radius=text.radius)
        save_file({"values": values.cpu(), "fit_mean": mean.cpu()}, out / "bridged.safetensors")
        write_manifest(out, {"kind": "bridged", "type": config.type})

    label = config.type if split is None else f"{config.type} ({split.test.name})"
    tensors = read_tensors(session.stage("cross", key, label, build) / "bridged.safetensors")
    plan = plan_of(session, cell)
    bridged = Embeddings(
        tensors["values"].to(source.values.device), config.crosses(plan.source, plan.text), source.keys
    )
    return Crossed(source, bridged, text, tensors["fit_mean"], key)
