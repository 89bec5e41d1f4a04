"""Stage fit_bridge: statistics, priors, maps; from the training split alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session, StageFitting
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import ConfigError, Problem
from modbridge.interfaces.bridge import Bridge, FitData
from modbridge.interfaces.component import BuildContext
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embeddings
from modbridge.stages.fit_encoder import plan_of
from modbridge.store.artefact import load_component
from modbridge.store.keys import stable_hash


@dataclass(frozen=True)
class Rows:
    """A part of the training items, by item key; `name` says which, for keys and messages."""

    name: str
    keys: frozenset[str]

    def of(self, vectors: Embeddings) -> Embeddings:
        """The vectors whose items belong to the part, in their order."""
        return vectors.select([i for i, key in enumerate(vectors.keys) if key.rsplit("#", 1)[0] in self.keys])


@dataclass(frozen=True)
class FittedBridge:
    """A bridge and the key of its artefact."""

    bridge: Bridge[Any]
    key: str
    folder: Path


def train_vectors(session: Session, cell: Cell, side: str, rows: Rows | None = None) -> Embeddings:
    """The training split's vectors of one side, or the part of them that `rows` names."""
    vectors = embeddings(session, cell, "train", side)
    return vectors if rows is None else rows.of(vectors)


def fitted_bridge(session: Session, cell: Cell, config: BridgeConfig, rows: Rows | None = None) -> FittedBridge:
    """A bridge fitted on the training split (or on `rows` of it), made once."""
    modality = cell.config.data.train.modality
    unknown = config.needs - {"text", "source", "pairs"}
    if unknown:
        raise ConfigError([Problem("bridge", f"{config.type!r} needs {sorted(unknown)}; known: text, source, pairs")])
    wants_source = bool(config.needs & {"source", "pairs"})
    inputs = {
        "text": embed_key(session, cell, "train", "text")
        if "text" in config.needs or "pairs" in config.needs
        else None,
        "source": embed_key(session, cell, "train", modality) if wants_source else None,
        "rows": rows and rows.name,
    }
    plan = plan_of(session, cell)
    spaces = [plan.source.to_json(), plan.text.to_json()]
    key = stable_hash([config.key_fields(), session.revisions(config, "bridge"), inputs, spaces, cell.config.seed])

    def make() -> FittedBridge:
        context = BuildContext(
            device=session.torch_device(cell.config.device),
            seed=cell.config.seed,
            ports={"text": plan.text, "source": plan.source},
        )
        bridge: Bridge[Any] = session.build(config, "bridge", context)
        label = config.type if rows is None else f"{config.type} ({rows.name})"

        def build(out: Path, work: Path) -> None:
            text = train_vectors(session, cell, "text", rows) if inputs["text"] else _none(plan.text)
            source = train_vectors(session, cell, modality, rows) if wants_source else None
            pairs = pair_rows(text, source) if "pairs" in config.needs and source is not None else None
            fitting = StageFitting(session, work, cell.config.seed, label)
            with session.guard(config, "bridge", "it was fitted"):
                bridge.fit(FitData(text, source, pairs), fitting)
            fitting.write_log(out)
            session.save(bridge, "bridge", out, seed=cell.config.seed, data=inputs)

        folder = session.stage("fit_bridge", key, label, build)
        load_component(bridge, folder)
        return FittedBridge(bridge, key, folder)

    # Fields that change only how vectors are carried live in the built object, not in the artefact.
    memory = stable_hash(config.key_fields("cross", "augment"))
    return session.remember(f"bridge {key} {memory}", make)


def pair_rows(text: Embeddings, source: Embeddings) -> torch.Tensor:
    """For each text the row of its item among the source vectors, int64 (N,); -1 where the item was left out."""
    rows = {key: i for i, key in enumerate(source.keys)}
    return torch.tensor([rows.get(key.rsplit("#", 1)[0], -1) for key in text.keys], dtype=torch.int64)


def item_rows(vectors: Embeddings, keys: Sequence[str]) -> list[int]:
    """The rows of given keys."""
    rows = {key: i for i, key in enumerate(vectors.keys)}
    return [rows[key] for key in keys]


def _none(port: Any) -> Embeddings:
    return Embeddings(torch.zeros((0, port.space.dim)), port, ())
