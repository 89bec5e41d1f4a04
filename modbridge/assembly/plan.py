"""The plan: which ports meet where, compared before any weight loads."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import BridgeConfig, PriorConfig
from modbridge.config.objectives import trained_objectives
from modbridge.config.pipeline import LAST, PipelineConfig
from modbridge.config.sweep import gap_bridges
from modbridge.config.weights import require_ports
from modbridge.errors import ConfigError, ModbridgeError, PortError, Problem, SetupError
from modbridge.spaces import Port


@dataclass(frozen=True)
class Plan:
    """The ports of a checked pipeline.

    `source` and `text`: as the encoder emits them. `bridged`: what `bridge.cross` gives. `trained`: what the decoder is
    trained on, given by the augmenter.
    """

    source: Port
    text: Port
    bridged: Port
    trained: Port


def make_plan(config: PipelineConfig, ports: Mapping[str, Port] | None = None) -> Plan:
    """Check that neighbours fit. `ports` replace what the encoder's config says, once its weights are known.

    Raises ConfigError with every misfit.
    """
    problems: list[Problem] = []
    modality = config.data.train.modality
    for name in ("train", "unpaired", "encoder", "validation", "test"):
        part = getattr(config.data, name)
        if part is not None and part.modality != modality:
            problems.append(
                Problem(f"data.{name}", f"gives {part.modality} items, but data.train gives {modality} items")
            )
    if config.data.encoder is not None and not config.encoder.needs_fit:
        message = f"is what the encoder is trained on, but {config.encoder.type!r} is not trained by the run"
        problems.append(Problem("data.encoder", message, hint="leave it out"))
    missing = [m for m in (modality, "text") if m not in config.encoder.modalities]
    if missing:
        takes = ", ".join(config.encoder.modalities)
        message = f"{config.encoder.type!r} cannot encode {' or '.join(missing)}; it takes {takes}"
        raise ConfigError([*problems, Problem("encoder", message)])
    try:
        found = ports or {m: config.encoder.emits(m) for m in (modality, "text")}
    except ModbridgeError as error:
        raise ConfigError([*problems, Problem("encoder", str(error))]) from error
    source, text = found[modality], found["text"]

    before = len(problems)
    bridged = _crossing(config.bridge, source, text, "bridge", problems)
    where = "augment" if config.augment else "bridge"
    trained = text
    if config.supervised:
        trained = bridged
        if config.augment is not None:
            message = "prepares text vectors, and decoder_input: source trains the decoder on media"
            problems.append(Problem("augment", message, hint="leave `augment` out, or decoder_input"))
    elif config.augment or len(problems) == before:  # else one misfit would be told of both sides
        trained = _attempt(lambda: config.augmenter.augments(text), text, where, problems)
    for path, bridge in [("bridge", config.bridge), ("augment", config.augment)]:
        if bridge is not None:
            _check_priors(bridge, path, text, problems)
    for i, bridge in enumerate(config.gap.bridges):
        _crossing(bridge, source, text, f"gap.bridges.{i}", problems)
    if config.gap.sweep:
        try:
            for bridge in gap_bridges(config):
                _crossing(bridge, source, text, "gap.sweep", problems)
        except ConfigError as error:
            problems += error.problems
    if config.decoder is not None:
        decoder = config.decoder
        _attempt(lambda: decoder.check(trained), None, "decoder", problems)
        arriving = _oracle(config, text, trained) if config.evaluate.input == "text" else bridged
        # After a misfit further up there is nothing to compare: it would only be told twice.
        reason = None if problems else trained.conflict(arriving)
        if reason:
            giver = "evaluate.input: text" if config.evaluate.input == "text" else f"bridge {config.bridge.type!r}"
            problems.append(
                Problem(
                    "decoder",
                    f"{config.decoder.type!r} is trained on {trained} (by {where} {config.augmenter.type!r}) but is "
                    f"given {arriving} (by {giver}): {reason}",
                    hint="give both the same `frame`, or train the decoder under this bridge by leaving `augment` out",
                )
            )
    taken: list[tuple[str, ComponentConfig | None]] = [("bridge", config.bridge), ("augment", config.augment)]
    taken += [("decoder", config.decoder)]
    taken += [(f"gap.bridges.{i}", bridge) for i, bridge in enumerate(config.gap.bridges)]
    for path, part in taken:
        standing = {"text": trained} if part is config.decoder else {"text": text, "source": source}
        # The space of an encoder that the run trains is known once it is trained; weights are compared with it then.
        # Those that joint training starts from are of the space before, and are compared in the plan before.
        if part is not None and (not config.encoder.needs_fit if ports is None else not config.tunes("encoder")):
            _weights_fit(part, path, standing, problems)
    uses = {"train": "train the decoder on", "validation": "judge the decoder by", "test": "score captions against"}
    for name, what in uses.items() if config.captions else ():
        part = getattr(config.data, name)
        if part is not None and not part.captioned:
            problems.append(Problem(f"data.{name}", f"{part.type!r} brings no texts to {what}, as it is configured"))
    problems += _selection(config) + _unpaired(config) + _untold(config)
    if ports is None:  # else it was checked before; a finished run no longer says whether weights were given
        problems += _tuning(config, source)
    for name in config.decoders:
        problems += _of_another(config, name, ports, problems)
    if problems:
        raise ConfigError(problems)
    return Plan(source, text, bridged, trained)


def texts_cross(config: PipelineConfig, text: Port, trained: Port) -> bool:
    """Whether the oracle's texts go through the bridge's `augment`: where a decoder is trained on what the bridge makes
    of media, in a space of its own, and the bridge carries texts into it too (`soft_context`)."""
    if not config.supervised or trained.space.id == text.space.id:
        return False
    try:
        return trained.conflict(config.bridge.augments(text)) is None
    except PortError:
        return False


def _oracle(config: PipelineConfig, text: Port, trained: Port) -> Port:
    """The port of what a decoder is given of true captions."""
    return config.bridge.augments(text) if texts_cross(config, text, trained) else text


def _of_another(
    config: PipelineConfig, name: str, ports: Mapping[str, Port] | None, told: list[Problem]
) -> list[Problem]:
    """What is wrong with one of `decoders`, beside what is told already."""
    try:
        make_plan(config.with_decoder(name), ports)
    except ConfigError as error:
        found = [replace(p, path=re.sub(r"^decoder\b", f"decoders.{name}", p.path)) for p in error.problems]
        return [problem for problem in found if problem.path not in {one.path for one in told}]
    return []


def _unpaired(config: PipelineConfig) -> list[Problem]:
    """What cannot be had where source vectors come from elsewhere than the texts."""
    if config.data.unpaired is None:
        return []
    found = []
    if config.supervised and config.captions:
        message = "trains on media with their captions, and data.unpaired gives media that no text belongs to"
        found.append(Problem("decoder_input", f"{config.decoder_input!r} {message}"))
    if config.data.pairs is not None:
        found.append(Problem("data.pairs", "says how many pairs are known, and with data.unpaired there are none"))
    bridges = [("bridge", config.bridge), ("augment", config.augment)]
    bridges += [(f"gap.bridges.{i}", bridge) for i, bridge in enumerate(config.gap.bridges)]
    for path, bridge in bridges:
        if bridge is not None and "pairs" in bridge.needs and bridge.weights is None:
            message = f"{bridge.title!r} is fitted on pairs, and data.unpaired gives media that no text belongs to"
            found.append(Problem(path, message, hint="leave data.unpaired out, or choose a bridge that needs no pairs"))
    if config.gap.fit is not None:
        message = "splits the items of data.train, whose media data.unpaired replaces"
        found.append(Problem("gap.fit", message, hint="give data.test, and leave gap.fit out"))
    elif config.data.test is None:
        message = "is missing; media of data.unpaired have no texts to be measured against"
        found.append(Problem("data.test", message))
    return found


def _selection(config: PipelineConfig) -> list[Problem]:
    """What is wrong with the choice of the decoder's weights, as far as it can be told without plugins."""
    if config.decoder is not None and config.decoder.given and config.select.by not in (None, LAST):
        message = "the decoder's weights are given, so there are none to choose among"
        return [Problem("select.by", message, hint="leave `select` out, or decoder.weights")]
    if config.selected_by == LAST:
        return []
    if config.data.validation is None:
        message = f"{config.select.by!r} judges weights on validation items, and data.validation is missing"
        return [Problem("select.by", message, hint="give data.validation, or select: {by: last}")]
    same = [name for name in ("train", "test") if getattr(config.data, name) == config.data.validation]
    message = "is the very source of data.{}; the weights would be chosen on what they are {}"
    told = {"train": "fitted on", "test": "measured on"}
    return [Problem("data.validation", message.format(name, told[name])) for name in same]


