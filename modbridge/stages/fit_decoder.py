"""Stage fit_decoder: learn to write captions from text vectors, as the augmenter gives them. No medium is seen, unless
`decoder_input: source` asks for supervised training on the media's vectors, as the bridge gives them. A decoder that
makes media learns from them and their vectors. One that has nothing to learn is kept as it is built."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session, StageFitting
from modbridge.config.kinds import DecoderConfig, VocabularyConfig
from modbridge.config.pipeline import LAST, TEXT_LOSS
from modbridge.config.weights import weights_folder
from modbridge.errors import ConfigError, DataError, PluginError, Problem
from modbridge.interfaces.bridge import Bridge
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.decoder import Decoder
from modbridge.interfaces.fitting import TextVectors, WeightsJudge
from modbridge.interfaces.source import Source, text_key
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embed_key, embedded_texts, embeddings, left_out, source_config
from modbridge.stages.fit_bridge import bridge_key, fitted_bridge, known_pairs, pair_rows
from modbridge.stages.fit_encoder import plan_of
from modbridge.stages.fit_objective import built, objective_keys
from modbridge.stages.select import SPLIT, metric_judge, require_selection, selection_key, validation_text
from modbridge.store.artefact import load_component, load_weights
from modbridge.store.keys import stable_hash

KEPT_BYTES = 2 << 30  # of fixed sets of training vectors (float32); all of COCO's captions take 1.2e9 at 512 dimensions


@dataclass(frozen=True)
class FittedDecoder:
    """A decoder and the folder of its artefact."""

    decoder: Decoder[Any]
    folder: Path


def required_decoder(cell: Cell) -> DecoderConfig:
    """The cell's decoder config, or a ConfigError that says what to add: a decoder, or its vocabulary's file."""
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
    for name, part in cell.config.decoder.parts().items():
        lacking = part.missing() if isinstance(part, VocabularyConfig) else None
        if lacking:
            path = f"decoder.{name}"
            raise ConfigError([Problem(path, lacking, where=cell.document.where(path))])
    return cell.config.decoder


def decoder_key(session: Session, cell: Cell) -> str:
    """What decides a fitted decoder: its fields, what it is given, and what it was tuned with."""
    config = required_decoder(cell)
    if cell.config.tune:
        from modbridge.stages.tune import tune_key  # which starts from the decoder as it is fitted here

        return tune_key(session, cell)
    objectives = objective_keys(session, cell, config).values()
    own = [config.key_fields(), session.revisions(config, "decoder")]
    if not config.needs_fit and config.weights is None:
        return stable_hash([*own, plan_of(session, cell).trained.to_json(), cell.config.seed, *objectives])
    return stable_hash([*own, *_given(session, cell), *objectives])


def _given(session: Session, cell: Cell) -> list[Any]:
    """What decides the fit of a decoder beside its own fields: the training texts and their vectors as the augmenter
    gives them, and what its weights are chosen by."""
    config, augmenter = required_decoder(cell), cell.config.augmenter
    taught: list[Any] = [augmenter.key_fields("augment"), _draws(cell)]
    if cell.config.supervised and config.weights is None:
        modality = cell.config.data.train.modality
        # One that is left to tuning looks at no vector, so that none need be made.
        left = [] if config.left_to_tuning else left_out(session, cell, "train", modality)
        media = [embed_key(session, cell, "train", modality), left]
        taught = ["supervised", augmenter.key_fields("cross"), *media, cell.config.data.pairs]
    return [
        bridge_key(session, cell, augmenter),
        *taught,
        embed_key(session, cell, "train", "text"),
        cell.config.seed,
        *selection_key(session, cell),
    ]


def _judge(session: Session, cell: Cell, decoder: Decoder[Any], bridge: Bridge[Any]) -> WeightsJudge | None:
    """What the decoder's weights are chosen by while it trains; None to keep the last."""
    config = cell.config
    if config.selected_by == LAST:
        return None
    require_selection(session, cell)
    if config.selects_with_pairs:
        return metric_judge(session, cell, decoder)
    text = validation_text(session, cell)
    if config.supervised:
        vectors = on_media(bridge, text, embeddings(session, cell, SPLIT, config.data.train.modality), config.seed)
        targets = texts_of(session, cell, vectors.embeddings.keys, SPLIT)
        return WeightsJudge(TEXT_LOSS, lambda: decoder.text_loss(vectors, targets), every=config.select.every)
    targets = texts_of(session, cell, text.keys, SPLIT)
    # As the augmenter gives them, with noise that stays the same: losses of two epochs can be compared.
    vectors = augmented(bridge, text, config.seed, None if _draws(cell) is None else 1)
    return WeightsJudge(TEXT_LOSS, lambda: decoder.text_loss(vectors, targets), every=config.select.every)


