"""A whole run: every cell through the stages, then one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import Session
from modbridge.config.objectives import trained_objectives
from modbridge.config.pipeline import LAST, dump
from modbridge.config.reported import ReportedConfig
from modbridge.errors import ConfigError, Problem
from modbridge.stages import STAGES
from modbridge.stages.conditioning import Conditioning, conditionings
from modbridge.stages.embed import embeddings
from modbridge.stages.fit_bridge import bridge_key, fitted_bridge
from modbridge.stages.fit_decoder import decoder_key, fitted_decoder, required_decoder
from modbridge.stages.fit_encoder import encoder, encoder_key
from modbridge.stages.fit_objective import objective_folder, objective_key
from modbridge.stages.generate import generated
from modbridge.stages.report import claim_folder, write_run
from modbridge.stages.score import require_texts, scored
from modbridge.stages.select import needs, require_selection
from modbridge.stages.tune import tune_key, tuned_folder
from modbridge.tables import Row, add_gap_closed, summarise


@dataclass(frozen=True)
class Result:
    """What a run gave: `table` to show (means over seeds), `runs` one row a cell, the report's path (None if the run
    stopped earlier), what the config says is reported elsewhere, which is in none of the rows, and what the embeddings
    of encoders tell the objectives that teach them, by cell."""

    table: list[Row]
    runs: list[Row]
    report: Path | None
    reported: ReportedConfig | None = None
    conditioning: Mapping[str, Conditioning] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {
            "rows": self.table,
            "runs": self.runs,
            "reported": dump(self.reported),
            "conditioning": {label: found.to_json() for label, found in self.conditioning.items()},
            "report": str(self.report) if self.report else None,
        }


def run(session: Session, experiment: Experiment, out: Path, until: str = "report") -> Result:
    """Take every cell through the stages up to `until`. Of several processes all fit; one does the rest, and gives its
    result to all."""
    experiment.require_paths()
    reach = STAGES.index(until)
    cells = experiment.cells
    for cell in cells:
        for one in (cell, *cell.others.values()) if reach >= STAGES.index("fit_decoder") else ():
            required_decoder(one)
            require_selection(session, one)
        if reach >= STAGES.index("generate"):
            require_texts(cell)
            require_held_out(cell)
    if until == "report":
        session.world.first(lambda: claim_folder(out))
    if session.world.size > 1:
        for cell in cells:
            _fit_together(session, cell, reach)
    return session.world.first(lambda: _run(session, experiment, out, reach))


def _fit_together(session: Session, cell: Cell, reach: int) -> None:
    """What is trained on the way to stage number `reach`, by all processes. What is missing of the rest, statistics for
    instance, the first makes when it comes to it."""

    def lacks(stage: str, key: str) -> bool:
        return session.world.first(lambda: not session.cache.has(stage, key))

    config = cell.config.encoder
    scoring = cell.config.metrics if reach >= STAGES.index("score") else ()
    for _, part in (found for holder in (config, *scoring) for found in trained_objectives(holder)):
        if lacks("fit_objective", objective_key(session, cell, part)):
            objective_folder(session, cell, part)
    start = cell.untuned
    if config.needs_fit and lacks("fit_encoder", encoder_key(session, start)):
        encoder(session, start)
    if reach >= STAGES.index("fit_decoder"):
        for one in (start, *cell.others.values()):
            if lacks("fit_decoder", decoder_key(session, one)):
                fitted_decoder(session, one)
        if cell.config.tune and reach >= STAGES.index("tune") and lacks("tune", tune_key(session, cell)):
            tuned_folder(session, cell, "decoder")
        bridges = [] if cell.config.evaluate.input == "text" else [cell.config.bridge]
    elif reach == STAGES.index("fit_bridge"):
        bridges = [cell.config.bridge, cell.config.augmenter]
    else:
        bridges = []
    for bridge in bridges:
        if lacks("fit_bridge", bridge_key(session, start, bridge)):
            fitted_bridge(session, start, bridge)


def _run(session: Session, experiment: Experiment, out: Path, reach: int) -> Result:
    cells = experiment.cells
    if reach >= STAGES.index("score"):
        for note in sorted({f"{m.type}: {text}" for c in cells for m in c.config.metrics if (text := m.missing())}):
            session.talk.say(f"score: {note}")
    rows: list[Row] = []
    for cell in cells:
        if reach >= STAGES.index("score"):
            rows.append(scored(session, cell))
            for other in cell.others.values():
                generated(session, other)
        else:
            _partly(session, cell, reach)
    add_gap_closed(rows, within=["seed", *sorted(common_axes(cells))])
    table = summarise(rows, "seed")
    taught = conditionings(session, cells) if reach >= STAGES.index("score") else {}
    last = reach == STAGES.index("report")
    report = write_run(session, experiment, rows, table, out, taught) if last else None
    return Result(table, rows, report, experiment.first.config.reported, taught)


def require_held_out(cell: Cell) -> None:
    """Raise ConfigError where there are no items to caption."""
    if cell.config.data.test is None:
        where, hint = cell.document.where("data"), "captions are judged on items that nothing was fitted on"
        raise ConfigError([Problem("data.test", "is missing; held-out items to caption", where=where, hint=hint)])


def common_axes(cells: Sequence[Cell]) -> set[str]:
    """The varied fields under which floor and ceiling are looked for anew: all but those that make the rows."""
    rows = ("bridge", "augment", "evaluate", "main")
    return {name for cell in cells for name in cell.varied if name.split(".")[0] not in rows}


def _partly(session: Session, cell: Cell, reach: int) -> None:
    """The stages of one cell up to number `reach`, which comes before score."""
    config, start = cell.config, cell.untuned
    if config.encoder.needs_fit:
        encoder(session, start)
    modality = config.data.train.modality
    if reach >= STAGES.index("embed"):
        read = config.decoder is None or not config.decoder.left_to_tuning
        media = {
            "train": read and bool({"source", "pairs"} & set(needs(cell))),
            "validation": config.selects_on_media,
            "test": True,
        }
        for split, wanted in media.items():
            source = getattr(config.data, split)
            if source is None or (split == "validation" and config.selected_by == LAST):
                continue
            if source.captioned and (read or split != "train"):
                embeddings(session, start, split, "text")
            if wanted:
                embeddings(session, start, split, modality)
    if reach >= STAGES.index("fit_bridge"):
        fitted_bridge(session, start, config.bridge)
        fitted_bridge(session, start, config.augmenter)
    for one in (cell if reach >= STAGES.index("tune") else start, *cell.others.values()):
        if reach >= STAGES.index("fit_decoder"):
            fitted_decoder(session, one)
        if reach >= STAGES.index("generate"):
            generated(session, one)
