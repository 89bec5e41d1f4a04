"""Stage fit_objective: train the objectives whose config says so, before anything that holds them.

An objective is one part of several components, so it is trained once for all of them, on what the encoder is trained
on, and kept as an artefact of its own.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session, StageFitting
from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import MetricConfig, ObjectiveConfig
from modbridge.config.objectives import trained_objectives
from modbridge.config.weights import MANIFEST, weights_folder
from modbridge.errors import ArtefactError, PluginError
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.metric import Metric
from modbridge.interfaces.objective import Objective
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_objectives, load_weights
from modbridge.store.keys import stable_hash


def objective_keys(session: Session, cell: Cell, config: ComponentConfig) -> dict[str, str]:
    """The keys of the trained objectives inside a component, by their dotted names: part of what decides it."""
    return {name: objective_key(session, cell, part) for name, part in trained_objectives(config)}


def objective_key(session: Session, cell: Cell, config: ObjectiveConfig) -> str:
    """What decides a trained objective: its fields and revision, the data, the seed. One that is taken from an artefact
    keeps the key that it was trained under."""
    if config.weights is not None:
        return _kept_key(config.weights)
    print_ = session.fingerprint(cell.config.data.pretraining)
    revisions = session.revisions(config, "objective")
    return stable_hash([config.key_fields(), revisions, print_, cell.config.pretraining_seed])


def built(session: Session, cell: Cell, config: ComponentConfig, kind: str, context: BuildContext) -> Any:
    """A component with the objectives inside it that the run trains; those that are not there yet are trained first."""
    parts = dict(trained_objectives(config))
    taught = session.fingerprint(cell.config.data.pretraining) if parts else ""
    found: Component[Any] = session.build(config, kind, context, seed=cell.config.pretraining_seed, taught=taught)
    load_objectives(found, lambda name: objective_folder(session, cell, parts[name]))
    return found


def built_metric(session: Session, cell: Cell, config: MetricConfig) -> Metric[Any]:
    """A metric on the cell's device, with the objectives inside it that the run trains."""
    parts = dict(trained_objectives(config))
    taught = session.fingerprint(cell.config.data.pretraining) if parts else ""
    context = BuildContext(device=session.torch_device(cell.config.device), seed=cell.config.seed)
    found = session.build_metric(config, context, seed=cell.config.pretraining_seed, taught=taught)
    load_objectives(found, lambda name: objective_folder(session, cell, parts[name]))
    return found


def objective_folder(session: Session, cell: Cell, config: ObjectiveConfig) -> Path:
    """The artefact of a trained objective, made once."""
    key, seed = objective_key(session, cell, config), cell.config.pretraining_seed

    def build(out: Path, work: Path) -> None:
        context = BuildContext(device=session.torch_device(cell.config.device), seed=seed)
        # One of its own: a fit that fails must leave nothing half-trained in what others hold.
        objective: Objective[Any] = session.build(config, "objective", context)
        fitting = StageFitting(session, work, seed, f"objective {config.type}", embed=_no_encoder)
        if config.weights is not None:
            origin = load_weights(objective, config.weights)
        else:
            source = session.source(cell.config.data.pretraining)
            with session.guard(config, "objective", "it was trained"):
                objective.fit(source, fitting)
            origin = {"seed": seed, "data": session.fingerprint(source.config)}
        fitting.write_log(out)
        session.save(objective, "objective", out, identity=key, **origin)

    return session.stage("fit_objective", key, config.type, build, joint=True)


def _kept_key(weights: str) -> str:
    try:
        manifest = json.loads((weights_folder(weights) / MANIFEST).read_text(encoding="utf-8"))
        return str(manifest["identity"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtefactError(
            f"{weights} does not say which trained objective it holds ({type(error).__name__}: {error}); give the "
            f"folder of one that `modbridge run` trained (artefacts/objective-...)."
        ) from error


def _no_encoder(texts: Sequence[str]) -> Embeddings:
    raise PluginError("an objective asked for text vectors while it was being trained, and there is no encoder yet.")
