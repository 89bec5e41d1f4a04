"""Stage tune: encoder, bridge and decoder trained together, by the decoder's own loss on media with their captions.

VLV's stage 2 (arXiv 2507.07104, section 3): step by step more is trained, the mapper, the language model, the encoder.
It starts from what was fitted before, and leaves that as it is: the tuned parts are artefacts of their own, which the
captions come from, while the decoders of `decoders` go on reading what the encoder gave before.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import TRAINING_LOG, Session, StageFitting
from modbridge.config.pipeline import dump
from modbridge.config.tuning import TUNED, TuneConfig, chosen
from modbridge.errors import ConfigError, PluginError, Problem
from modbridge.interfaces.bridge import Bridge
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.decoder import Decoder
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.fitting import TextVectors
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port
from modbridge.stages.embed import left_out
from modbridge.stages.embed_shards import stored
from modbridge.stages.fit_bridge import bridge_key, fitted_bridge
from modbridge.stages.fit_decoder import captions, decoder_key, fitted_decoder, required_decoder, unread
from modbridge.stages.fit_encoder import encoder, encoder_key, plan_of
from modbridge.stages.fit_objective import built
from modbridge.store.artefact import load_component, write_manifest
from modbridge.store.keys import stable_hash
from modbridge.training import Batches, Media, Share, derived_seed, train, warmup_then

BATCH_NORMS = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm)


def tune_key(session: Session, cell: Cell) -> str:
    """What decides the tuned parts: the steps, what they start from and read, the seed. Asked for often, and worked out
    once a session."""
    return session.remember(f"tune {stable_hash(dump(cell.config))}", lambda: _key(session, cell))


def _key(session: Session, cell: Cell) -> str:
    start, data, bridge = cell.untuned, cell.config.data, cell.config.bridge
    before = [encoder_key(session, start), bridge_key(session, start, bridge), decoder_key(session, start)]
    kept = any(_reads_stored(cell, number) for number in range(len(cell.config.tune)))
    left = left_out(session, start, "train", data.train.modality) if kept else []
    given = [session.fingerprint(data.train), data.pairs, cell.config.seed, bridge.key_fields("cross"), left]
    return stable_hash(["tune", dump(cell.config.tune), before, given])


def _reads_stored(cell: Cell, number: int) -> bool:
    """Whether a step reads embeddings that are kept: of parts that it does not train, and that no step before did."""
    so_far = cell.config.tune[: number + 1]
    return so_far[-1].stored and not any(one.trains("encoder") or one.trains("bridge") for one in so_far)


def tuned_folder(session: Session, cell: Cell, part: str) -> Path:
    """The artefact of a tuned part, "encoder", "bridge" or "decoder", made once together with the others."""
    key, config = tune_key(session, cell), required_decoder(cell)

    def build(out: Path, work: Path) -> None:
        given = stable_hash([tune_key(session, cell), "given"])
        fitting = StageFitting(session, work, cell.config.seed, f"tune {config.type}", embed=_no_texts, given=given)
        before = _decoder_folder(session, cell.untuned) / TRAINING_LOG
        if before.is_file():
            fitting.lines = [json.loads(line) for line in before.read_text(encoding="utf-8").splitlines()]
        parts = _start(session, cell)
        _require_steps(cell, parts)
        with session.guard(config, "decoder", "it was tuned"):
            for number, step in enumerate(cell.config.tune):
                _take(session, cell, parts, number, step, fitting)
        data = session.fingerprint(cell.config.data.train)
        for kind, component in parts.trained(cell).items():
            session.save(component, kind, out / kind, seed=cell.config.seed, data=data, tuned=dump(cell.config.tune))
        if session.world.main:
            fitting.write_log(out / "decoder")
            write_manifest(out, {"kind": "tuned", "type": config.type})

    return session.stage("tune", key, f"{config.type} and what is before it", build, joint=True) / part


@dataclass(frozen=True)
class Parts:
    """Copies of what a pipeline consists of, to be trained; what others hold stays as it is."""

    encoder: Encoder[Any]
    bridge: Bridge[Any]
    decoder: Decoder[Any]

    def trained(self, cell: Cell) -> dict[str, Component[Any]]:
        """What an artefact is written of."""
        return {kind: getattr(self, kind) for kind in TUNED if kind == "decoder" or cell.config.tunes(kind)}

    def parameters(self) -> dict[str, torch.nn.Parameter]:
        """All that can be trained, by name: "decoder.mapper.0.weight"."""
        found: dict[str, torch.nn.Parameter] = {}
        for kind in TUNED:
            for name, module in getattr(self, kind).modules().items():
                found |= {f"{kind}.{name}.{inner}": p for inner, p in module.named_parameters()}
        return {name: parameter for name, parameter in found.items() if parameter.requires_grad}


def _start(session: Session, cell: Cell) -> Parts:
    """The parts with the weights that they were fitted with, at the ports where the tuned ones will stand."""
    start, plan, config = cell.untuned, plan_of(session, cell), cell.config
    device = session.torch_device(config.device)
    modality = plan.source.modality

    def copy(part: Any, kind: str, text: Port, folder: Path | None) -> Any:
        at = {"text": text, modality if kind == "encoder" else "source": plan.source}
        seed = config.pretraining_seed if kind == "encoder" else config.seed
        context = BuildContext(device=device, seed=seed, ports=at, artefact=folder)
        found: Component[Any] = built(session, cell, part, kind, context)
        if folder is not None:
            load_component(found, folder)
        return found

    fitted = None
    if config.encoder.needs_fit:
        encoder(session, start)
        fitted = session.cache.path("fit_encoder", encoder_key(session, start))
    parts = Parts(
        copy(config.encoder, "encoder", plan.text, fitted),
        copy(config.bridge, "bridge", plan.text, fitted_bridge(session, start, config.bridge).folder),
        copy(required_decoder(cell), "decoder", plan.trained, _decoder_folder(session, start)),
    )
    for kind in TUNED:
        for module in getattr(parts, kind).modules().values():
            module.eval()
    return parts


def _decoder_folder(session: Session, start: Cell) -> Path:
    """The artefact of the decoder that tuning starts from. It is trained as a copy, and the device may have no room for
    another one."""
    key = decoder_key(session, start)
    if session.world.first(lambda: not session.cache.has("fit_decoder", key)):
        fitted_decoder(session, start)
    session.forget("decoder")
    return session.cache.path("fit_decoder", key)


def _require_steps(cell: Cell, parts: Parts) -> None:
    """Raise ConfigError for names of nothing, and for media that cannot be encoded, in any of the steps: the last may
    be days away."""
    named, problems = parts.parameters(), list[Problem]()
    looks_up = stored(parts.encoder, cell.config.data.train.modality)
    hint = f"what can be trained: {', '.join(sorted(set(map(_module, named))))}"
    for number, step in enumerate(cell.config.tune):
        path = f"tune.{number}.train"
        for one in chosen(named, step.train)[1]:
            problems.append(Problem(path, f"no parameter is called {one}", cell.document.where(path), hint))
        if looks_up and not _reads_stored(cell, number):
            message = f"the encoder {parts.encoder.config.type!r} only looks up stored vectors, and can encode no media"
            path = f"tune.{number}.stored"
            problems.append(Problem(path, message, cell.document.where(path), "leave `stored: false` out"))
    if problems:
        raise ConfigError(problems)


def _take(session: Session, cell: Cell, parts: Parts, number: int, step: TuneConfig, fitting: StageFitting) -> None:
    """One step of training. Raises PluginError where no gradient arrives."""
    named = parts.parameters()
    names, _ = chosen(named, step.train)
    label, start = f"tune {number + 1}", cell.untuned
    targets: Sequence[str]
    media: Media[Any] | None
    if not _reads_stored(cell, number):
        absent, targets = unread(session, start)
        live = Live.of(session, cell, parts, absent.embeddings, fitting)
        vectors, media, blocks = live.vectors, live.media, live.blocks
    else:
        bridge = fitted_bridge(session, start, start.config.bridge).bridge
        vectors, targets = captions(session, start, bridge)
        media, blocks = None, []
    losses = parts.decoder.training_loss(vectors, targets)
    trained = [named[name] for name in names]
    fitting.log(fit=label, trained=len(names), parameters=sum(p.numel() for p in trained), captions=len(targets))

    modules = _modules(parts, names)
    norms = [part for module in modules.values() for part in module.modules() if isinstance(part, BATCH_NORMS)]

    def loss(at: int, epoch: int, rows: torch.Tensor) -> Share:
        for norm in norms:  # else an item's loss would depend on the others of its batch, and of its process
            norm.eval()
        return losses(epoch, rows)

    batches = Batches(len(targets), step.batch_size, derived_seed(label, fitting.seed), blocks)
    with _only(named, names):
        _require_gradients(named, names, losses(0, torch.arange(min(2, len(targets)))).mean, parts)
        train(
            label,
            modules=modules,
            optimiser=torch.optim.AdamW(trained, lr=step.lr, betas=step.betas, weight_decay=step.weight_decay),
            batches=batches,
            steps=step.steps,
            loss=loss,
            fitting=fitting,
            schedule=warmup_then(step.schedule, min(step.warmup, step.steps // 2), step.steps),
            clip=step.clip,
            split=True,
            media=media,
        )


@dataclass(frozen=True)
class Live:
    """Training vectors that are made of their media in every step, by the parts as they are then, so that gradients
    reach these. `blocks`: the first row of each of several runs of captions whose media lie together on disk. `media`:
    None where the encoder makes batches of its own form, which are not read ahead."""

    vectors: TextVectors
    media: Media[Any] | None
    blocks: list[int]

    @classmethod
    def of(cls, session: Session, cell: Cell, parts: Parts, text: Embeddings, fitting: StageFitting) -> Live:
        source, encoder, bridge = session.source(cell.config.data.train), parts.encoder, parts.bridge
        place = {key: row for row, key in enumerate(source.keys())}
        owners = [key.rsplit("#", 1)[0] for key in text.keys]
        items = list(dict.fromkeys(owners))
        rows, number = [place[key] for key in items], {key: i for i, key in enumerate(items)}
        of = [number[key] for key in owners]
        side, seed = source.modality, cell.config.seed

        def prepared(item: int) -> Any:
            return encoder.prepare(source.media(rows[item]), side)

        workers, media = int(getattr(encoder.config, "workers", 0)), None
        if type(encoder).collate is Encoder.collate and isinstance(prepared(0), torch.Tensor):
            media = Media[Any](len(rows), prepared, fitting, f"{side} items", workers=workers, of=of)

        def batch(wanted: Sequence[int], epoch: int) -> torch.Tensor:
            """A medium is encoded once, however many of its captions are wanted."""
            shown = [of[row] for row in wanted]
            first = {item: at for at, item in reversed(list(enumerate(shown)))}
            different = list(dict.fromkeys(shown))
            if media is not None:
                inputs = media.batch(torch.as_tensor(wanted))[[first[item] for item in different]]
            else:
                inputs = encoder.collate([prepared(item) for item in different], side)
            vectors, _ = encoder.labelled(encoder.embed(inputs, side), side, len(different))
            draw = Draw.of([items[item] for item in different], seed, device=bridge.device).named("cross")
            return bridge.cross_vectors(vectors, draw)[[different.index(item) for item in shown]]

        starts = [rows[item] for item in of]
        blocks = sorted({bisect_left(starts, first) for first in source.blocks()} - {len(starts)})
        return cls(TextVectors(text, batch), media, blocks)


@contextmanager
def _only(named: Mapping[str, torch.nn.Parameter], names: Sequence[str]) -> Iterator[None]:
    """Let nothing but `names` require gradients."""
    kept = set(names)
    for name, parameter in named.items():
        parameter.requires_grad_(name in kept)
    try:
        yield
    finally:
        for parameter in named.values():
            parameter.requires_grad_(True)


def _require_gradients(
    named: Mapping[str, torch.nn.Parameter], names: Sequence[str], loss: torch.Tensor, parts: Parts
) -> None:
    """Raise PluginError if no gradient of a loss arrives at a module of which something is to be trained."""
    arrived = dict.fromkeys(map(_module, names), False)
    if loss.requires_grad:
        loss.backward()  # type: ignore[no-untyped-call]
    for name in names:
        arrived[_module(name)] |= named[name].grad is not None
        named[name].grad = None
    deaf = [name for name, heard in arrived.items() if not heard]
    if deaf:
        raise PluginError(
            f"no gradient of the decoder {parts.decoder.config.type!r} arrives at {', '.join(deaf)}: the decoder does "
            f"not read it, or the bridge {parts.bridge.config.title!r} passes none. Leave it out of tune.train."
        )


def _module(name: str) -> str:
    """ "decoder.mapper" of "decoder.mapper.0.weight"."""
    return ".".join(name.split(".")[:2])


def _modules(parts: Parts, names: Sequence[str]) -> dict[str, torch.nn.Module]:
    """The modules of which something is trained, by name."""
    touched = dict.fromkeys(map(_module, names))
    found = {f"{kind}.{name}": module for kind in TUNED for name, module in getattr(parts, kind).modules().items()}
    return {name: found[name] for name in touched}


def _no_texts(texts: Sequence[str]) -> Embeddings:
    raise PluginError("a part asked for text vectors while it was being tuned, and there are none to be had.")