def _untold(config: PipelineConfig) -> list[Problem]:
    """Objectives that the run trains on captions, where their items bring none."""
    data, holders = config.data.pretraining, {"encoder": config.encoder, "bridge": config.bridge}
    if data.captioned:
        return []
    path = "data.train" if config.data.encoder is None else "data.encoder"
    parts = {f"{holder}.{name}": part for holder, of in holders.items() for name, part in trained_objectives(of)}
    names = [name for name, part in parts.items() if part.reads_texts and part.weights is None]
    message = f"brings no captions, and {', '.join(names)} is trained on them"
    hint = "give items with captions, or `weights` (or a pretrained model) to the objective"
    return [Problem(path, f"{data.type!r} {message}", hint=hint)] if names else []


def _tuning(config: PipelineConfig, source: Port) -> list[Problem]:
    """What is wrong with joint training, as far as it can be told without weights."""
    decoder, bridge, found = config.decoder, config.bridge, list[Problem]()
    if not config.tune:
        return found
    if decoder is None or not config.captions:
        return [*found, Problem("tune", "trains a decoder that writes text, and there is none")]
    if not decoder.tunable:
        message = f"cannot train the decoder {decoder.type!r} together with what comes before it"
        found.append(Problem("tune", message, hint="choose one that can be tuned (prefix_lm), or leave tune out"))
    if config.decoder_input != "source":
        message = "trains on media with their captions, and the decoder is fitted on vectors of texts"
        found.append(Problem("tune", message, hint="set decoder_input: source"))
    if config.tunes("encoder") and not config.encoder.needs_fit:
        message = f"the run does not train the encoder {config.encoder.type!r}, and keeps none of its weights"
        found.append(Problem("tune", message, hint="name an encoder that the run trains (query_encoder), or leave it"))
    if config.tunes("encoder") and bridge.needs:
        needs = ", ".join(sorted(bridge.needs))
        message = f"the bridge {bridge.title!r} is fitted on vectors ({needs}) of the encoder that is trained on here"
        found.append(Problem("tune", message, hint="choose a bridge that is fitted on nothing, or leave the encoder"))
    live = config.tunes("encoder") or config.tunes("bridge") or not all(step.stored for step in config.tune)
    if source.ragged and live:
        hint = "train the decoder alone, on stored embeddings"
        found.append(Problem("tune", f"makes in its steps sequences of one length; found {source}", hint=hint))
    if config.gap.fit is not None and config.tunes("bridge"):
        message = "fits bridges on a part of data.train, and `tune` trains this one on all of it"
        found.append(Problem("gap.fit", message, hint="leave it out, or the bridge"))
    if config.evaluate.input == "text":
        message = "the oracle decodes vectors of texts, and `tune` trains on those of media"
        found.append(Problem("evaluate.input", message, hint="leave tune out"))
    if config.selected_by != LAST:
        message = f"chooses weights of the fitted decoder by {config.selected_by!r}, and `tune` trains it further"
        found.append(Problem("select", message, hint="set select: {by: last}"))
    return found


