"""Stage score: one row of the table for a cell: gap measures of its vectors, and scores of what its decoders made.

Each metric is asked once for each decoder that it judges, and its scores are kept by themselves: a metric that is added
leaves the others as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import numpy as np

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.component import Purpose
from modbridge.config.kinds import BridgeConfig, MetricConfig, SourceConfig
from modbridge.errors import ConfigError, Problem
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Reference, Score, Scoring
from modbridge.measures import gap_row
from modbridge.media import load_image
from modbridge.stages.answers import attended
from modbridge.stages.cross import Crossed, Split, crossed, held_out_from
from modbridge.stages.embed import left_out
from modbridge.stages.fit_bridge import Rows, fit_notes, fitted_bridge
from modbridge.stages.fit_decoder import augments
from modbridge.stages.fit_objective import built_metric, objective_keys
from modbridge.stages.generate import Generated, generated
from modbridge.stages.references import references
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


def held_out_references(session: Session, cell: Cell, generation: Generated) -> list[Reference]:
    """What the captions of the test items are judged by."""
    keys = [decoded.key for decoded in generation.predictions]
    return references(session, cell, keys, _judged_on(cell))


def _judged_on(cell: Cell) -> SourceConfig:
    return cell.config.data.test or cell.config.data.train


class Images(Sequence[Decoded]):
    """What a decoder that makes images made; each image, uint8 (H, W, 3), is read from its file when it is asked for.
    A slice is such a sequence too."""

    def __init__(self, predictions: Sequence[Decoded], files: Sequence[Path]) -> None:
        self._predictions, self._files = predictions, files

    def __len__(self) -> int:
        return len(self._predictions)

    @overload
    def __getitem__(self, index: int) -> Decoded: ...
    @overload
    def __getitem__(self, index: slice) -> Images: ...
    def __getitem__(self, index: int | slice) -> Decoded | Images:
        if isinstance(index, slice):
            return Images(self._predictions[index], self._files[index])
        return replace(self._predictions[index], image=np.asarray(load_image(self._files[index])))


@dataclass(frozen=True)
class Scores:
    """What the metrics say of what a cell's decoders made: one Score a column of the row, with one value an item where
    the metric has it. `tokenizers`: those that the scores depend on."""

    columns: dict[str, Score]
    tokenizers: list[str]


def judged(cell: Cell, config: MetricConfig) -> Iterator[tuple[str, Cell]]:
    """What a metric judges: the cell itself, under "", or, under "name_", the cells of those further decoders that make
    images."""
    if config.judges == "text":
        yield "", cell
    else:
        yield from ((f"{name}_", cell.others[name]) for name in cell.config.image_decoders)


def scores(session: Session, cell: Cell) -> Scores:
    """All scores of a cell."""
    columns: dict[str, Score] = {}
    tokenizers: set[str] = set()
    for config in cell.config.metrics:
        for before, of in judged(cell, config):
            found, tokenizer = _scored_by(session, of, config)
            columns |= {f"{before}{name}": score for name, score in found.items()}
            tokenizers |= {tokenizer} if tokenizer else set()
    return Scores(columns, sorted(tokenizers))


def _scored_by(session: Session, cell: Cell, config: MetricConfig) -> tuple[dict[str, Score], str | None]:
    """What one metric says of what the cell's decoder made, and its tokenizer; made once."""
    generation, source = generated(session, cell), _judged_on(cell)
    parts = [config.key_fields(), session.revisions(config, "metric"), config.missing() is not None]
    evaluate = [cell.config.evaluate.caption, cell.config.evaluate.references]
    taught = objective_keys(session, cell, config)
    key = stable_hash([generation.key, parts, session.fingerprint(source), evaluate, taught])

    def build(out: Path, work: Path) -> None:
        texts, made = config.judges == "text", generation.predictions
        predictions: Sequence[Decoded] = made if texts else Images(made, generation.images)
        keys = [decoded.key for decoded in made]
        by = references(session, cell, keys, source, media=config.reads_media, texts=texts)
        kept = work / "metric"
        kept.mkdir(exist_ok=True)
        metric = built_metric(session, cell, config)
        with (
            attended(session, [metric]),
            session.guard(config, "metric", "it scored captions" if texts else "it scored images"),
        ):
            found = metric.judge(predictions, by, Scoring(kept, session.talk.progress))
        content = {"scores": {name: asdict(score) for name, score in found.items()}, "tokenizer": metric.tokenizer}
        (out / ROW).write_text(json.dumps(content), encoding="utf-8")
        write_manifest(out, {"kind": "scores", "type": config.type})

    folder = session.stage("score", key, f"{cell.label}: {config.type}", build)
    read_manifest(folder)
    content = json.loads((folder / ROW).read_text(encoding="utf-8"))
    found = {name: Score(**{**score, "items": tuple(score["items"])}) for name, score in content["scores"].items()}
    return found, content["tokenizer"]


def scored(session: Session, cell: Cell) -> dict[str, Any]:
    """The cell's row: who it is, gap measures, scores of captions and images, how many items, which tokenizer."""
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
    captioner = "paired" if config.supervised else "text-only"
    if config.decoder is not None and not config.decoder.needs_fit:
        captioner = "untrained"
    return f"captioner {captioner}, bridge {bridge}"


def data_notes(session: Session, cell: Cell) -> dict[str, str]:
    """What a reader of a table must know of the items: how many are missing or unreadable, how many pairs are known."""
    notes = {}
    data = cell.config.data
    for split in ("train", "unpaired", "validation", "test"):
        config = getattr(data, split)
        if config is None:
            continue
        source = session.source(config)
        if source.skipped:  # items, or whole shards of nobody knows how many
            absent = f"{len(source)} items; left out, as missing or broken: {len(source.skipped)}"
            notes[f"data.{split}"] = f"{absent} (the first {source.skipped[0]})"
    modality = data.train.modality
    read = cell.config.decoder is None or not cell.config.decoder.left_to_tuning
    learnt = {"train"} if read and {"source", "pairs"} & set(needs(cell)) else set()
    for split in sorted(learnt | {held_out_from(cell, None)}):
        unread = left_out(session, cell.untuned if split == "train" else cell, split, modality)
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
