"""Everything that the gap report says of one bridge on one split: columns, and the arrays behind them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save_file

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.distributions import Dimensions, energy_distance, separability
from modbridge.errors import DataError
from modbridge.geometry import Statistics
from modbridge.measures import (
    centred,
    comparable,
    cosine_counts,
    harmonic_mean,
    hits_at,
    paired_cosines,
    recall_at,
    unpaired_cosine,
)
from modbridge.neighbours import hubs, nearest_cosine
from modbridge.spaces import Embeddings
from modbridge.stages.cross import Crossed, Split, augmented, crossed
from modbridge.stages.score import measured
from modbridge.store.artefact import read_manifest, read_tensors, write_manifest
from modbridge.store.keys import stable_hash, tensor_hash

REVISION = 2  # of what is measured; enters the keys
ROW, ARRAYS = "row.json", "arrays.safetensors"
BINS = 100
KS = (1, 5, 10)
ITEMS = "items/"  # before the name of a column, among the arrays: its values by item


@dataclass(frozen=True)
class GapMeasures:
    """`columns`: one row's measures. `arrays`: `mean_shift` and `std_ratio` (D,), histograms of cosines over [-1, 1] in
    equal bins, `paired`, `unpaired`, `text` and their `centred_` likes, int64 (bins,), and `items/<column>`, float64
    (N,), of held-out item by item. `key`: what decides them. `keys`: the ids of these items."""

    columns: dict[str, float | None]
    arrays: dict[str, torch.Tensor]
    key: str
    keys: tuple[str, ...]

    @property
    def items(self) -> dict[str, npt.NDArray[np.float64]]:
        """The columns that are means over items, (N,) values of each, in the order of `keys`."""
        return {
            name.removeprefix(ITEMS): array.numpy() for name, array in self.arrays.items() if name.startswith(ITEMS)
        }


@dataclass(frozen=True)
class Sides:
    """Held-out vectors as they are compared, row by row, float64 (N, D) of length 1: bridged and text, as they are and
    centred."""

    bridged: torch.Tensor
    text: torch.Tensor
    bridged_centred: torch.Tensor
    text_centred: torch.Tensor
    keys: tuple[str, ...]


def sides(vectors: Crossed) -> Sides:
    """What the measures compare: bridged vectors among texts, and each side centred on its mean over the fit split
    (`measures.comparable`, `measures.centred`)."""
    port, text = vectors.bridged.port, vectors.text_fit
    x = comparable(vectors.bridged.values.cpu(), frame=port.frame, text_mean=text.mean, text_radius=text.radius)
    t = vectors.text.values.cpu().double()
    return Sides(x, t, centred(x, vectors.fit_mean), centred(t, text.mean), vectors.source.keys)


def gap_measures(session: Session, cell: Cell, bridge: BridgeConfig, split: Split | None) -> GapMeasures:
    """The measures of the held-out vectors across a bridge, made once.

    Raises DataError for sequences and for fewer than two items.
    """
    base = measured(session, cell, bridge, split)
    if not base:
        raise DataError("the gap is measured on single vectors of at least two held-out items.")
    vectors = crossed(session, cell, bridge, split)
    key = stable_hash([vectors.key, cell.config.evaluate.caption, "gap", REVISION])
    label = bridge.type if split is None else f"{bridge.type} ({split.test.name})"

    def build(out: Path, work: Path) -> None:
        both = sides(vectors)
        dimensions = Dimensions.of(both.bridged, both.text)
        training = augmented(session, cell, bridge, split)
        row = _columns(both, base, dimensions) | _nearest(session, both, vectors.text_fit, training)
        (out / ROW).write_text(json.dumps(row, allow_nan=False), encoding="utf-8")
        save_file(_arrays(both, dimensions), out / ARRAYS)
        write_manifest(out, {"kind": "gap measures", "type": bridge.type})

    folder = session.stage("gap", key, label, build)
    read_manifest(folder)
    found: dict[str, Any] = json.loads((folder / ROW).read_text(encoding="utf-8"))
    return GapMeasures({**base, **found}, read_tensors(folder / ARRAYS), key, vectors.source.keys)


def _columns(both: Sides, base: dict[str, float], dimensions: Dimensions) -> dict[str, float | None]:
    x, t, z, c = both.bridged, both.text, both.bridged_centred, both.text_centred
    forth, back, plain_back = recall_at(z, c, KS), recall_at(c, z, KS), recall_at(t, x, KS)
    (skew, top), (centred_skew, centred_top) = hubs(x, t), hubs(z, c)
    return {
        "centred_unpaired_cosine": unpaired_cosine(z, c),
        "harmonic_mean": harmonic_mean(base["centred_paired_cosine"], base["centred_r_at_1"]),
        **{f"reverse_r_at_{k}": plain_back[k] for k in KS},
        **{f"centred_r_at_{k}": forth[k] for k in KS[1:]},
        **{f"centred_reverse_r_at_{k}": back[k] for k in KS},
        "hubness": skew,
        "top_answer_share": top,
        "centred_hubness": centred_skew,
        "centred_top_answer_share": centred_top,
        "energy_distance": energy_distance(z, c),
        "separability": separability(x, t, both.keys),
        "centred_separability": separability(z, c, both.keys),
        "spread_ratio": dimensions.spread_ratio,
        "gap_share_of_5": dimensions.share_of_largest(5),
        "std_ratio_p5": dimensions.std_quantile(0.05),
        "std_ratio_p95": dimensions.std_quantile(0.95),
    }


def _nearest(session: Session, both: Sides, text: Statistics, training: Embeddings) -> dict[str, float | None]:
    """How near bridged vectors come to a training text, and how near true texts do: memory against closeness."""

    def true() -> float:
        return float(nearest_cosine(both.text_centred, training.values, text.mean).mean())

    own = f"nearest {tensor_hash(training.values)} {tensor_hash(both.text)}"
    return {
        "nearest_train_text": float(nearest_cosine(both.bridged_centred, training.values, text.mean).mean()),
        "texts_nearest_train_text": session.remember(own, true),  # the same for every bridge that leaves texts alone
    }


def _arrays(both: Sides, dimensions: Dimensions) -> dict[str, torch.Tensor]:
    arrays = {"mean_shift": dimensions.mean_shift, "std_ratio": dimensions.std_ratio}
    for prefix, x, t in (("", both.bridged, both.text), ("centred_", both.bridged_centred, both.text_centred)):
        arrays[f"{prefix}paired"], arrays[f"{prefix}unpaired"] = cosine_counts(x, t, BINS)
        arrays[f"{prefix}text"] = cosine_counts(t, t, BINS)[1]
        arrays[f"{ITEMS}{prefix}paired_cosine"] = paired_cosines(x, t)
        arrays[f"{ITEMS}{prefix}r_at_1"] = hits_at(x, t, (1,))[0]
    return {name: array.contiguous() for name, array in arrays.items()}
