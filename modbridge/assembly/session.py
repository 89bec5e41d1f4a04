"""One session of work: plugins, cache, device, and what has been done so far."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch

from modbridge.assembly.build import Shared, build_component, build_metric, guard
from modbridge.builtin.engine_config import LocalEngineConfig
from modbridge.builtin.local_engine import LocalEngine
from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import MetricConfig, SourceConfig
from modbridge.config.pipeline import DEVICES, dump
from modbridge.distributed import World
from modbridge.errors import ConfigError, Problem, SetupError
from modbridge.interfaces.bridge import Bridge, FitData
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.decoder import Decoder
from modbridge.interfaces.engine import Engine
from modbridge.interfaces.fitting import Fitting, Progress, TextVectors, WeightsJudge
from modbridge.interfaces.metric import Metric
from modbridge.interfaces.source import Source, check_keys
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.store.artefact import identities, load_component, load_weights, save_component
from modbridge.store.cache import Cache
from modbridge.store.keys import stable_hash, tensor_hash, vectors_hash
from modbridge.store.tree import load_tree, save_tree
from modbridge.talk import Talk

T = TypeVar("T")
TRAINING_LOG = "training.jsonl"
SAID_SECONDS = 1.0  # shorter stages are not worth a line


@dataclass(frozen=True)
class StageDone:
    """A stage's result, and whether it was there already."""

    stage: str
    key: str
    label: str
    cached: bool
    seconds: float


