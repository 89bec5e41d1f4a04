"""Stage conditioning: how well the embeddings of an encoder that an objective teaches tell of held-out items.

A training loss falls for many reasons, and an encoder that says nothing can have a low one. So the objective judges the
same items under the same noise, each time told of them by something else: what the encoder gives before it is trained
(`untrained`) and after (`trained`), what it gives of a true caption (`text`), of an empty one (`empty`), and of another
item (`another`). `gap_closed` is the share of the way from the empty caption to the true one. The table is ours; that
there be a baseline is what reproductions of such encoders lacked.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge import rendering
from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.source import Source
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.stages.cross import held_out
from modbridge.stages.fit_encoder import encoder, encoder_key, plan_of
from modbridge.stages.fit_objective import built
from modbridge.store.artefact import read_manifest, write_manifest
from modbridge.store.keys import stable_hash
from modbridge.tables import Row
from modbridge.training import derived_seed

TABLE = "conditioning.json"
ITEMS = 200  # held-out items that are judged, the first ones
DRAWS = 4  # of what is random in a loss, for each item
BATCH = 32
TITLES = {
    "untrained": "encoder, untrained",
    "trained": "encoder, trained",
    "text": "true caption",
    "empty": "empty caption",
    "another": "another item's embedding",
}


@dataclass(frozen=True)
class Conditioning:
    """`losses`: the mean loss of each row, by its name in `TITLES`. `items`, `draws`: over how many, all the same."""

    losses: dict[str, float]
    items: int
    draws: int

    def gap_closed(self, name: str) -> float | None:
        """The share of the way from the empty caption's loss to the true one's; None where there are no captions, or
        where a true one helps no more than an empty one."""
        empty, text = self.losses.get("empty"), self.losses.get("text")
        if empty is None or text is None or empty <= text:
            return None
        return (empty - self.losses[name]) / (empty - text)

    def rows(self) -> list[Row]:
        return [
            {"told by": TITLES[name], "loss": self.losses[name], "gap_closed": self.gap_closed(name)}
            for name in TITLES
            if name in self.losses
        ]

    def table(self, title: str = "") -> rendering.Table:
        """As it is shown. Losses of different objectives are of different size, so they have four digits each."""
        cells = [
            [row["told by"], f"{row['loss']:.4g}", "-" if row["gap_closed"] is None else f"{row['gap_closed']:.3f}"]
            for row in self.rows()
        ]
        return rendering.Table(
            title, ["told by", "loss", "gap closed"], cells, [f"{self.items} items, {self.draws} draws each"]
        )

    def to_json(self) -> dict[str, Any]:
        return {"rows": self.rows(), "items": self.items, "draws": self.draws}


def conditionings(session: Session, cells: Sequence[Cell]) -> dict[str, Conditioning]:
    """The table of every encoder among `cells`, under the label of the first cell that has it."""
    found: dict[str, Conditioning] = {}
    known: set[str] = set()
    for cell in cells:
        key = encoder_key(session, cell.untuned)
        one = None if key in known else conditioned(session, cell)
        known.add(key)
        if one is not None:
            found[cell.label] = one
    return found


def conditioned(session: Session, cell: Cell) -> Conditioning | None:
    """The losses of a cell's encoder, made once. None for an encoder that no objective teaches, for ragged sequences
    (objectives judge whole ones), and where there are no held-out items. Joint training by `tune` comes after it."""
    cell, name = cell.untuned, taught_by(cell)
    if name is None or cell.config.data.test is None or plan_of(session, cell).source.ragged:
        return None
    given = [encoder_key(session, cell), session.fingerprint(cell.config.data.test), ITEMS, DRAWS]
    key = stable_hash(["conditioning 1", *given, cell.config.evaluate.caption, cell.config.seed])

    def build(out: Path, work: Path) -> None:
        found = _judged(session, cell, name)
        (out / TABLE).write_text(json.dumps(asdict(found)), encoding="utf-8")
        write_manifest(out, {"kind": "conditioning", "type": cell.config.encoder.type})

    folder = session.stage("conditioning", key, cell.config.encoder.type, build)
    read_manifest(folder)
    return Conditioning(**json.loads((folder / TABLE).read_text(encoding="utf-8")))


def taught_by(cell: Cell) -> str | None:
    """The field of the cell's encoder that holds the objective which teaches it."""
    return next((name for name, kind, _ in cell.config.encoder.each_part() if kind == "objective"), None)


def _judged(session: Session, cell: Cell, name: str) -> Conditioning:
    config, trained = cell.config.encoder, encoder(session, cell)
    objective: Any = trained.context.parts[name]
    source = session.source(cell.config.data.test or cell.config.data.train)
    media, text = (part.select(range(min(ITEMS, len(part)))) for part in held_out(session, cell))
    at = {key: row for row, key in enumerate(source.keys())}
    rows = [at[key] for key in media.keys]
    ways: dict[str, Callable[[slice], torch.Tensor]] = {}
    if config.needs_fit:
        ways["untrained"] = _before_training(session, cell, source, rows)
    ways["trained"] = lambda batch: media.values[batch]
    if text.port.space == media.port.space:  # else the objective was never meant to be told of anything by them
        empty = trained.encode([""], "text").values
        ways["text"] = lambda batch: text.values[batch]
        ways["empty"] = lambda batch: empty.expand(batch.stop - batch.start, *empty.shape[1:])
    if len(media) > 1:
        ways["another"] = lambda batch: media.values.roll(1, 0)[batch]
    sums = dict.fromkeys(ways, 0.0)
    seed = derived_seed("conditioning", cell.config.seed)
    with (
        session.talk.progress("conditioning", DRAWS * len(rows)) as progress,
        session.guard(objective.config, "objective", "it judged embeddings"),
        torch.no_grad(),
    ):
        for batch in _batches(len(rows)):
            seen = objective.collate([objective.prepare(source.media(row)) for row in rows[batch]])
            for number in range(DRAWS):
                noise = Draw.of(media.keys[batch], seed, number, device=objective.device)
                for way, told in ways.items():
                    sums[way] += float(objective.loss(told(batch).to(objective.device), seen, noise).double().sum())
                progress.advance(len(media.keys[batch]))
    return Conditioning({way: total / (DRAWS * len(rows)) for way, total in sums.items()}, len(rows), DRAWS)


def _before_training(
    session: Session, cell: Cell, source: Source[Any], rows: Sequence[int]
) -> Callable[[slice], torch.Tensor]:
    """Embeddings of the encoder as it is drawn or fetched, before the run trains it."""
    modality = cell.config.data.train.modality
    seed = cell.config.pretraining_seed
    context = BuildContext(device=session.torch_device(cell.config.device), seed=seed)
    fresh: Encoder[Any] = built(session, cell, cell.config.encoder, "encoder", context)

    def embed(batch: slice) -> torch.Tensor:
        found: Embeddings = fresh.encode([source.media(row) for row in rows[batch]], modality)
        return found.values

    return embed


def _batches(count: int) -> Iterator[slice]:
    return (slice(start, min(start + BATCH, count)) for start in range(0, count, BATCH))
