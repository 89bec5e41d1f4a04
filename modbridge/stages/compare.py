"""Stage compare: every row of a matrix at every seed, with intervals, tests against one row, ranks and costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from statistics import fmean, stdev
from typing import Any

import numpy as np

from modbridge.assembly.experiment import Cell, Experiment, row_name
from modbridge.assembly.session import Session
from modbridge.assembly.workers import Failure
from modbridge.comparison_tables import ORACLE
from modbridge.config.weights import has_weights
from modbridge.cost import cost_of
from modbridge.errors import ConfigError, Problem
from modbridge.gap_tables import COLUMNS as GAP_COLUMNS
from modbridge.ranking import group_of, ranked
from modbridge.resampling import HARMONIC_MEAN, Estimate, Replicate, estimates
from modbridge.stages.cross import held_out
from modbridge.stages.fit_bridge import fit_notes, fitted_bridge
from modbridge.stages.fit_decoder import augments, required_decoder
from modbridge.stages.gap import splits
from modbridge.stages.gap_measures import gap_measures
from modbridge.stages.run import common_axes, require_held_out
from modbridge.stages.score import data_notes, measured, require_texts, scored, scores
from modbridge.stages.select import needs, require_selection
from modbridge.tables import MEASURES, Row, add_gap_closed, is_number

HARMONIC = "harmonic_mean"
# Columns of the gap that may rank rows, and those of them where less is better.
RANKING = frozenset({*MEASURES, HARMONIC} - {"unpaired_cosine"}) | {
    name for name in GAP_COLUMNS if "r_at_" in name or name == "energy_distance"
}
LOWER_IS_BETTER = frozenset({"gap_norm", "energy_distance"})
# Columns with an interval and a test; the others have their mean and deviation.
JUDGED = (*MEASURES, HARMONIC, "gap_closed")
SPLITS = ("train", "unpaired", "validation", "test")
WEIGHTS = "weights (not fitted on the split)"

Made = dict[str, list[tuple[Replicate, Row]]]


@dataclass(frozen=True)
class Comparison:
    """`rows`: the table, each group of equal needs ranked by `rank_by`. `runs`: every row at every seed. `failures`:
    what failed, by cell. `over`: by row, the columns whose intervals are not over items and seeds, and over what."""

    rows: list[Row]
    runs: list[Row]
    rank_by: str
    baseline: str | None
    seeds: list[int]
    fingerprints: dict[str, str]
    failures: dict[str, Failure] = field(default_factory=dict)
    over: dict[str, dict[str, str]] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        told = {cell: {"message": f.message, "exit_code": f.exit_code} for cell, f in self.failures.items()}
        return {**asdict(self), "failures": told}


@dataclass(frozen=True)
class _Row:
    """One row of the table: its cells, by seed."""

    label: str
    cells: list[Cell]


def replicates(session: Session, cell: Cell) -> list[tuple[Replicate, Row]]:
    """One cell's measures: of its captions where it has a decoder, else of its vectors, once for every split."""
    if cell.config.decoder is None:
        return [_vectors(session, cell, seed, split) for seed, split in splits(session, cell)]
    row = scored(session, cell)
    found = scores(session, cell).columns
    columns = {
        name: value for name, value in row.items() if is_number(value) and name not in {"seed", "n", *cell.varied}
    }
    items = {name: np.asarray(score.items) for name, score in found.items() if len(score.items) == row["n"]}
    source, _ = held_out(session, cell)
    if measured(session, cell):
        gap = gap_measures(session, cell, cell.config.bridge, None)
        columns |= {name: value for name, value in gap.columns.items() if value is not None}
        items |= gap.items
    return [(Replicate(cell.config.seed, columns, items, _ids(session, cell, source.keys)), row)]


def _vectors(session: Session, cell: Cell, seed: int, split: Any) -> tuple[Replicate, Row]:
    config = cell.config
    gap = gap_measures(session, cell, config.bridge, split)
    seed = config.seed if split is None else seed
    source, _ = held_out(session, cell, split)
    row: Row = {**cell.varied, "cell": cell.label, "bridge": config.bridge.title, "needs": needs(cell), "seed": seed}
    if split is not None and has_weights(config.bridge):
        row["needs"] = [*row["needs"], WEIGHTS]
    row["notes"] = fit_notes(session, cell, config.bridge, split.fit if split else None) | data_notes(session, cell)
    row |= {"n": len(source), **gap.columns}
    return Replicate(seed, gap.columns, gap.items, _ids(session, cell, source.keys)), row


def _ids(session: Session, cell: Cell, keys: Iterable[str]) -> tuple[str, ...]:
    """Which item each is: two made-up worlds may call different items by one key."""
    print_ = session.fingerprint(cell.config.data.test or cell.config.data.train)[:12]
    return tuple(f"{print_}/{key}" for key in keys)


