"""The gap of a pipeline, before and after each bridge, with or without splits of one set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import Session
from modbridge.config.blocks import check_block
from modbridge.config.component import flat
from modbridge.config.kinds import BridgeConfig
from modbridge.config.pipeline import dump
from modbridge.config.sweep import gap_bridges
from modbridge.config.weights import has_weights
from modbridge.cost import cost_of
from modbridge.errors import ConfigError, DataError, PortError, Problem
from modbridge.geometry import Statistics
from modbridge.measures import gap_norm, paired_cosine, recall_at, unpaired_cosine
from modbridge.stages.cross import Split, held_out
from modbridge.stages.fit_bridge import Rows, fit_notes, fitted_bridge
from modbridge.stages.fit_encoder import plan_of
from modbridge.stages.gap_measures import GapMeasures, gap_measures
from modbridge.stages.score import chosen, data_notes, require_texts
from modbridge.stages.similarity import similarity
from modbridge.tables import Row, summarise

BEFORE = "identity"


@dataclass(frozen=True)
class Entry:
    """One row of the table: a bridge of one cell. `measures`: by split, None where there is only the test source."""

    cell: Cell
    bridge: BridgeConfig
    row: Row
    runs: list[Row]
    measures: list[tuple[Split | None, GapMeasures]]


@dataclass(frozen=True)
class GapResult:
    """`entries`: the table. `all_pairs`: the figures of the whole held-out set without a bridge. `similarity`: table 1
    of Diffusion Bridge, by `gap.similarity`; `notes` say what could not be had."""

    entries: list[Entry]
    all_pairs: dict[str, float]
    similarity: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        return [entry.row for entry in self.entries]

    def to_json(self) -> dict[str, Any]:
        runs = [run for entry in self.entries for run in entry.runs]
        found: dict[str, Any] = {"rows": self.rows, "runs": runs, "all_pairs": self.all_pairs}
        return found | ({"similarity": self.similarity, "notes": self.notes} if self.similarity else {})


def gap(session: Session, experiment: Experiment) -> GapResult:
    """Measure every bridge of every cell."""
    experiment.require_paths()
    for cell in experiment.cells:
        require_texts(cell)
        _require_vectors(session, cell)
    entries: list[Entry] = []
    tables: list[Row] = []
    notes: dict[str, None] = {}
    for cell in experiment.cells:
        found = _entries(session, cell, {entry.measures[0][1].key for entry in entries if is_before(entry)})
        entries += found
        if cell.config.gap.similarity:
            rows, told = _similarity(session, cell, found)
            tables += rows
            notes |= dict.fromkeys(told)
    return GapResult(entries, whole(session, experiment.first), tables, list(notes))


def _require_vectors(session: Session, cell: Cell) -> None:
    """Raise ConfigError where the encoder gives sequences: what the gap is measured by is defined on single vectors."""
    plan = plan_of(session, cell)
    for port in (plan.source, plan.text):
        try:
            port.require_vectors("the measure of the gap")
        except PortError as error:
            raise ConfigError([Problem("encoder", str(error), where=cell.document.where("encoder"))]) from error


def is_before(entry: Entry) -> bool:
    return entry.bridge.type == BEFORE


def _entries(session: Session, cell: Cell, before: set[str]) -> list[Entry]:
    """The rows of one cell. `before`: keys of rows without a bridge that the table has already."""
    bridges = gap_bridges(cell.config)
    entries = [_entry(session, cell, bridge, bridges) for bridge in bridges]
    if cell.config.gap.bridges or any(map(is_before, entries)):
        return entries
    first = before_entry(session, cell)
    if first is None:
        return entries
    known = before | {entries[0].measures[0][1].key}  # of captions' own vectors (evaluate.input) every row is the same
    return entries if first.measures[0][1].key in known else [first, *entries]


def before_entry(session: Session, cell: Cell) -> Entry | None:
    """The row without a bridge; None where the plugin that brings `identity` is switched off."""
    none = check_block("bridge", BEFORE, session.plugins.registry, "", [])
    return _entry(session, cell, none, []) if isinstance(none, BridgeConfig) else None


def _entry(session: Session, cell: Cell, bridge: BridgeConfig, others: Sequence[BridgeConfig]) -> Entry:
    varied = cell.varied if bridge in others else {k: v for k, v in cell.varied.items() if not k.startswith("bridge")}
    name: Row = {**varied, "cell": cell.label, "bridge": bridge.title, "needs": sorted(bridge.needs)}
    if cell.config.gap.fit is not None and has_weights(bridge):
        name["needs"] += ["weights (not fitted on the split)"]
        session.talk.say(
            f"gap: {cell.label}: the weights of {bridge.type!r} are given and not fitted anew on each split; the row "
            f"tells something only if they have not seen the held-out items"
        )
    if fields := told_apart(bridge, others):
        name["fields"] = fields
    measures, runs = [], []
    for seed, split in splits(session, cell):
        found = gap_measures(session, cell, bridge, split)
        name["notes"] = fit_notes(session, cell, bridge, split.fit if split else None) | data_notes(session, cell)
        measures.append((split, found))
        one = {} if split is None else {"split": seed}
        open_steps = chosen(session, cell, bridge, "cross", split.fit if split else None)
        runs.append({**name, **one, **open_steps, **found.columns})
    (row,) = summarise(runs, "split")
    if cell.config.gap.cost:
        # Timed anew at every call, and of one split: nothing that is kept or compared depends on it.
        split = measures[0][0]
        source = held_out(session, cell, split)[0]
        fitted = fitted_bridge(session, cell, bridge, split.fit if split else None)
        row |= cost_of(fitted.bridge, source, cell.config.seed).columns()
    return Entry(cell, bridge, row, runs, measures)


def _name(row: Row) -> dict[str, str]:
    return {column: row[column] for column in ("bridge", "fields") if column in row}


def _similarity(session: Session, cell: Cell, entries: Sequence[Entry]) -> tuple[list[Row], list[str]]:
    """The similarity table of one cell, means over its splits."""
    bridges = [(_name(entry.row), entry.bridge) for entry in entries]
    tables = [(seed, similarity(session, cell, bridges, split)) for seed, split in splits(session, cell)]
    rows = []
    for members in zip(*(table.rows for _, table in tables), strict=True):
        named = [
            {"cell": cell.label, **({} if len(tables) == 1 else {"split": seed}), **row}
            for (seed, _), row in zip(tables, members, strict=True)
        ]
        rows += summarise(named, "split")
    return rows, list(dict.fromkeys(note for _, table in tables for note in table.notes))


def told_apart(bridge: BridgeConfig, others: Sequence[BridgeConfig]) -> str:
    """The fields in which a bridge differs from others of its type in one table: "start_step=300"; "" if alone."""
    own = flat(dump(bridge))
    alike = [flat(dump(other)) for other in others if other.title == bridge.title]
    differing = [name for name in own if any(values.get(name) != own[name] for values in alike)]
    return ", ".join(f"{name}={own[name]}" for name in differing)


def splits(session: Session, cell: Cell) -> list[tuple[int, Split | None]]:
    """The fit/test splits that `gap` asks for: `numpy.random.default_rng(seed).permutation(n)`, the first `fit` items
    to fit on and the others to test on."""
    config = cell.config.gap
    if config.fit is None:
        if cell.config.data.test is None:
            raise ConfigError(
                [
                    Problem(
                        "data.test",
                        "is missing, and gap.fit does not split data.train",
                        where=cell.document.where("data"),
                        hint="give data.test, or gap.fit: 400",
                    )
                ]
            )
        return [(config.seeds[0], None)]
    keys = session.source(cell.config.data.train).keys()
    if config.fit >= len(keys):
        raise DataError(f"gap.fit is {config.fit}, but the source has {len(keys)} items; some must be left to test on.")
    found: list[tuple[int, Split | None]] = []
    for seed in config.seeds:
        order = np.random.default_rng(seed).permutation(len(keys))
        fit, test = order[: config.fit], order[config.fit :]
        name = f"split {seed} of {config.fit}"
        found.append(
            (
                seed,
                Split(
                    Rows(f"{name}, fit", frozenset(keys[i] for i in fit)),
                    Rows(f"{name}, test", frozenset(keys[i] for i in test)),
                ),
            )
        )
    return found


def whole(session: Session, cell: Cell) -> dict[str, float]:
    """The gap of all held-out pairs as the encoder gives them, nothing fitted.

    `image_image_cosine` is the mean over all pairs of images, each with itself included, which is the squared length
    of their mean; `image_image_unpaired_cosine` leaves those out. The same for texts.
    """
    source, text = held_out(session, cell)
    row = {
        "n": len(source),
        "gap_norm": gap_norm(source.values, text.values),
        "paired_cosine": paired_cosine(source.values, text.values),
        "unpaired_cosine": unpaired_cosine(source.values, text.values),
        "r_at_1": recall_at(source.values, text.values)[1],
    }
    for side in (source, text):
        name = f"{side.port.modality}_{side.port.modality}"
        row[f"{name}_cosine"] = float(Statistics.of(side).mean.norm() ** 2)
        row[f"{name}_unpaired_cosine"] = unpaired_cosine(side.values, side.values)
    return row