def _selected(cell: Cell, fitting: StageFitting) -> dict[str, Any]:
    """What the artefact says of the choice of its weights. Raises PluginError if none was made although one was due."""
    if fitting.judge is None:
        return {}
    lines = [line for line in fitting.lines if line.get("select") == fitting.judge.name]
    if not lines:
        raise PluginError(
            f"the decoder {required_decoder(cell).type!r} was to be selected by {fitting.judge.name} while it trained, "
            f"and was not judged once: its fit must hand fitting.judge to modbridge.training.train. Until it does, set "
            f"select: {{by: last}}."
        )
    step = lines[-1]["best_step"]
    value = next(line["value"] for line in lines if line["step"] == step)
    found = {"by": fitting.judge.name, "value": value, "step": step, "pairs": cell.config.selects_on_media}
    return {"selection": found}


def _draws(cell: Cell) -> int | str | None:
    return cell.config.augment_draws if augments(cell) not in ("none", "shift", "supervised") else None


def fitted_decoder(session: Session, cell: Cell) -> FittedDecoder:
    """The decoder, fitted on the training texts, made once."""
    config, augmenter = required_decoder(cell), cell.config.augmenter
    key, plan = decoder_key(session, cell), plan_of(session, cell)
    tuned = None
    if cell.config.tune:
        from modbridge.stages.tune import tuned_folder

        tuned = tuned_folder(session, cell, "decoder")  # made before anything is remembered: it needs the memory

    def make() -> FittedDecoder:
        context = BuildContext(
            device=session.torch_device(cell.config.device),
            seed=cell.config.seed,
            ports={"text": plan.trained, "source": plan.source},
            artefact=tuned or _artefact(session, config, key),
        )
        decoder: Decoder[Any] = built(session, cell, config, "decoder", context)
        if tuned is not None:
            load_component(decoder, tuned)
            return FittedDecoder(decoder, tuned)
        label = f"{config.type} on {augmenter.type}/{augments(cell)}"

        def build(out: Path, work: Path) -> None:
            def surroundings(judge: WeightsJudge | None = None) -> StageFitting:
                embed, given = partial(embedded_texts, session, cell), stable_hash(_given(session, cell))
                return StageFitting(session, work, cell.config.seed, label, judge, embed=embed, given=given)

            data = embed_key(session, cell, "train", "text")
            if config.weights is not None:
                origin = load_weights(decoder, config.weights)
                surroundings().write_log(out)
                session.save(decoder, "decoder", out, **origin)
                return
            if not config.needs_fit:
                surroundings().write_log(out)
                session.save(decoder, "decoder", out, seed=cell.config.seed)
                return
            bridge = fitted_bridge(session, cell, augmenter).bridge
            targets: Sequence[Any]
            if config.left_to_tuning:
                vectors, targets = unread(session, cell)
                judge = None
            elif cell.config.captions:
                vectors, targets = captions(session, cell, bridge)
                judge = _judge(session, cell, decoder, bridge)
            else:
                vectors, targets = _media(session, cell, bridge)
                judge = None
            fitting = surroundings(judge)
            with session.guard(config, "decoder", "it was fitted"):
                decoder.fit(vectors, targets, fitting)
            fitting.write_log(out)
            chosen = _selected(cell, fitting) if session.world.main else {}  # the others may have no log
            session.save(decoder, "decoder", out, seed=cell.config.seed, data=data, **chosen)

        folder = session.stage("fit_decoder", key, label, build, joint=True)
        load_component(decoder, folder)
        return FittedDecoder(decoder, folder)

    # Search options live in the built object, not in the artefact.
    return session.remember(
        f"decoder {key} {stable_hash(config.key_fields('decode', 'nothing'))}", make, among="decoder"
    )


def captions(session: Session, cell: Cell, bridge: Bridge[Any]) -> tuple[TextVectors, Sequence[str]]:
    """The training captions, with the vectors that a decoder learns to write them from."""
    text = embeddings(session, cell, "train", "text")
    if cell.config.supervised:
        media = embeddings(session, cell, "train", cell.config.data.train.modality)
        rows = pair_rows(cell, text, media)
        known = (rows >= 0).nonzero().flatten().tolist()
        vectors = on_media(bridge, text.select(known), media, cell.config.seed)
    else:
        vectors = augmented(bridge, text, cell.config.seed, _draws(cell))
    return vectors, texts_of(session, cell, vectors.embeddings.keys)


