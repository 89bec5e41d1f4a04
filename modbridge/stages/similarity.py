"""The similarity table: how alike texts, noisy texts, source vectors and bridged ones are, embedded and projected.

Source: Diffusion Bridge (CVPR 2025), table 1, six rows. Everything stands in the centred text space: texts minus the
text mean, source vectors minus their own mean (both of the fit split), noise put on the centred text before it is
normalised (C3's order, variance .016), bridged vectors as the bridge leaves them there, minus the text mean where it
leaves them among raw texts. So a bridged cloud that lies beside the centre shows in row (f).

"projector" is the same behind the decoder's mapper, not centred again (`Decoder.project`). A decoder that was trained
on raw text vectors is given n(r z + mean), the same vectors among the raw texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.geometry import Statistics, centre, to_text_frame, unit
from modbridge.interfaces.source import text_key
from modbridge.measures import paired_cosine, unpaired_cosine
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.stages.cross import Crossed, Split, crossed, held_out, held_out_from, text_statistics
from modbridge.stages.embed import embeddings
from modbridge.stages.fit_bridge import train_vectors
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.stages.fit_encoder import plan_of
from modbridge.tables import Row

NOISE_VARIANCE = 0.016
PROJECT_AT_ONCE = 1024


Names = Mapping[str, str]


@dataclass(frozen=True)
class Similarity:
    """The rows (a) to (f), (d) and (f) once for each bridge; `notes`: what could not be had, and why."""

    rows: list[Row]
    notes: list[str]


@dataclass(frozen=True)
class _Pair:
    """One row: two sets (N, D) in the centred text space, row i of one with row i of the other; `y` None if it cannot
    be had."""

    letter: str
    what: str
    x: torch.Tensor
    y: torch.Tensor | None
    paired: bool = True
    bridge: Names | None = None


def similarity(
    session: Session, cell: Cell, bridges: Sequence[tuple[Names, BridgeConfig]], split: Split | None = None
) -> Similarity:
    """The table of one cell. `bridges`: the columns that name a bridge's rows, and its config."""
    modality = cell.config.data.train.modality
    stats = text_statistics(session, cell, split)
    source, text = held_out(session, cell, split)
    images = Statistics.of(train_vectors(session, cell, modality, split.fit if split else None))
    t, v = _centred(text, stats.mean), _centred(source, images.mean)
    bridged = [(names, _bridged(crossed(session, cell, bridge, split), stats)) for names, bridge in bridges]
    have, second = _second_texts(session, cell, text, split)
    notes = [] if len(have) == len(text) else [f"(c): {len(have)} of {len(text)} items have two embedded captions"]
    pairs = [
        _Pair("a", f"text, {modality}", t, v),
        _Pair("b", f"text, text + N(0, {NOISE_VARIANCE})", t, _noisy(text, stats.mean, cell.config.seed)),
        _Pair("c", "text, another text of it", t[have], _centred(second, stats.mean) if have else None),
        *(_Pair("d", f"text, bridged {modality}", t, z, bridge=names) for names, z in bridged),
        _Pair("e", "text, text", t, t, paired=False),
        *(_Pair("f", f"text, bridged {modality}", t, z, paired=False, bridge=names) for names, z in bridged),
    ]
    mapper, note = _mapper(session, cell, stats, split)
    rows = [_row(pair, mapper) for pair in pairs]
    return Similarity(rows, notes + ([note] if note else []))


Mapper = Callable[[torch.Tensor], torch.Tensor]


def _row(pair: _Pair, mapper: Mapper | None) -> Row:
    row: Row = {"row": pair.letter, "pair": pair.what, "paired": pair.paired, "bridge": None, **(pair.bridge or {})}
    row["n"] = len(pair.x)
    cosine = paired_cosine if pair.paired else unpaired_cosine
    row["embedding"] = None if pair.y is None else cosine(pair.x, pair.y)
    if mapper is not None:
        row["projector"] = None if pair.y is None else cosine(mapper(pair.x), mapper(pair.y))
    return row


def _centred(vectors: Embeddings, mean: torch.Tensor) -> torch.Tensor:
    return centre(vectors.values.cpu().double(), mean)


def _noisy(text: Embeddings, mean: torch.Tensor, seed: int) -> torch.Tensor:
    """n(n(t) - mean + noise), one draw an item by its key."""
    draw = Draw.of(text.keys, seed).named("similarity")
    noise = draw.normal(text.values.shape[1]).double() * NOISE_VARIANCE**0.5
    return unit(unit(text.values.cpu().double()) - mean + noise)


def _bridged(vectors: Crossed, text: Statistics) -> torch.Tensor:
    port, values = vectors.bridged.port, vectors.bridged.values.cpu().double()
    return unit(values) if port.frame == "centred" else centre(values, text.mean)


def _second_texts(session: Session, cell: Cell, text: Embeddings, split: Split | None) -> tuple[list[int], Embeddings]:
    """The rows of `text` whose item has another embedded caption, and the first such caption of each."""
    every = embeddings(session, cell, held_out_from(cell, split), "text")
    at = {key: i for i, key in enumerate(every.keys)}
    own = cell.config.evaluate.caption
    have, found = [], []
    for row, key in enumerate(text.keys):
        item = key.rsplit("#", 1)[0]
        number = 1 if own == 0 else 0
        if (other := at.get(text_key(item, number))) is not None:
            have.append(row)
            found.append(other)
    return have, every.select(found)


def _mapper(session: Session, cell: Cell, text: Statistics, split: Split | None) -> tuple[Mapper | None, str | None]:
    """What the decoder's mapper makes of vectors of the centred text space, or why there is none."""
    config = cell.config.decoder
    if config is None:
        return None, "projector: left out, the pipeline has no decoder"
    if split is not None:
        return None, "projector: left out, gap.fit splits data.train and the decoder is fitted on all of it"
    decoder = fitted_decoder(session, cell).decoder
    raw = plan_of(session, cell).trained.frame == "raw"

    def project(x: torch.Tensor) -> torch.Tensor | None:
        with torch.inference_mode(), session.guard(config, "decoder", "it projected vectors"):
            return decoder.project(x.to(decoder.device, torch.float32))

    if project(text.mean[None]) is None:
        return None, f"projector: left out, the decoder {config.type!r} has no mapper to show"

    def mapper(z: torch.Tensor) -> torch.Tensor:
        x = to_text_frame(z, text.mean, text.radius) if raw else z
        parts = [project(x[start : start + PROJECT_AT_ONCE]) for start in range(0, len(x), PROJECT_AT_ONCE)]
        return torch.cat([part.cpu() for part in parts if part is not None])

    return mapper, None