def require_comparable(session: Session, experiment: Experiment) -> None:
    """Raise before any work what would fail every row: missing paths, an unknown baseline or measure to rank by."""
    experiment.require_paths()
    first = experiment.first
    if first.config.decoder is None and first.config.gap.fit is not None and "seed" in first.varied:
        message = "the seeds of this comparison are the splits of gap.fit, and each would be counted at every seed"
        raise ConfigError([Problem("seed", message, where="--vary", hint="choose the splits by --seeds")])
    for cell in experiment.cells:
        require_texts(cell)
        if cell.config.decoder is not None:
            required_decoder(cell)
            require_selection(session, cell)
            require_held_out(cell)
    chosen_rank(first)
    labels = [row.label for row in _rows(experiment)]
    wanted = first.config.compare.baseline
    if wanted is not None and wanted not in [*labels, *map(row_name, experiment.misfits)]:
        close = get_close_matches(wanted, labels, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"rows: {', '.join(labels)}"
        raise ConfigError([Problem("compare.baseline", f"there is no row {wanted!r}", hint=hint)])


def chosen_rank(cell: Cell) -> str:
    """The measure that rows are ranked by. Raises ConfigError for one that is not there."""
    config = cell.config
    columns = list(config.scored) if config.decoder is not None else []
    wanted = config.compare.rank_by
    if wanted is None:
        return "cider" if "cider" in columns else next(iter(columns), HARMONIC)
    known = [*columns, *sorted(RANKING)]
    if wanted not in known:
        close = get_close_matches(wanted, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"measures: {', '.join(known)}"
        place = cell.document.where("compare.rank_by")
        raise ConfigError([Problem("compare.rank_by", f"no row has a {wanted!r}", where=place, hint=hint)])
    return wanted


def compare(session: Session, experiment: Experiment, failures: Mapping[str, Failure]) -> Comparison:
    """The table of a matrix whose cells were all tried before (`replicates`); `failures` are those that failed."""
    settings = experiment.first.config.compare
    rank_by = chosen_rank(experiment.first)
    failures, higher = dict(failures), {name: name not in LOWER_IS_BETTER for name in RANKING}
    made: Made = {}
    rows = _rows(experiment)
    for row in rows:
        made[row.label] = []
        for cell in row.cells:
            if cell.label not in failures:
                made[row.label] += replicates(session, cell)
                if cell.config.decoder is not None:
                    higher |= {name: s.higher_is_better for name, s in scores(session, cell).columns.items()}
    within = ["seed", *sorted(common_axes(experiment.cells))]
    made = _with_gap_closed(made, within)
    baseline = settings.baseline or _plain(rows, made)
    metrics = [name for name in higher if name not in RANKING]
    judged = [name for name in dict.fromkeys([*JUDGED, *metrics, rank_by]) if _anywhere(name, made)]
    found = estimates(
        {label: [replicate for replicate, _ in pairs] for label, pairs in made.items() if pairs},
        judged,
        baseline if made.get(str(baseline)) else None,
        level=settings.level,
        resamples=settings.resamples,
        derived={HARMONIC: HARMONIC_MEAN},
    )
    table: list[Row] = []
    with session.talk.progress("cost", len(rows)) as progress:
        for row in rows:
            table.append(_table_row(row, made[row.label], found.get(row.label, {}), failures))
            if settings.cost and made[row.label] and table[-1]["group"] != ORACLE:
                table[-1] |= _cost(session, next(c for c in row.cells if c.label not in failures))
            if row.label == baseline:
                table[-1]["baseline"] = True
            progress.advance(1, row.label)
    for misfit in experiment.misfits:
        label = row_name(misfit)
        if label not in {row["row"] for row in table}:
            told = {"row": label, "bridge": misfit.config.bridge.title, "failed": str(ConfigError(misfit.problems))}
            table.append(told | group_of(needs(misfit), misfit.config.evaluate.input == "text"))
    usual = ("items and seeds", "")
    over = {
        label: other
        for label, columns in found.items()
        if (other := {name: e.over for name, e in columns.items() if e.over not in usual})
    }
    seeds = sorted({replicate.seed for pairs in made.values() for replicate, _ in pairs})
    return Comparison(
        rows=ranked(table, rank_by, higher.get(rank_by, True)),
        runs=[_plain_row(pair) | {"row": label} for label, pairs in made.items() for pair in pairs],
        rank_by=rank_by,
        baseline=baseline,
        seeds=seeds,
        fingerprints=_fingerprints(session, experiment),
        failures=failures,
        over=over if len(seeds) > 1 else {},
    )


def _rows(experiment: Experiment) -> list[_Row]:
    """The rows: cells that differ only in their seed."""
    found: dict[str, list[Cell]] = {}
    for cell in experiment.cells:
        found.setdefault(row_name(cell), []).append(cell)
    return [_Row(label, cells) for label, cells in found.items()]


def _plain(rows: Sequence[_Row], made: Mapping[str, Sequence[object]]) -> str | None:
    """The row to test against where none is named: the first without a bridge, else the first."""
    done = [row for row in rows if made[row.label]]

    def bare(row: _Row) -> bool:
        config = row.cells[0].config
        augmented = config.decoder is not None and config.augmenter.type != "identity"
        return config.bridge.type == "identity" and config.evaluate.input == "source" and not augmented

    return next((row.label for row in done if bare(row)), done[0].label if done else None)


def _with_gap_closed(made: Made, within: Sequence[str]) -> Made:
    """The replicates with the column `gap_closed`, where floor and ceiling are among the rows (`tables`)."""
    rows = [row for pairs in made.values() for _, row in pairs]
    if all("augment" in row for row in rows):
        add_gap_closed(rows, within)

    def closed(replicate: Replicate, row: Row) -> Replicate:
        return replace(replicate, columns={**replicate.columns, **{k: row[k] for k in ("gap_closed",) if k in row}})

    return {label: [(closed(replicate, row), row) for replicate, row in pairs] for label, pairs in made.items()}


def _anywhere(name: str, made: Mapping[str, Sequence[tuple[Replicate, Row]]]) -> bool:
    return any(is_number(r.columns.get(name)) for pairs in made.values() for r, _ in pairs)


def _table_row(
    row: _Row,
    pairs: Sequence[tuple[Replicate, Row]],
    found: Mapping[str, Estimate],
    failures: Mapping[str, Failure],
) -> Row:
    config = row.cells[0].config
    oracle = config.evaluate.input == "text"
    line: Row = {"row": row.label, "bridge": "oracle" if oracle else config.bridge.title}
    if config.decoder is not None:
        line |= {"augment": augments(row.cells[0]), "decoder": config.decoder.type}
    line |= {name: value for name, value in row.cells[0].varied.items() if name != "seed"}
    given = pairs[0][1]["needs"] if pairs else needs(row.cells[0])
    line |= group_of(given, oracle)
    line["seeds"] = [replicate.seed for replicate, _ in pairs]
    if pairs:
        line["n"] = pairs[0][1]["n"]
    columns = dict.fromkeys(name for replicate, _ in pairs for name in replicate.columns)
    for name in columns:
        values = [v for replicate, _ in pairs if (v := replicate.columns.get(name)) is not None]
        if not values:
            continue
        line[name] = found[name].mean if name in found else fmean(values)
        if len(values) > 1:
            line[f"{name}_std"] = stdev(values)
    for name, estimate in found.items():
        if estimate.low is not None:
            line |= {f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        if estimate.p_corrected is not None:
            line |= {f"{name}_difference": estimate.difference, f"{name}_p": estimate.p_corrected}
    lost = [(cell, failures[cell.label]) for cell in row.cells if cell.label in failures]
    if lost:
        reasons = "; ".join(dict.fromkeys(failure.message for _, failure in lost))
        whole = len(lost) == len(row.cells)
        line["failed"] = reasons if whole else f"{len(lost)} of {len(row.cells)} seeds failed: {reasons}"
    line["tokenizer"] = next((r["tokenizer"] for _, r in pairs if r.get("tokenizer")), None)
    line["notes"] = {name: note for _, r in pairs for name, note in (r.get("notes") or {}).items()}
    return line


def _cost(session: Session, cell: Cell) -> Row:
    """What crossing costs, timed here and now."""
    split = splits(session, cell)[0][1] if cell.config.decoder is None else None
    source, _ = held_out(session, cell, split)
    bridge = fitted_bridge(session, cell, cell.config.bridge, split.fit if split else None).bridge
    return dict(cost_of(bridge, source, cell.config.seed).columns())


def _plain_row(pair: tuple[Replicate, Row]) -> Row:
    replicate, row = pair
    return row | {name: value for name, value in replicate.columns.items() if name not in row}


def _fingerprints(session: Session, experiment: Experiment) -> dict[str, str]:
    """Of every source that a row learns from or is measured on, by split; those of several seeds by seed."""
    found: dict[str, str] = {}
    for cell in experiment.cells:
        for split in SPLITS:
            source = getattr(cell.config.data, split)
            if source is not None:
                found.setdefault(f"{split}, seed {cell.config.seed}", session.fingerprint(source))
    values = {split: {v for k, v in found.items() if k.startswith(split)} for split in SPLITS}
    same = {split: next(iter(prints)) for split, prints in values.items() if len(prints) == 1}
    return same | {name: print_ for name, print_ in found.items() if name.split(",")[0] not in same}