@dataclass
class Session:
    """Runs stages. `on_error`: "raise" or "skip" for items that cannot be read. `checkpoint_seconds`: how often long
    fits save their state. `shard_rows`: vectors in one shard of an embedding. `world`: the processes of this launch;
    all but one have sessions that write nothing."""

    plugins: Plugins
    cache: Cache
    talk: Talk = field(default_factory=Talk)
    device: str = "auto"
    on_error: str = "raise"
    checkpoint_seconds: float = 20.0
    shard_rows: int = 4096
    engine: Engine[Any] = field(default_factory=lambda: LocalEngine(LocalEngineConfig(), BuildContext()))
    world: World = field(default_factory=World)
    done: list[StageDone] = field(default_factory=list)
    _memory: dict[str, Any] = field(default_factory=dict)
    _recent: dict[str, list[str]] = field(default_factory=dict)
    _solo_memory: dict[str, Any] = field(default_factory=dict)
    _solo_recent: dict[str, list[str]] = field(default_factory=dict)
    _inner: float = 0.0

    def __reduce__(self) -> tuple[Any, ...]:
        """A worker of an engine is sent what it takes to open a session like this. Fingerprints and keys go along: they
        are slow to take, and decide which results are found in the cache."""
        prints = {name: value for name, value in self._memory.items() if name.startswith(("print ", "tune "))}
        how = {name: getattr(self, name) for name in ("device", "on_error", "checkpoint_seconds", "shard_rows")}
        files = [str(Path(file).resolve()) for file in self.plugins.files]
        return _another, (files, self.cache.root.resolve(), how, prints)

    def stage(
        self, stage: str, key: str, label: str, build: Callable[[Path, Path], None], *, joint: bool = False
    ) -> Path:
        """The folder of a stage's result, made by `build(out, work)` unless it is there.

        Of several processes the first makes it, while the others wait. With `joint` all of them call `build`, which
        trains by `modbridge.training.train`; `out` is then the result's in the first alone, and nothing but the first
        may write to `work`. Whether it has to be made is for the first to say.
        """
        if self.world.size == 1:
            return self._stage(stage, key, label, build)
        if not joint:
            self.world.first(lambda: self._stage(stage, key, label, build) and None)
        elif self.world.main:

            def together(out: Path, work: Path) -> None:
                self.world.say(work.name)
                build(out, work)
                self.world.barrier()  # nobody reads `work` any more

            self._stage(stage, key, label, together)
            self.world.say("")
        else:
            name: str = self.world.say()
            if name:
                with TemporaryDirectory() as scratch:
                    build(Path(scratch), self.cache.root / "work" / name)
                self.world.barrier()
                self.world.say()
        if not self.cache.has(stage, key):
            raise SetupError(
                f"process {self.world.rank} does not see {self.cache.path(stage, key)}, which another process made. "
                f"Give --cache a folder that all processes share."
            )
        return self.cache.path(stage, key)

    def _stage(self, stage: str, key: str, label: str, build: Callable[[Path, Path], None]) -> Path:
        if any(done.stage == stage and done.key == key for done in self.done):
            return self.cache.path(stage, key)
        begun, before = time.monotonic(), self._inner
        cached = self.cache.has(stage, key)
        if not cached:
            self.plugins.event("stage_started", stage=stage, key=key, label=label)
        wait = lambda: self.talk.say(f"{stage}: {label}: another process is making it; waiting")  # noqa: E731
        folder = self.cache.make(stage, key, build, wait)
        # A stage's own seconds: those of the stages that it asked for in between are theirs.
        whole = time.monotonic() - begun
        seconds = whole - (self._inner - before)
        self._inner = before + whole
        self.done.append(StageDone(stage, key, label, cached, seconds))
        self.plugins.event("stage_cached" if cached else "stage_finished", stage=stage, key=key, label=label)
        if not cached and seconds >= SAID_SECONDS:
            self.talk.say(f"{stage}: {label}, {seconds:.0f} s")
        return folder

    def remember(self, key: str, make: Callable[[], T], *, among: str | None = None, most: int = 1) -> T:
        """A value kept in memory for the length of the session; with `among`, only while it is one of the `most` of
        that name that were asked for last."""
        memory, recent = self._memory, self._recent
        if self.world.solo:
            # What all processes have stays in its place: they are to forget it at the same time.
            if key in memory:
                known: T = memory[key]
                return known
            memory, recent = self._solo_memory, self._solo_recent
        else:
            self._solo_memory.pop(key, None)  # the others do not have it: it is made as if nobody had
        if among is not None:
            order = recent.setdefault(among, [])
            order[:] = [*(other for other in order if other != key), key]
            for old in order[:-most]:
                memory.pop(old, None)
            del order[:-most]
        if key not in memory:
            memory[key] = make()
        found: T = memory[key]
        return found

    def forget(self, among: str) -> None:
        """Let go of what is remembered `among` others of a name."""
        solo = self.world.solo
        memory, recent = (self._solo_memory, self._solo_recent) if solo else (self._memory, self._recent)
        for key in recent.pop(among, []):
            memory.pop(key, None)

    def source(self, config: SourceConfig) -> Source[Any]:
        """The source of a config, opened once."""

        def open_source() -> Source[Any]:
            spec = self.plugins.registry.get("source", config.type)
            with guard("source", config.type, spec.plugin, "it was opened"):
                found: Source[Any] = spec.load_impl()(config)
                check_keys(found.keys(), f"the source {config.type!r}")
            return found

        return self.remember(f"source {stable_hash(dump(config))}", open_source)

    def fingerprint(self, config: SourceConfig) -> str:
        """The content fingerprint of a source, taken once a session."""
        return self.remember(f"print {stable_hash(dump(config))}", lambda: self.source(config).fingerprint())

    def torch_device(self, wanted: str) -> torch.device:
        """The device to work on. A GPU that is asked for by name but is not there is an error, never the CPU."""
        name = self.device if self.device != "auto" else wanted
        own = self.world.device
        if own is not None and name in ("auto", own.type):
            return own
        if own is not None and name != "cpu":
            hint = f"of several processes each has its own device, here {own}; leave it at auto, or cpu"
            raise ConfigError([Problem("--device", f"{name!r} is not for this process", hint=hint)])
        if not re.fullmatch(DEVICES, name):
            raise ConfigError([Problem("--device", f"no such device: {name!r}", hint="auto, cpu, mps, cuda or cuda:N")])
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
        if not there.get(device.type, False):
            raise SetupError(
                f"the device {name!r} is not there; found cpu only. Use device: cpu, or a machine with it."
            )
        return device

    def build(
        self, config: ComponentConfig, kind: str, context: BuildContext, *, seed: int | None = None, taught: str = ""
    ) -> Any:
        """A component. `seed`, `taught`: those of the parts that it shares with others (see `Shared`)."""
        return build_component(config, kind, self.plugins.registry, context, self._shared(context, seed, taught))

    def build_metric(
        self, config: MetricConfig, context: BuildContext, *, seed: int | None = None, taught: str = ""
    ) -> Metric[Any]:
        """A metric; `seed`, `taught`: as in `build`."""
        return build_metric(config, self.plugins.registry, context, self._shared(context, seed, taught))

    def _shared(self, context: BuildContext, seed: int | None, taught: str) -> Shared:
        return Shared(context.seed if seed is None else seed, self.remember, taught)

    def guard(self, config: ComponentConfig, kind: str, doing: str) -> AbstractContextManager[None]:
        return guard(kind, config.type, self.plugins.registry.get(kind, config.type).plugin, doing)

    def revisions(self, config: ComponentConfig, kind: str) -> list[Any]:
        """Whose a component and its nested parts are, and of which revision, for cache keys."""
        parts = sorted(config.each_part(), key=lambda part: part[0])
        nested = [self.revisions(part, of) for _, of, part in parts]
        return [*self.plugins.registry.get(kind, config.type).identity, *nested]

    def save(self, component: Component[Any], kind: str, out: Path, **content: Any) -> None:
        """Write a fitted component as an artefact."""
        if not self.world.main:
            return
        spec = self.plugins.registry.get(kind, component.config.type)
        info = next((info for info in self.plugins.infos if info.name == spec.plugin), None)
        about = {"plugin": info.distribution if info else spec.plugin, "version": info.version if info else "?"}
        save_component(component, out, {"kind": kind, "type": component.config.type, **about, **content})


def _another(files: Sequence[str], cache: Path, how: dict[str, Any], prints: dict[str, Any]) -> Session:
    """A session in a worker: it finds what the first one made, says nothing, and works where it is."""
    return Session(Plugins.discover(files), Cache(cache), Talk(quiet=True), **how, _memory=prints)


