"""Stage score: one row of the table for a cell: gap measures of its vectors, and scores of its captions."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from modbridge.assembly.build import build_metric
from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.component import Purpose
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import ConfigError, DataError, Problem
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge.measures import gap_row
from modbridge.stages.cross import Crossed, Split, crossed, held_out_from
from modbridge.stages.embed import left_out
from modbridge.stages.fit_bridge import Rows, fit_notes, fitted_bridge
from modbridge.stages.fit_decoder import augments
from modbridge.stages.generate import Generated, generated
from modbridge.stages.select import chosen_by, needs
from modbridge.store.artefact import read_manifest, write_manifest
from modbridge.store.keys import stable_hash
from modbridge.tables import Row

ROW = "row.json"


def measured(
    session: Session, cell: Cell, bridge: BridgeConfig | None = None, split: Split | None = None
) -> dict[str, float]:
    """The gap measures of the held-out vectors across a bridge; none for sequences, nor for fewer than two items."""
    vectors = crossed(session, cell, bridge, split)
    if not vectors.measured:
        return {}
    key = stable_hash([vectors.key, cell.config.evaluate.caption, "measures 1"])
    label = cell.label if bridge is None else bridge.type

    def build(out: Path, work: Path) -> None:
        row = gap_columns(vectors)
        (out / ROW).write_text(json.dumps(row), encoding="utf-8")
        write_manifest(out, {"kind": "measures", "type": label})

    folder = session.stage("measure", key, label if split is None else f"{label} ({split.test.name})", build)
    read_manifest(folder)
    found: dict[str, float] = json.loads((folder / ROW).read_text(encoding="utf-8"))
    return found


def gap_columns(vectors: Crossed) -> dict[str, float]:
    """The gap measures of crossed vectors, with the text statistics of the fit split."""
    return gap_row(
        vectors.bridged.values,
        vectors.text.values,
        bridged_fit_mean=vectors.fit_mean,
        text_fit_mean=vectors.text_fit.mean,
        text_fit_radius=vectors.text_fit.radius,
        frame=vectors.bridged.port.frame,
    )


def build_metrics(session: Session, cell: Cell) -> list[Metric[Any]]:
    """The cell's metrics, built."""
    return [build_metric(config, session.plugins.registry) for config in cell.config.metrics]


def missing_parts(cell: Cell) -> list[str]:
    """What the environment lacks for the cell's metrics."""
    return [f"{config.type}: {text}" for config in cell.config.metrics if (text := config.missing())]


def references(session: Session, cell: Cell, generation: Generated) -> list[Reference]:
    """What each caption is judged by."""
    source = session.source(cell.config.data.test or cell.config.data.train)
    rows = {key: i for i, key in enumerate(source.keys())}
    skip = cell.config.evaluate.caption if cell.config.evaluate.references == "others" else None
    found = []
    for decoded in generation.predictions:
        row = rows[decoded.key]
        texts = tuple(text for i, text in enumerate(source.texts(row)) if i != skip)
        if not texts:
            raise DataError(
                f"the item {decoded.key!r} has no reference left to score against; evaluate.references: others needs "
                f"two captions an item."
            )
        found.append(Reference(decoded.key, texts, source.facts(row)))
    return found


@dataclass(frozen=True)
class Scores:
    """What the metrics say of a cell's captions: one Score a column, with one value an item where the metric has it.
    `tokenizers`: those that the scores depend on."""

    columns: dict[str, Score]
    tokenizers: list[str]


def scores(session: Session, cell: Cell) -> Scores:
    """The captions' scores, made once."""
    generation = generated(session, cell)
    registry = session.plugins.registry
    parts = [
        [config.key_fields(), registry.get("metric", config.type).identity, config.missing() is not None]
        for config in cell.config.metrics
    ]
    source = cell.config.data.test or cell.config.data.train
    evaluate = [cell.config.evaluate.caption, cell.config.evaluate.references]
    key = stable_hash([generation.key, parts, session.fingerprint(source), evaluate])

    def build(out: Path, work: Path) -> None:
        judged = references(session, cell, generation)
        found: dict[str, Score] = {}
        tokenizers: set[str] = set()
        for metric in build_metrics(session, cell):
            with session.guard(metric.config, "metric", "it scored captions"):
                found |= metric.judge(generation.predictions, judged)
            tokenizers |= {metric.tokenizer} if metric.tokenizer else set()
        content = {"scores": {name: asdict(score) for name, score in found.items()}, "tokenizers": sorted(tokenizers)}
        (out / ROW).write_text(json.dumps(content), encoding="utf-8")
        write_manifest(out, {"kind": "scores", "type": cell.label})

    folder = session.stage("score", key, cell.label, build)
    read_manifest(folder)
    content = json.loads((folder / ROW).read_text(encoding="utf-8"))
    columns = {name: Score(**{**score, "items": tuple(score["items"])}) for name, score in content["scores"].items()}
    return Scores(columns, content["tokenizers"])


