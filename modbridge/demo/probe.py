"""How much of a scene or clip the encoder took in: a linear probe from its vectors to the objects there (ours).

A bridge cannot bring back what the encoder did not see, so the probe's accuracy caps every method.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.demo.kinds import KINDS, NAMES, WORLDS
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embeddings
from modbridge.store.artefact import read_manifest, write_manifest
from modbridge.store.keys import stable_hash

PENALTY = 1e-5
PROBE = "probe.json"


def probe(session: Session, cell: Cell) -> dict[str, float]:
    """Shares of held-out items: `objects` in which a linear probe (logistic regression on the media's vectors, fitted
    on the training items) finds exactly the objects that are there; the two words of them (`colours` and `shapes`,
    `pitches` and `timbres`) each alone."""
    modality = cell.config.data.train.modality
    key = stable_hash([embed_key(session, cell, split, modality) for split in ("train", "test")])

    def build(out: Path, work: Path) -> None:
        fit, test = (embeddings(session, cell, split, modality) for split in ("train", "test"))
        there = [_there(session, cell, split, vectors) for split, vectors in (("train", fit), ("test", test))]
        found = accuracy(fit, there[0], test, there[1], modality)
        (out / PROBE).write_text(json.dumps(found), encoding="utf-8")
        write_manifest(out, {"kind": "probe", "type": "linear"})

    folder = session.stage("probe", key, "linear probe", build)
    read_manifest(folder)
    shares: dict[str, float] = json.loads((folder / PROBE).read_text(encoding="utf-8"))
    return shares


def accuracy(
    fit: Embeddings, fit_there: torch.Tensor, test: Embeddings, test_there: torch.Tensor, modality: str = "image"
) -> dict[str, float]:
    """The probe's shares. `*_there`: bool (N, K), which of `KINDS[modality]` each item holds."""
    mean, std = fit.values.mean(0), fit.values.std(0) + 1e-8
    x, y = (fit.values - mean) / std, fit_there.to(fit.values)
    weight = torch.zeros(x.shape[1], y.shape[1], requires_grad=True)
    bias = torch.zeros(y.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = binary_cross_entropy_with_logits(x @ weight + bias, y) + PENALTY * weight.pow(2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        first, second = WORLDS[modality]
        found = ((test.values - mean) / std @ weight + bias > 0).view(-1, len(first), len(second))
    there = test_there.view(-1, len(first), len(second))
    name, other = NAMES[modality]
    return {
        "objects": float((found == there).flatten(1).all(1).double().mean()),
        name: float((found.any(2) == there.any(2)).all(1).double().mean()),
        other: float((found.any(1) == there.any(1)).all(1).double().mean()),
    }


def _there(session: Session, cell: Cell, split: str, vectors: Embeddings) -> torch.Tensor:
    source = session.source(getattr(cell.config.data, split))
    rows = {key: i for i, key in enumerate(source.keys())}
    objects = [{(a, b) for a, b in source.facts(rows[key])["objects"]} for key in vectors.keys]
    return torch.tensor([[kind in there for kind in KINDS[source.modality]] for there in objects])