class StageFitting:
    """The surroundings of one fit inside a stage: checkpoints in its work folder, log lines beside the result. Of
    several processes that fit together all read the checkpoints, and one writes.

    `embed`: text vectors by the run's encoder. `given`: what decides the fit beside the component's own config.
    """

    def __init__(
        self,
        session: Session,
        work: Path,
        seed: int,
        label: str,
        judge: WeightsJudge | None = None,
        *,
        embed: Callable[[Sequence[str]], Embeddings],
        given: str = "",
    ) -> None:
        self.session, self.work, self.seed, self.label, self.judge = session, work, seed, label, judge
        self.embed, self.given, self.world = embed, given, session.world
        self.lines: list[dict[str, Any]] = []
        self._saved = time.monotonic()

    @contextmanager
    def progress(self, label: str, total: int, done: int = 0) -> Iterator[Progress]:
        with self.session.talk.progress(label, total, done) as progress:
            yield progress

    def _file(self, name: str) -> Path:
        return self.work / f"checkpoint-{stable_hash(name)}.safetensors"

    def restore(self, name: str) -> dict[str, Any] | None:
        if not self._file(name).is_file():
            return None
        state = load_tree(self._file(name))
        self.lines = state.pop("lines")
        self.session.talk.say(f"{self.label}: going on from step {state.get('step', '?')}")
        return state

    def checkpoint(self, name: str, state: Callable[[], dict[str, Any]], *, force: bool = False) -> None:
        if not self.world.main:
            return
        now = time.monotonic()
        if force or now - self._saved >= self.session.checkpoint_seconds:
            save_tree({**state(), "lines": self.lines}, self._file(name))
            self._saved = time.monotonic()

    def log(self, **values: float | int | str) -> None:
        self.lines.append(values)
        if "note" in values:
            self.session.talk.say(f"{self.label}: {values['note']}")
        if self.world.main:
            self.session.plugins.event("log", stage_label=self.label, values=values)

    def write_log(self, out: Path) -> None:
        """Keep the log lines with the result."""
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        (out / TRAINING_LOG).write_text(text, encoding="utf-8")

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        return self.embed(texts)

    def fit_part(self, part: Component[Any], clean: Embeddings, observed: Embeddings | None = None) -> None:
        registry = self.session.plugins.registry
        kind = next(k for k in ("prior", "bridge", "decoder") if registry.find(k, part.config.type))
        given = [tensor_hash(clean.values), None if observed is None else vectors_hash(observed)]
        fit = partial(part.fit, clean, observed=observed)  # type: ignore[attr-defined]
        self._fit_inside(part, kind, [clean.keys, given], given[0], lambda fitting: fit(fitting=fitting))

    def fit_bridge(self, bridge: Bridge[Any], data: FitData) -> None:
        given = {"text": vectors_hash(data.text)}
        if data.source is not None:
            given["source"] = vectors_hash(data.source)
        if data.pairs is not None:
            given["pairs"] = tensor_hash(data.pairs)
        ports = {name: port.to_json() for name, port in bridge.context.ports.items()}
        self._fit_inside(bridge, "bridge", [given, ports], given, lambda fitting: bridge.fit(data, fitting))

    def fit_decoder(self, decoder: Decoder[Any], vectors: TextVectors, targets: Sequence[str]) -> None:
        ports = {name: port.to_json() for name, port in decoder.context.ports.items()}
        given: dict[str, Any] = {"vectors": self.given, "hints": vectors.hints and vectors.hints.key}
        if vectors.hints is not None and decoder.config.learns_words:
            given["words"] = stable_hash(list(vectors.hints.words))
        inputs = [given, ports, vectors.embeddings.keys, list(targets)]
        fit = partial(decoder.fit, vectors, targets)
        self._fit_inside(decoder, "decoder", inputs, given, lambda fitting: fit(fitting), judge=self.judge)

    def _fit_inside(
        self,
        part: Component[Any],
        kind: str,
        inputs: list[Any],
        data: Any,
        fit: Callable[[Fitting], None],
        judge: WeightsJudge | None = None,
    ) -> None:
        """A nested component: taken from its `weights`, or else made once for the same `inputs`, a stage of its own."""
        config, session = part.config, self.session
        weights = getattr(config, "weights", None)
        if weights is not None:
            load_weights(part, weights)
            return
        shared = identities(part)
        inputs = [*inputs, shared] if shared else inputs
        key = stable_hash([config.key_fields(), session.revisions(config, kind), self.seed, *inputs])

        def build(out: Path, work: Path) -> None:
            label = f"{self.label} / {config.type}"
            fitting = StageFitting(session, work, self.seed, label, judge, embed=self.embed, given=key)
            with session.guard(config, kind, "it was fitted"):
                fit(fitting)
            fitting.write_log(out)
            session.save(part, kind, out, seed=self.seed, data=data)

        folder = session.stage(f"fit_{kind}", key, f"{self.label} / {config.type}", build, joint=True)
        load_component(part, folder)
        log = (folder / TRAINING_LOG).read_text(encoding="utf-8")
        self.lines += [json.loads(line) for line in log.splitlines()]
