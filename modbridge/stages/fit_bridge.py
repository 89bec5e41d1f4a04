"""Stage fit_bridge: statistics, priors, maps; from the training split alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import TRAINING_LOG, Session, StageFitting
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import ConfigError, DataError, Problem
from modbridge.geometry import nothing
from modbridge.interfaces.bridge import Bridge, FitData
from modbridge.interfaces.component import BuildContext
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embedded_texts, embeddings
from modbridge.stages.fit_encoder import plan_of
from modbridge.stages.fit_objective import built, objective_keys
from modbridge.store.artefact import load_component, load_weights
from modbridge.store.keys import stable_hash

KEPT = 4  # fitted bridges held at once: one that recalls texts may hold a gigabyte of them


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
    """A bridge and the folder of its artefact."""

    bridge: Bridge[Any]
    folder: Path


def fit_notes(session: Session, cell: Cell, config: BridgeConfig, rows: Rows | None = None) -> dict[str, str]:
    """What a bridge's fitting said that a reader of a table must know, by the bridge's name. Nothing is loaded."""
    fit = cell.untuned if _tuned(cell, config) else cell  # a tuned bridge was fitted before
    log = session.cache.path("fit_bridge", bridge_key(session, fit, config, rows)) / TRAINING_LOG
    if not log.is_file():
        fitted_bridge(session, fit, config, rows)
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    found = dict.fromkeys(str(values["note"]) for values in lines if "note" in values)
    return {config.title: "; ".join(found)} if found else {}


def train_vectors(session: Session, cell: Cell, side: str, rows: Rows | None = None) -> Embeddings:
    """The training split's vectors of one side, or the part of them that `rows` names."""
    vectors = embeddings(session, cell, "train", side)
    return vectors if rows is None else rows.of(vectors)


def bridge_key(session: Session, cell: Cell, config: BridgeConfig, rows: Rows | None = None) -> str:
    """What decides a fitted bridge: its fields, the vectors that its `needs` name, the spaces, the seed, and what it
    was tuned with."""
    if _tuned(cell, config):
        from modbridge.stages.tune import tune_key  # which starts from the bridge as it is fitted here

        return tune_key(session, cell)
    unknown = config.needs - {"text", "source", "pairs"}
    if unknown:
        raise ConfigError([Problem("bridge", f"{config.type!r} needs {sorted(unknown)}; known: text, source, pairs")])
    plan = plan_of(session, cell)
    spaces = [plan.source.to_json(), plan.text.to_json()]
    given: list[Any] = [_inputs(session, cell, config), rows and rows.name]
    if "pairs" in config.needs and cell.config.data.pairs is not None:
        given.append(cell.config.data.pairs)
    parts = [config.key_fields(), session.revisions(config, "bridge"), given, spaces, cell.config.seed]
    return stable_hash([*parts, *objective_keys(session, cell, config).values()])


def _tuned(cell: Cell, config: BridgeConfig) -> bool:
    """Whether a bridge is the cell's own, which is tuned."""
    return cell.config.tunes("bridge") and config == cell.config.bridge


def _inputs(session: Session, cell: Cell, config: BridgeConfig) -> dict[str, str]:
    """The keys of the training vectors that a bridge is fitted on."""
    sides = {"text": "text", "source": cell.config.data.train.modality}
    wanted = sides if "pairs" in config.needs else {need: sides[need] for need in sorted(config.needs)}
    return {need: embed_key(session, cell, "train", side) for need, side in wanted.items()}


def fitted_bridge(session: Session, cell: Cell, config: BridgeConfig, rows: Rows | None = None) -> FittedBridge:
    """A bridge fitted on the training split (or on `rows` of it), made once."""
    key = bridge_key(session, cell, config, rows)
    plan = plan_of(session, cell)
    modality = cell.config.data.train.modality

    def make() -> FittedBridge:
        context = BuildContext(
            device=session.torch_device(cell.config.device),
            seed=cell.config.seed,
            ports={"text": plan.text, "source": plan.source},
        )
        bridge: Bridge[Any] = built(session, cell, config, "bridge", context)
        if _tuned(cell, config):
            from modbridge.stages.tune import tuned_folder

            folder = tuned_folder(session, cell, "bridge")
            load_component(bridge, folder)
            return FittedBridge(bridge, folder)
        label = config.type if rows is None else f"{config.type} ({rows.name})"

        def build(out: Path, work: Path) -> None:
            given = _inputs(session, cell, config)
            embed = partial(embedded_texts, session, cell)
            fitting = StageFitting(session, work, cell.config.seed, label, embed=embed, given=key)
            if config.weights is not None:
                session.save(bridge, "bridge", out, **load_weights(bridge, config.weights))
                fitting.write_log(out)
                return
            text = train_vectors(session, cell, "text", rows) if "text" in given else nothing(plan.text)
            source = train_vectors(session, cell, modality, rows) if "source" in given else None
            pairs = pair_rows(cell, text, source) if "pairs" in config.needs and source is not None else None
            with session.guard(config, "bridge", "it was fitted"):
                bridge.fit(FitData(text, source, pairs), fitting)
            fitting.write_log(out)
            session.save(bridge, "bridge", out, seed=cell.config.seed, data=given)

        folder = session.stage("fit_bridge", key, label, build, joint=True)
        load_component(bridge, folder)
        return FittedBridge(bridge, folder)

    # Fields that change only how vectors are carried live in the built object, not in the artefact.
    memory = stable_hash(config.key_fields("cross", "augment"))
    return session.remember(f"bridge {key} {memory}", make, among="bridge", most=KEPT)


def pair_rows(cell: Cell, text: Embeddings, source: Embeddings) -> torch.Tensor:
    """For each text the row of its item among the source vectors, int64 (N,); -1 where the item was left out, and where
    `data.pairs` does not let the pair be known.

    Raises DataError as `known_pairs` does.
    """
    rows = {key: i for i, key in enumerate(source.keys)}
    if cell.config.data.pairs is not None:
        texts = {key.rsplit("#", 1)[0] for key in text.keys}
        known = known_pairs(cell, [key for key in source.keys if key in texts])
        rows = {key: row for key, row in rows.items() if key in known}
    return torch.tensor([rows.get(key.rsplit("#", 1)[0], -1) for key in text.keys], dtype=torch.int64)


def known_pairs(cell: Cell, whole: Sequence[str]) -> set[str]:
    """Those of the items with both a text and a medium, by key, that `data.pairs` lets be known as pairs. Raises
    DataError if there are fewer than it asks for."""
    known = cell.config.data.pairs
    if known is None:
        return set(whole)
    if len(whole) < known:
        raise DataError(
            f"data.pairs: {known}, but only {len(whole)} training items have a text and a "
            f"{cell.config.data.train.modality} vector. Ask for fewer, or leave it out to take all."
        )
    order = Draw.of(list(whole), cell.config.seed).named("pairs").bits(1)[:, 0].argsort()[:known]
    return {whole[i] for i in order.tolist()}


def item_rows(vectors: Embeddings, keys: Sequence[str]) -> list[int]:
    """The rows of given keys."""
    rows = {key: i for i, key in enumerate(vectors.keys)}
    return [rows[key] for key in keys]
