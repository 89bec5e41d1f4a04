"""A pipeline ready for use: `modbridge.load("runs/x").caption(images)`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.build import Shared, build_component
from modbridge.assembly.plan import Plan, make_plan
from modbridge.assembly.session import Session
from modbridge.composition import compose
from modbridge.config.pipeline import PipelineConfig, check_pipeline
from modbridge.config.stored import upgraded_pipeline
from modbridge.config.weights import without_weights
from modbridge.errors import ArtefactError, ConfigError, DataError, Problem, SetupError
from modbridge.hub import no_network
from modbridge.interfaces.bridge import Bridge
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.decoder import Decoded, Decoder
from modbridge.interfaces.encoder import Encoder
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings, Port
from modbridge.stages.report import UNTUNED, read_run
from modbridge.store.artefact import load_component, load_objectives, read_manifest, read_tensors
from modbridge.store.cache import Cache


@dataclass(frozen=True)
class Station:
    """Where one item's vector stands at one station of its bridge, beside the cloud of training texts.

    `to_mean`: distance to the mean text vector. `nearest`: cosine to the nearest of the sampled training texts.
    """

    name: str
    to_mean: float
    nearest: float


@dataclass(frozen=True)
class Way:
    """What an item passes on its way to one output. Where `tune` trained encoder or bridge, the way to captions is
    another one than that to what `decoders` make."""

    encoder: Encoder[Any]
    bridge: Bridge[Any]
    decoder: Decoder[Any]


class Pipeline:
    """Encoder, bridge and decoder of one finished cell. `others`: what gives the way to each of its further decoders,
    by name; they are loaded when they are first asked for."""

    def __init__(
        self,
        config: PipelineConfig,
        encoder: Encoder[Any],
        bridge: Bridge[Any],
        decoder: Decoder[Any],
        cloud: dict[str, torch.Tensor],
        others: Mapping[str, Callable[[], Way]] | None = None,
    ) -> None:
        self.config, self.encoder, self.bridge, self.decoder, self.cloud = config, encoder, bridge, decoder, cloud
        self.modality = config.data.train.modality
        own = Way(encoder, bridge, decoder)
        self._others: dict[str, Callable[[], Way]] = {"text": lambda: own, **(others or {})}

    @property
    def decoders(self) -> tuple[str, ...]:
        """The names that `decode` knows: "text", and those of `decoders` in the config."""
        return tuple(self._others)

    def decoder_of(self, name: str) -> Decoder[Any]:
        """The decoder of a name. Raises ConfigError where there is none."""
        return self.way(name).decoder

    def way(self, name: str) -> Way:
        """What leads to the decoder of a name. Raises ConfigError where there is none."""
        if name not in self._others:
            message = f"this run has no decoder {name!r}"
            raise ConfigError([Problem("to", message, hint=f"its decoders: {', '.join(self._others)}")])
        found = self._others[name]()
        self._others[name] = lambda: found
        return found

    def encode(self, items: Sequence[Any], to: str = "text") -> Embeddings:
        """Vectors (B, D) or sequences (B, n, D) of items: paths, PIL images or arrays, as the encoder takes them. `to`:
        the decoder that they are for, which matters where the run tuned its encoder on captions.

        Raises DataError where the run's encoder only looks up vectors that were made elsewhere.
        """
        encoder = self.way(to).encoder
        if encoder.lookup((), self.modality) is not None:
            raise DataError(
                f"this run's encoder {encoder.config.type!r} only knows the vectors of its file; it cannot encode "
                f"new items. Run the config with an encoder that computes them (open_clip, hf_clip)."
            )
        size = int(getattr(encoder.config, "batch_size", 64))
        keys = tuple(str(i) for i in range(len(items)))
        parts = [
            encoder.encode(items[i : i + size], self.modality, keys=keys[i : i + size])
            for i in range(0, len(items), size)
        ]
        parts = parts or [encoder.encode([], self.modality)]
        values, masks = torch.cat([p.values for p in parts]), [p.mask for p in parts if p.mask is not None]
        return Embeddings(values, encoder.port(self.modality), keys, mask=torch.cat(masks) if masks else None)

    def compose(
        self, items: Sequence[Any] | Embeddings, take: Sequence[int] | None = None, to: str = "text"
    ) -> Embeddings:
        """Several items as one sequence, to be decoded by the decoder `to`: of item i its first `take[i]` tokens (all
        of them by default), one item after another, as `modbridge.compose`."""
        encoded = self._source(items, to)
        return compose([encoded.select([row]) for row in range(len(encoded))], take)

    def caption(self, items: Sequence[Any] | Embeddings) -> list[str]:
        """A caption for each item (or for what `encode` gave of them), in order."""
        return [decoded.text for decoded in self.decode(items)]

    def decode(self, items: Sequence[Any] | Embeddings, to: str = "text") -> list[Decoded]:
        """As `caption`, with each caption's score and details (the entities that `viecap` found, among others). `to`:
        which of `decoders` makes something of them; one that makes images gives `Decoded.image`.

        Raises ConfigError for a decoder that is not there, DataError where it is an oracle, which has to be told what
        captions say.
        """
        way = self.way(to)
        decoder = way.decoder
        if decoder.config.reads_references:
            raise DataError(
                f"the decoder {decoder.config.type!r} of this cell is an oracle: it reads the captions of the "
                f"test items, and new items have none. Name another cell with --cell."
            )
        source = self._source(items, to)
        return decoder.decode(way.bridge.cross(source, self.config.seed), source=source, seed=self.config.seed)

    def _source(self, items: Sequence[Any] | Embeddings, to: str = "text") -> Embeddings:
        if isinstance(items, str | Path):
            raise DataError(f"expected a list of items; found the single item {str(items)!r}. Put it in a list.")
        return items if isinstance(items, Embeddings) else self.encode(items, to)

    def explain(self, items: Sequence[Any] | Embeddings) -> list[list[Station]]:
        """For each item (or for what `encode` gave of them) the stations of its crossing and their distances to the
        text cloud. Raises PortError for sequences."""
        source = self._source(items)
        for port in (self.bridge.context.ports["text"], source.port):
            port.require_vectors("the explanation of a crossing")
        draw = Draw.of(source.keys, self.config.seed, device=self.bridge.device).named("cross")
        sample = torch.nn.functional.normalize(self.cloud["sample"].float(), dim=1)
        stations: list[list[Station]] = [[] for _ in source.keys]
        with torch.inference_mode():
            for name, vectors in self.bridge.trace_vectors(source.values, draw):
                x = torch.nn.functional.normalize(vectors.float().cpu(), dim=1)
                to_mean = (x.double() - self.cloud["mean"].double()).norm(dim=1).tolist()
                nearest = (x @ sample.T).max(1).values.tolist()
                for row, (distance, cosine) in enumerate(zip(to_mean, nearest, strict=True)):
                    stations[row].append(Station(name, distance, cosine))
        return stations


def load(run: str | Path, *, cell: str | None = None, device: str = "auto", plugins: Plugins | None = None) -> Pipeline:
    """The pipeline of a finished run: a local run folder, or "hf://org/name@revision".

    `cell`: which of its variants; by default the one that the config calls `main`. Raises DataError or ArtefactError
    if the run is not there, unfinished, damaged or of a newer schema.
    """
    folder = _local(str(run))
    record = read_run(folder)
    label = cell or record["main"]
    if label not in record["cells"]:
        raise ConfigError([Problem("cell", f"no such cell: {label!r}", hint=f"cells: {', '.join(record['cells'])}")])
    plugins = plugins or Plugins.discover()
    try:
        tree = json.loads((folder / "resolved.json").read_text(encoding="utf-8"))[label]
        placed = record["cells"][label]
        ports = read_manifest(folder / placed["bridge"])["ports"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtefactError(
            f"the run {folder} is damaged ({type(error).__name__}: {error}); run its config again, "
            f"which writes it anew."
        ) from error
    problems: list[Problem] = []
    stored = upgraded_pipeline(without_weights(tree), PipelineConfig, plugins.registry)
    config = check_pipeline(stored, plugins.registry, problems)
    if config is None:
        raise ConfigError(problems)
    if config.decoder is None:
        raise ConfigError([Problem("decoder", f"the run {folder} has none, so it cannot caption")])
    text, source = Port.from_json(ports["text"]), Port.from_json(ports["source"])
    plan = make_plan(config, {source.modality: source, "text": text})
    where = Session(plugins, Cache(folder)).torch_device(device if device != "auto" else config.device)

    seed, shared = config.seed, Shared(config.pretraining_seed)

    def loaded(config: Any, kind: str, ports: dict[str, Port], name: str = "") -> Any:
        name = name or kind
        artefact = folder / placed[name] if name in placed else None
        context = BuildContext(device=where, seed=seed, ports=ports, artefact=artefact)
        found = build_component(config, kind, plugins.registry, context, shared)
        load_objectives(found, lambda part: folder / placed[f"{name.removeprefix(UNTUNED)}.{part}"])
        if artefact is not None:
            load_component(found, artefact)
        return found

    def ends(plan: Plan) -> dict[str, Port]:
        return {"text": plan.text, "source": plan.source}

    def before(plan: Plan, prefix: str = "") -> tuple[Encoder[Any], Bridge[Any]]:
        at = {plan.source.modality: plan.source, "text": plan.text}
        encoder: Encoder[Any] = loaded(config.encoder, "encoder", at, f"{prefix}encoder")
        bridge: Bridge[Any] = loaded(config.bridge, "bridge", ends(plan), f"{prefix}bridge")
        return encoder, bridge

    encoder, bridge = before(plan)
    decoder = loaded(config.decoder, "decoder", {**ends(plan), "text": plan.trained})

    @cache
    def fitted() -> tuple[Encoder[Any], Bridge[Any]]:
        """What leads to further decoders."""
        if f"{UNTUNED}bridge" not in placed:
            return encoder, bridge
        ports = read_manifest(folder / placed[f"{UNTUNED}bridge"])["ports"]
        found = {p.modality: p for p in map(Port.from_json, ports.values())}
        return before(make_plan(config, found), UNTUNED)

    def another(name: str) -> Way:
        one = config.with_decoder(name)
        encoder, bridge = fitted()
        ports = bridge.context.ports
        trained = make_plan(one, {port.modality: port for port in ports.values()}).trained
        found: Decoder[Any] = loaded(one.decoder, "decoder", {**ports, "text": trained}, f"decoders.{name}")
        return Way(encoder, bridge, found)

    others = {name: partial(another, name) for name in config.decoders}
    cloud = read_tensors(folder / placed["cloud"]) if "cloud" in placed else {}  # none of sequences
    return Pipeline(config, encoder, bridge, decoder, cloud, others)


def _local(run: str) -> Path:
    if not run.startswith("hf://"):
        return Path(run)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    name, _, revision = run.removeprefix("hf://").partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DataError(f"{run!r}: expected hf://ORG/NAME or hf://ORG/NAME@REVISION.")
    reason = no_network()
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=reason is not None))
    except RepositoryNotFoundError as error:
        raise DataError(
            f"{run}: no such repository on the hub. Look at its name, or log in if it is private."
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        why = reason or f"{type(error).__name__}: {error}"
        raise SetupError(f"{run} is not in the cache, and cannot be fetched: {why}.") from error
