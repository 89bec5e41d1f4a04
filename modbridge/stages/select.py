"""Choosing among a decoder's weights while it trains: by the loss on validation captions, or by a metric on media.

The loss sees texts alone. A metric sees validation media with their captions: pairs, as the authors of Diffusion Bridge
use them (the best METEOR on 1,000 validation images, after each epoch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modbridge.assembly.experiment import Cell, Misfit
from modbridge.assembly.session import Session
from modbridge.comparison_tables import SELECTION
from modbridge.config.kinds import SourceConfig
from modbridge.config.pipeline import LAST, TEXT_LOSS
from modbridge.config.selection import metric_column
from modbridge.config.weights import kept_selection
from modbridge.errors import ConfigError, DataError, Problem
from modbridge.interfaces.decoder import Decoded, Decoder
from modbridge.interfaces.fitting import WeightsJudge
from modbridge.interfaces.metric import Reference, Score
from modbridge.interfaces.source import text_key
from modbridge.spaces import Embeddings
from modbridge.stages.answers import attended
from modbridge.stages.embed import embed_key, embeddings, left_out
from modbridge.stages.fit_bridge import bridge_key, fitted_bridge, item_rows
from modbridge.stages.fit_objective import built_metric, objective_keys
from modbridge.stages.references import references as references_of
from modbridge.training import derived_seed, epoch_order

SPLIT = "validation"


def needs(cell: Cell | Misfit) -> list[str]:
    """Which data a cell's bridges take to be fitted, its decoder to be trained and to be chosen; for the tables."""
    config = cell.config
    found = set(config.bridge.needs)
    if config.supervised:
        found |= {"text", "source", "pairs"}
    elif config.decoder is not None:
        found |= config.augmenter.needs | {"text"}
    return sorted(found) + ([SELECTION] if chosen_by(cell)[1] else [])


def chosen_by(cell: Cell | Misfit) -> tuple[str, bool]:
    """What the weights of a cell's decoder are chosen by, and whether that takes pairs; of given weights as their
    artefact says."""
    config = cell.config
    if config.decoder is not None and config.decoder.weights is not None:
        kept = kept_selection(config.decoder.weights)
        return str(kept.get("by", LAST)), bool(kept.get("pairs", False))
    return config.selected_by, config.selects_on_media


def require_selection(session: Session, cell: Cell) -> None:
    """Raise ConfigError unless the cell's decoder can be selected in the way that its config asks for."""
    config = cell.config
    if config.selected_by == LAST or config.decoder is None:
        return
    registry = session.plugins.registry
    decoder: type[Decoder[Any]] = registry.get("decoder", config.decoder.type).load_impl()
    problem = None
    if decoder.text_loss is Decoder.text_loss:
        message = f"the decoder {config.decoder.type!r} cannot be judged while it trains"
        problem = Problem("select", message, hint="set select: {by: last}")
    elif config.selects_with_pairs:
        metric, column = metric_column(config.selected_by, config.metrics, registry)
        lacking = metric.missing()
        if lacking:
            problem = Problem("select.by", f"{column!r} cannot be computed here: {lacking}")
    if problem is not None:
        where = cell.document.where(problem.path)
        raise ConfigError([Problem(problem.path, problem.message, where=where, hint=problem.hint)])
    _require_apart(session, cell)


def _require_apart(session: Session, cell: Cell) -> None:
    """Raise DataError where validation items are items of training or test too, by key and texts."""
    data = cell.config.data
    assert data.validation is not None
    judged = session.source(data.validation)
    rows = {key: row for row, key in enumerate(judged.keys())}
    for name, config in (("train", data.train), ("test", data.test)):
        if config is None:
            continue
        other = session.source(config)
        shared = [
            key for row, key in enumerate(other.keys()) if key in rows and other.texts(row) == judged.texts(rows[key])
        ]
        if shared:
            told = "fitted" if name == "train" else "measured"
            raise DataError(
                f"{len(shared)} of {len(rows)} items of data.validation are items of data.{name} too, the first "
                f"{shared[0]!r}: weights would be chosen on what they are {told} on. Give other items, or select: "
                f"{{by: last}}."
            )


def selection_key(session: Session, cell: Cell) -> list[Any]:
    """What decides which weights are chosen; empty where it is the last ones."""
    config = cell.config
    if config.selected_by == LAST:
        return []
    common = [config.select.every, config.select.items]
    if config.selected_by == TEXT_LOSS:
        media = []
        if config.supervised:
            media = [embed_key(session, cell, SPLIT, config.data.train.modality), *_crossing_key(session, cell)]
        return [TEXT_LOSS, *common, embed_key(session, cell, SPLIT, "text"), *media]
    assert config.data.validation is not None
    assert config.decoder is not None
    metric, column = metric_column(config.selected_by, config.metrics, session.plugins.registry)
    judged = [column, metric.key_fields(), session.plugins.registry.get("metric", metric.type).identity]
    if metric.parts():
        judged += [session.revisions(metric, "metric"), objective_keys(session, cell, metric)]
    evaluate = config.evaluate
    oracle = evaluate.input == "text"
    return [
        *judged,
        *common,
        config.decoder.key_fields("decode"),
        session.fingerprint(config.data.validation),
        [evaluate.input, evaluate.references, evaluate.caption],
        embed_key(session, cell, SPLIT, "text" if oracle else config.data.train.modality),
        [] if oracle else _crossing_key(session, cell),
    ]