def unread(session: Session, cell: Cell) -> tuple[TextVectors, list[str]]:
    """The training captions of the items that are known as pairs, with vectors that are not made: who reads them is
    told so by torch, which has no data of them."""
    source, plan = session.source(cell.config.data.train), plan_of(session, cell)
    items = source.keys()
    known = known_pairs(cell, [key for row, key in enumerate(items) if source.texts(row)])
    rows = [row for row, key in enumerate(items) if key in known]
    texts = [source.texts(row)[: source.embedded_texts(row)] for row in rows]
    keys = [text_key(items[row], number) for row, of in zip(rows, texts, strict=True) for number in range(len(of))]
    shape = (len(keys), *(() if plan.text.tokens is None else (plan.text.tokens,)), plan.text.space.dim or 0)
    mask = torch.empty(shape[:2], dtype=torch.bool, device="meta") if plan.text.ragged else None
    absent = Embeddings(torch.empty(shape, device="meta"), plan.text, tuple(keys), mask=mask)

    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        return absent.values[torch.as_tensor(rows)]

    return TextVectors(absent, batch), [text for of in texts for text in of]


def _media(session: Session, cell: Cell, bridge: Bridge[Any]) -> tuple[TextVectors, Sequence[Any]]:
    """The training media, with their own vectors, carried across: what a decoder that makes media learns from."""
    modality = cell.config.data.train.modality
    media = embeddings(session, cell, "train", modality)
    across = bridge.cross(media, cell.config.seed)
    values = across.values

    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        return values[torch.as_tensor(rows, device=values.device)].clone()

    items = Items(session.source(source_config(cell, "train", modality)), media.keys)
    return TextVectors(media, batch, mask=across.mask), items


def _artefact(session: Session, config: DecoderConfig, key: str) -> Path | None:
    """The folder that the decoder will be loaded from, if it is there already."""
    if session.cache.has("fit_decoder", key):
        return session.cache.path("fit_decoder", key)
    return None if config.weights is None else weights_folder(config.weights)


def texts_of(session: Session, cell: Cell, keys: Sequence[str], split: str = "train") -> list[str]:
    """The texts behind text keys."""
    source = session.source(getattr(cell.config.data, split))
    rows = {key: i for i, key in enumerate(source.keys())}
    found = []
    for key in keys:
        item, number = key.rsplit("#", 1)
        found.append(source.texts(rows[item])[int(number)])
    return found


def augments(cell: Cell) -> str:
    """What is done to the vectors that a cell's decoder is trained on: "supervised" where they are those of media."""
    return "supervised" if cell.config.supervised else cell.config.augmenter.augments_by


def on_media(bridge: Bridge[Any], text: Embeddings, media: Embeddings, seed: int) -> TextVectors:
    """Training vectors for supervised training: to each text (N) the vector of its item among `media`, carried across.

    Texts whose item has no vector are left out. Raises DataError if none is left.
    """
    rows = {key: i for i, key in enumerate(media.keys)}
    kept = [i for i, key in enumerate(text.keys) if key.rsplit("#", 1)[0] in rows]
    if not kept:
        raise DataError(
            f"none of the {len(text)} captions belongs to one of the {len(media)} {media.port.modality} vectors: "
            f"supervised training takes pairs. Give items with both, or set decoder_input: text."
        )
    texts = text.select(kept)
    at = torch.tensor([rows[key.rsplit("#", 1)[0]] for key in texts.keys], device=media.values.device)
    across = bridge.cross(media, seed)
    values, mask = across.values, None if across.mask is None else across.mask[at]
    return TextVectors(
        texts, lambda batch, epoch: values[at[torch.as_tensor(batch, device=at.device)]].clone(), mask=mask
    )


class Items(Sequence[Any]):
    """The media of some items of a source, each read when it is asked for."""

    def __init__(self, source: Source[Any], keys: Sequence[str]) -> None:
        rows = {key: i for i, key in enumerate(source.keys())}
        self.source, self.rows = source, [rows[key] for key in keys]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, at: Any) -> Any:
        return self.source.media(self.rows[at])


def augmented(bridge: Bridge[Any], text: Embeddings, seed: int, draws: int | str | None) -> TextVectors:
    """Training vectors: without noise once for all (`draws` None), `draws` fixed sets that epochs take in turn, or
    fresh noise every epoch ("fresh").

    A set is made whole when an epoch first asks for it, so that nothing depends on the order of the batches. As many
    fixed sets are kept as fit into KEPT_BYTES; the others are made again when their turn comes.
    """
    kept: dict[int, torch.Tensor] = {}
    room = 1 if draws == "fresh" else max(1, KEPT_BYTES // max(1, 4 * text.values.numel()))

    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        draw = epoch if draws == "fresh" else epoch % int(draws or 1)
        if draw not in kept:
            if len(kept) >= room:
                kept.popitem()  # the newest: sets come round in turn, so the oldest is wanted first
            kept[draw] = bridge.augment(text, seed, draw).values
        return kept[draw][torch.as_tensor(rows)].clone()  # an inference tensor, which autograd refuses, until cloned

    kept_mask = text.mask is not None and bridge.config.augments(text.port).ragged
    return TextVectors(text, batch, mask=text.mask if kept_mask else None)