def _check_priors(config: ComponentConfig, path: str, text: Port, problems: list[Problem]) -> None:
    """Every prior inside a bridge must be able to model the text vectors."""
    for name, part in config.parts().items():
        if isinstance(part, PriorConfig):
            _attempt(partial(part.check, text), None, f"{path}.{name}", problems)
        _check_priors(part, f"{path}.{name}", text, problems)


def _weights_fit(config: ComponentConfig, path: str, ports: Mapping[str, Port], problems: list[Problem]) -> None:
    """Weights taken from elsewhere, of a component or of its parts, must have been fitted at these ports."""
    weights = getattr(config, "weights", None)
    if weights is not None:
        try:
            require_ports(weights, config.type, ports)
        except ModbridgeError as error:
            problems.append(Problem(f"{path}.weights", str(error)))
    for name, part in config.parts().items():
        _weights_fit(part, f"{path}.{name}", config.part_ports(name, ports), problems)


def _crossing(bridge: BridgeConfig, source: Port, text: Port, path: str, problems: list[Problem]) -> Port:
    def cross() -> Port:
        if source.space.id != text.space.id:
            raise PortError(f"a bridge joins two sides of one space. Found {source} and {text}.")
        return bridge.crosses(source, text)

    return _attempt(cross, text, path, problems)


def _attempt(check: object, otherwise: object, path: str, problems: list[Problem]) -> Port:
    assert callable(check)
    try:
        found: Port = check()
        return found
    except SetupError:  # no mistake of the config's
        raise
    except ModbridgeError as error:
        problems.append(Problem(path, str(error)))
        return otherwise  # type: ignore[return-value]
