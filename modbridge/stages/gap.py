"""The gap of a pipeline, before and after each bridge, with or without splits of one set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.config.pipeline import dump
from modbridge.errors import ConfigError, DataError, Problem
from modbridge.geometry import Statistics
from modbridge.measures import gap_norm, paired_cosine, recall_at, unpaired_cosine
from modbridge.stages.cross import Split, held_out
from modbridge.stages.fit_bridge import Rows
from modbridge.stages.score import measured, require_texts
from modbridge.tables import Row, summarise


def gap(session: Session, experiment: Experiment) -> dict[str, Any]:
    """{"rows": one row a bridge, "all_pairs": the figures of the whole held-out set without a bridge}."""
    experiment.require_paths()
    for cell in experiment.cells:
        require_texts(cell)
    rows: list[Row] = []
    for cell in experiment.cells:
        for bridge in cell.config.gap.bridges or [cell.config.bridge]:
            for seed, split in splits(session, cell):
                name: Row = {**cell.varied, "cell": cell.label, "bridge": bridge.type, "needs": sorted(bridge.needs)}
                if fields := told_apart(bridge, cell.config.gap.bridges):
                    name["fields"] = fields
                if split is not None:
                    name["split"] = seed
                columns = measured(session, cell, bridge, split)
                if not columns:
                    raise DataError("the gap is measured on single vectors of at least two held-out items.")
                rows.append({**name, **columns})
    table = summarise(rows, "split")
    return {"rows": table, "runs": rows, "all_pairs": whole(session, experiment.first)}


def told_apart(bridge: BridgeConfig, others: Sequence[BridgeConfig]) -> str:
    """The fields in which a bridge differs from others of its type in one table: "start_step=300"; "" if alone."""
    own = _leaves(dump(bridge))
    alike = [_leaves(dump(other)) for other in others if other.type == bridge.type]
    differing = [name for name in own if any(leaves.get(name) != own[name] for leaves in alike)]
    return ", ".join(f"{name}={own[name]}" for name in differing)


def _leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for name, item in tree.items() for k, v in _leaves(item, f"{path}.{name}".lstrip(".")).items()}


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
        row[f"{name}_cosine"] = float(Statistics.of(side.values).mean.norm() ** 2)
        row[f"{name}_unpaired_cosine"] = unpaired_cosine(side.values, side.values)
    return row