def scored(session: Session, cell: Cell) -> dict[str, Any]:
    """The cell's row: who it is, gap measures, caption scores, how many items, which tokenizer."""
    generation, found = generated(session, cell), scores(session, cell)
    columns = {name: _number(score.corpus) for name, score in found.columns.items()}
    notes = {name: score.note for name, score in found.columns.items() if score.note}
    lost = [name for name, score in found.columns.items() if columns[name] is None and score.corpus is not None]
    notes |= dict.fromkeys(lost, "the metric gave no finite number")
    for bridge in (cell.config.bridge, cell.config.augmenter):
        notes |= fit_notes(session, cell, bridge)
    notes |= data_notes(session, cell)
    by, pairs = chosen_by(cell)
    if pairs:
        notes["select"] = f"by {by}, on validation media with their captions: it takes pairs"
    return {
        **identity(cell),
        **chosen(session, cell, cell.config.bridge, "cross"),
        **chosen(session, cell, cell.config.augmenter, "augment"),
        "n": len(generation.predictions),
        **measured(session, cell),
        **columns,
        "tokenizer": ", ".join(found.tokenizers) or None,
        "notes": notes,
    }


def chosen(session: Session, cell: Cell, config: BridgeConfig, purpose: Purpose, rows: Rows | None = None) -> Row:
    """What fitting chose of the fields that change only `purpose`: {"chosen_start_step": 500}. A bridge whose config
    leaves nothing open is not even loaded."""
    names = config.chosen_for(purpose)
    found = fitted_bridge(session, cell, config, rows).bridge.chosen() if names else {}
    return {f"chosen_{name}": found[name] for name in names}


def identity(cell: Cell) -> dict[str, Any]:
    """The columns that say which row it is."""
    oracle = cell.config.evaluate.input == "text"
    return {
        **cell.varied,
        "cell": cell.label,
        "bridge": "oracle" if oracle else cell.config.bridge.title,
        "augment": augments(cell),
        "training": training(cell),
        "select": chosen_by(cell)[0],
        "needs": needs(cell),
        "seed": cell.config.seed,
    }


def training(cell: Cell) -> str:
    """What captioner and bridges learnt from: "captioner text-only, bridge paired"."""
    config = cell.config
    taken = config.bridge.needs if config.supervised else config.bridge.needs | config.augmenter.needs
    kinds = {"pairs": "paired", "source": "unpaired", "text": "text-only"}
    bridge = next((word for need, word in kinds.items() if need in taken), "untrained")
    return f"captioner {'paired' if config.supervised else 'text-only'}, bridge {bridge}"


def data_notes(session: Session, cell: Cell) -> dict[str, str]:
    """What a reader of a table must know of the items: how many are missing or unreadable, how many pairs are known."""
    notes = {}
    data = cell.config.data
    for split in ("train", "unpaired", "validation", "test"):
        config = getattr(data, split)
        if config is None:
            continue
        source = session.source(config)
        absent = f"{len(source)} of {len(source) + len(source.skipped)} items: the files of the others are missing"
        if source.skipped:
            notes[f"data.{split}"] = f"{absent} (the first {source.skipped[0]})"
    modality = data.train.modality
    learnt = {"train"} if {"source", "pairs"} & set(needs(cell)) else set()
    for split in sorted(learnt | {held_out_from(cell, None)}):
        unread = left_out(session, cell, split, modality)
        if unread:
            told = f"{len(unread)} {modality} items could not be read and were left out ({unread[0]} ...)"
            notes[f"data.{split}, unreadable"] = told
    if data.pairs is not None and "pairs" in needs(cell):
        notes["data.pairs"] = f"{data.pairs} training items are known as pairs"
    return notes


def _number(value: float | None) -> float | None:
    """A score as JSON can hold it."""
    return value if value is None or math.isfinite(value) else None


def require_texts(cell: Cell) -> None:
    """Raise ConfigError unless every source brings the texts that measuring and decoding take."""
    for split in ("train", "test"):
        source = getattr(cell.config.data, split)
        if source is not None and not source.brings_texts:
            path = f"data.{split}"
            message = f"{source.type!r} brings no texts as it is configured; captions are needed here"
            raise ConfigError([Problem(path, message, where=cell.document.where(path))])
