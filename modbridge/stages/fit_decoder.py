"""Stage fit_decoder: learn to write captions from text vectors, as the augmenter gives them. No medium is seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session, StageFitting
from modbridge.config.kinds import DecoderConfig
from modbridge.errors import ConfigError, Problem
from modbridge.interfaces.bridge import Bridge
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.decoder import Decoder
from modbridge.interfaces.fitting import TextVectors
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embeddings
from modbridge.stages.fit_bridge import bridge_key, fitted_bridge
from modbridge.stages.fit_encoder import plan_of
from modbridge.store.artefact import load_component
from modbridge.store.keys import stable_hash


@dataclass(frozen=True)
class FittedDecoder:
    """A decoder and the folder of its artefact."""

    decoder: Decoder[Any]
    folder: Path


def required_decoder(cell: Cell) -> DecoderConfig:
    """The cell's decoder config, or a ConfigError that says what to add."""
    if cell.config.decoder is None:
        raise ConfigError(
            [
                Problem(
                    "decoder",
                    "is missing; this stage needs one",
                    where=cell.document.where(""),
                    hint="add `decoder: {type: ...}`, or stop earlier with --until fit_bridge",
                )
            ]
        )
    return cell.config.decoder


def decoder_key(session: Session, cell: Cell) -> str:
    """What decides a fitted decoder: its fields, the training texts and their vectors as the augmenter gives them."""
    config, augmenter = required_decoder(cell), cell.config.augmenter
    return stable_hash(
        [
            config.key_fields(),
            session.revisions(config, "decoder"),
            bridge_key(session, cell, augmenter),
            augmenter.key_fields("augment"),
            _draws(cell),
            embed_key(session, cell, "train", "text"),
            cell.config.seed,
        ]
    )


def _draws(cell: Cell) -> int | str | None:
    return cell.config.augment_draws if cell.config.augmenter.augmentation != "none" else None


def fitted_decoder(session: Session, cell: Cell) -> FittedDecoder:
    """The decoder, fitted on the training texts, made once."""
    config, augmenter = required_decoder(cell), cell.config.augmenter
    key, plan = decoder_key(session, cell), plan_of(session, cell)

    def make() -> FittedDecoder:
        context = BuildContext(
            device=session.torch_device(cell.config.device),
            seed=cell.config.seed,
            ports={"text": plan.trained},
            artefact=session.cache.path("fit_decoder", key) if session.cache.has("fit_decoder", key) else None,
        )
        decoder: Decoder[Any] = session.build(config, "decoder", context)
        label = f"{config.type} on {augmenter.type}/{augmenter.augmentation}"

        def build(out: Path, work: Path) -> None:
            text = embeddings(session, cell, "train", "text")
            targets = texts_of(session, cell, text.keys)
            bridge = fitted_bridge(session, cell, augmenter).bridge
            vectors = augmented(bridge, text, cell.config.seed, _draws(cell))
            fitting = StageFitting(session, work, cell.config.seed, label)
            with session.guard(config, "decoder", "it was fitted"):
                decoder.fit(vectors, targets, fitting)
            fitting.write_log(out)
            session.save(decoder, "decoder", out, seed=cell.config.seed, data=embed_key(session, cell, "train", "text"))

        folder = session.stage("fit_decoder", key, label, build)
        load_component(decoder, folder)
        return FittedDecoder(decoder, folder)

    # Search options live in the built object, not in the artefact.
    return session.remember(
        f"decoder {key} {stable_hash(config.key_fields('decode', 'nothing'))}", make, alone="decoder"
    )


def texts_of(session: Session, cell: Cell, keys: Sequence[str], split: str = "train") -> list[str]:
    """The texts behind text keys."""
    source = session.source(getattr(cell.config.data, split))
    rows = {key: i for i, key in enumerate(source.keys())}
    found = []
    for key in keys:
        item, number = key.rsplit("#", 1)
        found.append(source.texts(rows[item])[int(number)])
    return found


def augmented(bridge: Bridge[Any], text: Embeddings, seed: int, draws: int | str | None) -> TextVectors:
    """Training vectors: without noise once for all (`draws` None), `draws` fixed sets that epochs take in turn, or
    fresh noise every epoch ("fresh")."""
    kept: dict[int, torch.Tensor] = {}

    def whole(draw: int) -> torch.Tensor:
        if draw not in kept:
            kept[draw] = bridge.augment(text, seed, draw).values
        return kept[draw]

    def fixed(count: int) -> Callable[[Sequence[int], int], torch.Tensor]:
        return lambda rows, epoch: whole(epoch % count)[torch.as_tensor(rows)].clone()

    def fresh(rows: Sequence[int], epoch: int) -> torch.Tensor:
        index = rows.tolist() if isinstance(rows, torch.Tensor) else rows
        return bridge.augment(text.select(index), seed, epoch).values.clone()

    return TextVectors(text, fresh if draws == "fresh" else fixed(int(draws or 1)))