def _crossing_key(session: Session, cell: Cell) -> list[Any]:
    """What decides the bridged vectors of the validation media, beside the media."""
    bridge = cell.config.bridge
    lost = left_out(session, cell, SPLIT, cell.config.data.train.modality)
    return [bridge_key(session, cell, bridge), bridge.key_fields("cross"), lost]


def validation_text(session: Session, cell: Cell) -> Embeddings:
    """The vectors of the captions of those validation items that are looked at."""
    text = embeddings(session, cell, SPLIT, "text")
    chosen = _items(session, cell)
    return text.select([i for i, key in enumerate(text.keys) if key.rsplit("#", 1)[0] in chosen])


def metric_judge(session: Session, cell: Cell, decoder: Decoder[Any]) -> WeightsJudge:
    """Judges by what a metric says of the captions of validation media, carried across by the cell's bridge.

    (In a cell that is given texts in place of media, of what it writes from the vectors of one caption each.)
    """
    config = cell.config
    metric_config, column = metric_column(config.selected_by, config.metrics, session.plugins.registry)
    metric = built_metric(session, cell, metric_config)
    bridged, source = _given(session, cell)
    assert config.data.validation is not None
    references = references_of(session, cell, bridged.keys, config.data.validation, media=metric_config.reads_media)
    if decoder.config.reads_references:
        decoder.tell(unscored_texts(session, cell, config.data.validation))

    def score(predictions: Sequence[Decoded], judged: Sequence[Reference]) -> tuple[float, Score]:
        with attended(session, [metric]), session.guard(metric_config, "metric", "it judged the decoder"):
            found = metric.judge(predictions, judged)[column]
        if found.corpus is None:
            raise DataError(f"{column} could not be computed while the decoder was trained: {found.note}")
        return found.corpus, found

    def measure() -> float:
        return score(decoder.decode(bridged, source=source, seed=config.seed), references)[0]

    # Scored once beforehand, with references for captions: which way is better, and that it can be computed at all.
    few = references[:2]
    _, trial = score([Decoded(reference.key, reference.texts[0]) for reference in few], few)
    return WeightsJudge(column, measure, every=config.select.every, higher_is_better=trial.higher_is_better)


def _given(session: Session, cell: Cell) -> tuple[Embeddings, Embeddings | None]:
    """What the decoder reads when it is judged, and the vectors before they were carried across."""
    config = cell.config
    chosen = _items(session, cell)
    if config.evaluate.input == "text":
        text = embeddings(session, cell, SPLIT, "text")
        known = set(text.keys)
        pairs = [(key, at) for key in sorted(chosen) if (at := text_key(key, config.evaluate.caption)) in known]
        paired = text.select(item_rows(text, [at for _, at in pairs]))
        bridged, source = replace(paired, keys=tuple(key for key, _ in pairs)), None
    else:
        whole = embeddings(session, cell, SPLIT, config.data.train.modality)
        source = whole.select([i for i, key in enumerate(whole.keys) if key in chosen])
        bridge = fitted_bridge(session, cell, config.bridge).bridge
        with session.guard(config.bridge, "bridge", "it carried validation vectors across"):
            bridged = bridge.cross(source, config.seed)
    if len(bridged) == 0:
        raise DataError("none of the validation items that select.items drew can be decoded; give more of them.")
    return bridged, source


def _items(session: Session, cell: Cell) -> frozenset[str]:
    """The keys of the validation items that are looked at: `select.items` of them, drawn by the seed."""
    assert cell.config.data.validation is not None
    keys = session.source(cell.config.data.validation).keys()
    order = epoch_order(len(keys), derived_seed("select", cell.config.seed), 0)
    return frozenset(keys[i] for i in order[: cell.config.select.items].tolist())


def unscored_texts(session: Session, cell: Cell, config: SourceConfig) -> dict[str, tuple[str, ...]]:
    """What the captions of each item of a source say, for oracles: where a caption is left out of the references, that
    one alone, so that nothing is scored against what it was told."""
    source = session.source(config)
    number = cell.config.evaluate.caption
    every = {key: source.texts(row) for row, key in enumerate(source.keys())}
    if cell.config.evaluate.references == "all":
        return every
    return {key: texts[number : number + 1] for key, texts in every.items()}
