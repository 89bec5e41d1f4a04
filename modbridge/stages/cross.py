"""The held-out vectors of a pipeline, carried across: what generate decodes and what the gap is measured on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from modbridge.assembly.experiment import Cell
from modbridge.assembly.plan import texts_cross
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import DataError
from modbridge.geometry import Statistics
from modbridge.interfaces.source import text_key
from modbridge.measures import fit_mean
from modbridge.spaces import Embeddings, Port
from modbridge.stages.embed import embed_key, embeddings, left_out
from modbridge.stages.fit_bridge import Rows, bridge_key, fitted_bridge, item_rows, train_vectors
from modbridge.stages.fit_encoder import plan_of
from modbridge.store.artefact import read_tensors, write_manifest
from modbridge.store.keys import stable_hash


@dataclass(frozen=True)
class Crossed:
    """Held-out items: their vectors as encoded, as bridged, and of their paired caption, row by row.

    A bridge that carries texts to the source vectors (frame "source") has its effect on the text side: `text` is then
    as `augment` gives it but for its noise, near what a decoder is trained on. `text_fit`: statistics of the fit
    split's texts, of the same side. `fit_mean`: the mean (D,) of the bridged vectors of the fit split, made comparable
    with texts, for centred measures. Both are empty for sequences, which are not measured. `key` decides all of it.
    """

    source: Embeddings
    bridged: Embeddings
    text: Embeddings
    text_fit: Statistics
    fit_mean: torch.Tensor
    key: str

    @property
    def measured(self) -> bool:
        """Whether the gap can be measured on them: on vectors, not on sequences, of at least two items."""
        return len(self.bridged) >= 2 and not _sequences(self.bridged.port, self.text.port)


_UNKNOWN = Statistics(torch.zeros(0, dtype=torch.float64), torch.zeros((), dtype=torch.float64), 0)


def _sequences(*ports: Port) -> bool:
    return any(port.tokens is not None for port in ports)


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
        return Statistics.of(train_vectors(session, cell, "text", rows))

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
    if cell.config.evaluate.input == "text":
        text_fit = _UNKNOWN if _sequences(text.port) else text_statistics(session, cell, split)
        vectors = [embed_key(session, cell, w, "text") for w in ("train", where)]
        left = [left_out(session, cell, w, modality) for w in ("train", where)]
        key = stable_hash(["text", vectors, number, names, left])
        given = replace(text, keys=source.keys)
        plan = plan_of(session, cell)
        if texts_cross(cell.config, plan.text, plan.trained):
            key = stable_hash([key, bridge_key(session, cell, config), config.key_fields("augment")])
            with session.guard(config, "bridge", "it carried true captions across"):
                given = fitted_bridge(session, cell, config).bridge.augment(given, noise=False)
        return Crossed(source, given, text, text_fit, text_fit.mean, key)

    plan = plan_of(session, cell)
    port = config.crosses(plan.source, plan.text)
    moved = port.frame == "source"
    rows = split.fit if split else None
    # Of sequences no mean is taken, so nothing but the vectors is kept, and training vectors are not looked at.
    alone = _sequences(port, config.augments(plan.text) if moved else plan.text)
    parts = [embed_key(session, cell, *at) for at in (("train", modality), ("train", "text"), (where, modality))]
    left = [left_out(session, cell, w, modality) for w in ([where] if alone else ["train", where])]
    key = stable_hash(
        [
            bridge_key(session, cell, config, rows),
            config.key_fields("cross"),
            *(["texts moved, no noise", number, config.key_fields("augment")] if moved else []),
            parts,
            names,
            cell.config.seed,
            left,
        ]
    )

    def build(out: Path, work: Path) -> None:
        fitted = fitted_bridge(session, cell, config, rows)
        fit = None if alone else train_vectors(session, cell, modality, rows)
        with session.guard(config, "bridge", "it carried vectors across"):
            across = fitted.bridge.cross(source, cell.config.seed)
            bridged_fit = None if fit is None else fitted.bridge.cross(fit, cell.config.seed)
        tensors = _tensors("values", across)
        if moved:
            tensors |= _tensors("text", fitted.bridge.augment(text, noise=False))
        if bridged_fit is not None:
            text_fit = text_statistics(session, cell, split)
            if moved:
                text_fit = Statistics.of(augmented(session, cell, config, split))
                tensors |= {"text_mean": text_fit.mean, "text_radius": text_fit.radius}
            frame = bridged_fit.port.frame
            mean = fit_mean(bridged_fit.values, frame=frame, text_mean=text_fit.mean, text_radius=text_fit.radius)
            tensors["fit_mean"] = mean.cpu()
        save_file(tensors, out / "bridged.safetensors")
        write_manifest(out, {"kind": "bridged", "type": config.type})

    label = config.type if split is None else f"{config.type} ({split.test.name})"
    tensors = read_tensors(session.stage("cross", key, label, build) / "bridged.safetensors")
    device = source.values.device
    text_fit = _UNKNOWN if alone else text_statistics(session, cell, split)
    if moved:
        if not alone:
            text_fit = Statistics(tensors["text_mean"], tensors["text_radius"], text_fit.count)
        text = _read(tensors, "text", config.augments(text.port), text.keys).to(device)
    bridged = _read(tensors, "values", port, source.keys).to(device)
    return Crossed(source, bridged, text, text_fit, _UNKNOWN.mean if alone else tensors["fit_mean"], key)


def _tensors(name: str, vectors: Embeddings) -> dict[str, torch.Tensor]:
    """Vectors as they are stored."""
    found = {name: vectors.values} | ({} if vectors.mask is None else {f"{name}_mask": vectors.mask})
    return {of: tensor.cpu() for of, tensor in found.items()}


def _read(tensors: dict[str, torch.Tensor], name: str, port: Port, keys: tuple[str, ...]) -> Embeddings:
    return Embeddings(tensors[name], port, keys, mask=tensors.get(f"{name}_mask"))


def augmented(session: Session, cell: Cell, config: BridgeConfig, split: Split | None = None) -> Embeddings:
    """The fit split's texts on the side where they are compared: as `augment` gives them, without noise, for a bridge
    that carries texts to the source vectors; else as they are."""
    rows = split.fit if split else None
    text = train_vectors(session, cell, "text", rows)
    plan = plan_of(session, cell)
    if config.crosses(plan.source, plan.text).frame != "source":
        return text

    def make() -> Embeddings:
        with session.guard(config, "bridge", "it prepared text vectors"):
            return fitted_bridge(session, cell, config, rows).bridge.augment(text, noise=False)

    key = stable_hash([bridge_key(session, cell, config, rows), config.key_fields("augment")])
    return session.remember(f"augmented {key}", make, among="augmented")
