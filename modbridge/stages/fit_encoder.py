"""Stage fit_encoder: build the encoder, and train it first where its config says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modbridge.assembly.experiment import Cell
from modbridge.assembly.plan import Plan, make_plan
from modbridge.assembly.session import Session, StageFitting
from modbridge.config.pipeline import dump
from modbridge.errors import PluginError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.spaces import Embeddings, Port, Space
from modbridge.stages.fit_objective import built, objective_keys
from modbridge.store.artefact import load_component
from modbridge.store.keys import stable_hash


def encoder_key(session: Session, cell: Cell) -> str:
    """What decides an encoder's vectors: its fields and revision, the training data if the run trains it, and what it
    was tuned with."""
    config = cell.config.encoder
    if cell.config.tunes("encoder"):
        from modbridge.stages.tune import tune_key  # which starts from the encoder as it is fitted here

        return tune_key(session, cell)
    parts: list[Any] = [config.key_fields(), session.revisions(config, "encoder"), config.emits("text").space.id]
    if config.needs_fit:
        parts += [session.fingerprint(cell.config.data.pretraining), cell.config.pretraining_seed]
    return stable_hash([*parts, *objective_keys(session, cell, config).values()])


def plan_of(session: Session, cell: Cell) -> Plan:
    """The cell's plan with the spaces of the weights at hand: a trained encoder's space is named by its key."""
    config = cell.config.encoder
    if not config.needs_fit:
        if cell.plan.text.space.dim is not None:
            return cell.plan
        encoder(session, cell)  # what was not on this machine when the config was checked is there once it is built
        return session.remember(f"plan {stable_hash(dump(cell.config))}", lambda: make_plan(cell.config))
    key = encoder_key(session, cell)

    def named(port: Port) -> Port:
        space = Space(id=f"{port.space.id}@{key[:12]}", dim=port.space.dim, normalised=port.space.normalised)
        return port.changed(space=space)

    ports = {m: named(config.emits(m)) for m in (cell.config.data.train.modality, "text")}
    return session.remember(f"plan {stable_hash(dump(cell.config))} {key}", lambda: make_plan(cell.config, ports))


def encoder(session: Session, cell: Cell) -> Encoder[Any]:
    """The encoder, ready to embed; trained and tuned, if its config says so and no earlier run did it."""
    key = encoder_key(session, cell)
    return session.remember(f"encoder {key}", lambda: _make(session, cell, key))


def _no_encoder(texts: Sequence[str]) -> Embeddings:
    raise PluginError("an encoder asked for text vectors while it was being trained, and there are none before.")


def _make(session: Session, cell: Cell, key: str) -> Encoder[Any]:
    config = cell.config.encoder
    plan = plan_of(session, cell) if config.needs_fit else None
    ports = {plan.source.modality: plan.source, "text": plan.text} if plan else {}
    device = session.torch_device(cell.config.device)
    seed = cell.config.pretraining_seed
    context = BuildContext(device=device, seed=seed, ports=ports)
    found: Encoder[Any] = built(session, cell, config, "encoder", context)
    if cell.config.tunes("encoder"):
        from modbridge.stages.tune import tuned_folder

        load_component(found, tuned_folder(session, cell, "encoder"))
    elif config.needs_fit:

        def build(out: Path, work: Path) -> None:
            fitting = StageFitting(session, work, seed, f"encoder {config.type}", embed=_no_encoder)
            source = session.source(cell.config.data.pretraining)
            with session.guard(config, "encoder", "it was trained"):
                found.fit(source, fitting)
            fitting.write_log(out)
            session.save(found, "encoder", out, seed=seed, data=session.fingerprint(source.config))

        folder = session.stage("fit_encoder", key, config.type, build, joint=True)
        load_component(found, folder)
    return found
