"""Components that keep every promise ("good"), and for each check one that breaks it, called by the check's name. Only
the conformance tests load this file."""

from __future__ import annotations

import contextlib
import itertools
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import ConfigDict

from modbridge.config.component import Affects
from modbridge.config.kinds import (
    Augmentation,
    BridgeConfig,
    DecoderConfig,
    EncoderConfig,
    EngineConfig,
    JudgeConfig,
    MetricConfig,
    ObjectiveConfig,
    PriorConfig,
    SourceConfig,
    VocabularyConfig,
)
from modbridge.interfaces import (
    Bridge,
    BuildContext,
    Decoded,
    Decoder,
    Encoder,
    Engine,
    FitData,
    Fitting,
    Judge,
    Metric,
    Objective,
    Prior,
    Question,
    Reference,
    Score,
    Source,
    TextVectors,
    Vocabulary,
)
from modbridge.noise import Draw
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Embeddings, Port, Space
from modbridge.training import Batches, derived_seed, train

DIM = 16
COUNTED = itertools.count()  # what no component should look at


# Encoders


class GoodEncoderConfig(EncoderConfig):
    """Mean colours of images, letters of texts, through one fixed matrix each."""

    batch_size: Annotated[int, Affects("nothing")] = 4
    """Items embedded at once."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    def emits(self, modality: str) -> Port:
        return Port(space=Space(id="breaking", dim=DIM), modality=modality)


class GoodEncoder(Encoder[GoodEncoderConfig]):
    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "image":
            return torch.from_numpy(np.asarray(item, dtype=np.float32).reshape(-1)[::7].copy()) / 255
        counts = torch.zeros(128)
        for place, letter in enumerate(item):
            counts[ord(letter) % 128] += 1 + place / 10
        return counts

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        matrix = Draw.of([f"{modality}{i}" for i in range(batch.shape[1])], 0).normal(DIM)
        return torch.nn.functional.normalize(batch @ matrix, dim=1)


class DifferentInputs(GoodEncoder):
    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        return torch.ones(len(batch), DIM) / 4


class Shapes(GoodEncoder):
    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        return super().embed(batch, modality).squeeze(0)


class EncoderChangesItems(GoodEncoder):
    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "image":
            item.putpixel((0, 0), (next(COUNTED) % 255, 0, 1))
        return super().prepare(item, modality)


class EncoderTakesAnything(GoodEncoder):
    def encode(self, items: Sequence[Any], modality: str, *, keys: Sequence[str] | None = None) -> Embeddings:
        return super().encode(items, modality if modality in self.config.modalities else "text", keys=keys)


class BadPortsConfig(GoodEncoderConfig):
    """Two modalities in two spaces."""

    def emits(self, modality: str) -> Port:
        return Port(space=Space(id=modality, dim=DIM), modality=modality)


class DepthConfig(GoodEncoderConfig):
    """Lists of numbers, and texts."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("depth", "text")


class OfDepth(GoodEncoder):
    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        return torch.tensor(item) if modality == "depth" else super().prepare(item, modality)


# Bridges


class GoodBridgeConfig(BridgeConfig):
    """Moves the mean of one modality to the mean of the other, and rotates by a trained matrix."""

    steps: int = 12
    """Steps of training."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source", "pairs"})


class GoodBridge(Bridge[Any]):
    climbs = False

    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("breaking", context.seed))
            self.map = torch.nn.Linear(DIM, DIM)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"map": self.map}

    def trained(self) -> list[torch.nn.Parameter]:
        return list(self.map.parameters())

    def fit(self, data: FitData, fitting: Fitting) -> None:
        text, source = data.text.values, data.require_source(self.config.type).values
        assert data.pairs is not None
        pairs = data.pairs

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            return (self.map(source[pairs[rows]]) - text[rows]).pow(2).sum()

        train(
            "breaking",
            modules=self.modules(),
            optimiser=torch.optim.Adam(self.trained(), lr=0.02, maximize=self.climbs),
            batches=Batches(len(text), 16, fitting.seed),
            steps=self.config.steps,
            loss=loss,
            fitting=fitting,
        )

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self.map(x)


class FitsNot(GoodBridge):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        raise RuntimeError("a stranger's bug")


class ChangesTrainingData(GoodBridge):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        super().fit(data, fitting)
        data.text.values.sub_(data.text.values.mean(0))


class FitSeeded(GoodBridge):
    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        self.map = torch.nn.Linear(DIM, DIM)


class Learns(GoodBridge):
    def trained(self) -> list[torch.nn.Parameter]:
        return [self.map.bias]


class LossFalls(GoodBridge):
    climbs = True


class Resume(GoodBridge):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        class Forgetful:
            seed, judge, world = fitting.seed, None, fitting.world
            progress, log, checkpoint = fitting.progress, fitting.log, fitting.checkpoint

            def restore(self, name: str) -> None:
                return None

        super().fit(data, Forgetful())  # type: ignore[arg-type]


class RaggedConfig(GoodBridgeConfig):
    """Takes sequences of different lengths too."""

    def crosses(self, source: Port, text: Port) -> Port:
        return source.changed(bridge=self.type)

    def augments(self, text: Port) -> Port:
        return text


class ReadsEveryPlace(GoodBridge):
    """The mean of all places, whatever the mask says."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        return self.map(x - x.mean(1, keepdim=True)) if x.ndim == 3 else self.map(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        return x


class ResumesElsewhere(GoodBridge):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        resumed = fitting.restore("breaking") is not None
        super().fit(data, fitting)
        with torch.no_grad():
            self.map.bias.add_(float(resumed))


class SwallowsInterruptions(GoodBridge):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        with contextlib.suppress(Exception):
            super().fit(data, fitting)


class BatchInvariance(GoodBridge):
    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x - x.mean(0)


class OrderInvariance(GoodBridge):
    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + torch.arange(len(x))[:, None] / 10


class Seeded(GoodBridge):
    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + torch.randn(x.shape[1])


class InputsUnchanged(GoodBridge):
    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x.mul_(2.0)


class ForeignPortRefused(GoodBridge):
    def cross(self, source: Embeddings, seed: int = 0) -> Embeddings:
        return super().cross(Embeddings(source.values, self.context.ports["source"], source.keys), seed)


class GpuAgreement(GoodBridge):
    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        self.number = float(next(COUNTED))  # another one on every device

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + self.number


class AugmentationDeclared(GoodBridge):
    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + draw.normal(x.shape[1])


class TraceEndsAtCross(GoodBridge):
    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        return [("encoded", x), ("bridged", x)]


class SaveLoad(GoodBridge):
    offset = 0.0

    def fit(self, data: FitData, fitting: Fitting) -> None:
        super().fit(data, fitting)
        self.offset = float(data.text.values.mean())

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x + self.offset


class ArtefactFiles(GoodBridge):
    def save_extra(self, folder: Path) -> None:
        torch.save({}, folder / "state.pt")


class OfflineBuild(GoodBridge):
    def __init__(self, config: Any, context: BuildContext) -> None:
        super().__init__(config, context)
        with contextlib.suppress(OSError):
            socket.create_connection(("weights.example.org", 443), timeout=1)


class SilentAugmenterConfig(GoodBridgeConfig):
    """Says that it draws noise, and draws none."""

    augmentation: ClassVar[Augmentation] = "noise"


class FrozenConfig(GoodBridgeConfig):
    """A config that can be changed."""

    model_config = ConfigDict(frozen=False)


class UnknownFieldConfig(GoodBridgeConfig):
    """A config that takes anything."""

    model_config = ConfigDict(extra="ignore")


class TypeConfig(GoodBridgeConfig):
    """A config of another name."""

    type: Literal["another_name", "type_is_name"] = "another_name"


class UndocumentedConfig(GoodBridgeConfig):
    """A config that says nothing of its field."""

    mystery: float = 1.0


class BytesConfig(GoodBridgeConfig):
    """A config that JSON cannot hold."""

    salt: Any = b"salt"
    """Bytes."""

    def key_fields(self, *purposes: Any) -> dict[str, Any]:
        return {}


class KeysConfig(GoodBridgeConfig):
    """A config whose cache keys cannot be made."""

    def key_fields(self, *purposes: Any) -> dict[str, Any]:
        return {"when": object()}


class NeedsConfig(GoodBridgeConfig):
    """A config that needs what nobody has."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"images"})


# Priors


class GoodPriorConfig(PriorConfig):
    """The mean of clean vectors, towards which others are pulled."""


class GoodPrior(Prior[GoodPriorConfig]):
    def __init__(self, config: GoodPriorConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.mean = torch.zeros(DIM)

    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        self.mean = clean.values.mean(0)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"mean": self.mean}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.mean = tensors["mean"].to(self.device)

    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw) -> torch.Tensor:
        return x + (self.mean - x) * min(1.0, start_step / 10)

    def diffuse(self, x: torch.Tensor, *, step: int, draw: Draw) -> torch.Tensor:
        return x + draw.normal(x.shape[1]) * step / 10


class StepZero(GoodPrior):
    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw) -> torch.Tensor:
        return torch.nn.functional.normalize(x, dim=1) * 2


# Decoders


class GoodDecoderConfig(DecoderConfig):
    """Recites the nearest training text."""


class GoodDecoder(Decoder[GoodDecoderConfig]):
    def __init__(self, config: GoodDecoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.memory, self.texts = torch.zeros(0, DIM), list[str]()

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        self.memory, self.texts = vectors.batch(range(len(vectors)), 0), list(targets)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"memory": self.memory}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.memory = tensors["memory"].to(self.device)

    def save_extra(self, folder: Path) -> None:
        (folder / "texts.txt").write_text("\n".join(self.texts), encoding="utf-8")

    def load_extra(self, folder: Path) -> None:
        self.texts = (folder / "texts.txt").read_text(encoding="utf-8").split("\n")

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        best = (bridged @ self.memory.T).argmax(1).tolist()
        return [Decoded(key, self.texts[i]) for key, i in zip(keys, best, strict=True)]


class DecoderForgetsTexts(GoodDecoder):
    def load_extra(self, folder: Path) -> None:
        self.texts = ["?"] * 99


class DecoderCountsRows(GoodDecoder):
    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        found = super().decode_batch(bridged, source, keys, seed)
        return [Decoded(one.key, f"{row} {one.text}") for row, one in enumerate(found)]


# Vocabularies


class GoodVocabularyConfig(VocabularyConfig):
    """Three colours."""


class GoodVocabulary(Vocabulary[GoodVocabularyConfig]):
    def names(self) -> list[str]:
        return ["red", "green", "blue"]


class Names(GoodVocabulary):
    def synonyms(self) -> Mapping[str, Sequence[str]]:
        return {"crimson": ["red"]}


class OwnNameNearest(GoodVocabulary):
    def index(self, fitting: Fitting) -> None:
        super().index(fitting)
        assert self._vectors is not None
        self._vectors = self._vectors * 3


# Sources


class GoodSourceConfig(SourceConfig):
    """Four made-up items."""


class GoodSource(Source[GoodSourceConfig]):
    def keys(self) -> list[str]:
        return [f"item{row}" for row in range(4)]

    def media(self, row: int) -> Any:
        return np.full((4, 4, 3), row, dtype=np.uint8)

    def texts(self, row: int) -> tuple[str, ...]:
        return (f"the item {row}",)

    def fingerprint(self) -> str:
        return "good"


class Items(GoodSource):
    def keys(self) -> list[str]:
        return ["one", "two", "two", "three"]


class Repeatable(GoodSource):
    def media(self, row: int) -> Any:
        return np.random.default_rng().random((4, 4))


class Shards(GoodSource):
    def shard(self, index: int, count: int) -> Source[Any]:
        return self


class Travels(GoodSource):
    def __init__(self, config: GoodSourceConfig) -> None:
        super().__init__(config)
        self.opened = open(__file__, encoding="utf-8")  # noqa: SIM115

    def __del__(self) -> None:
        self.opened.close()


# Metrics


class GoodMetricConfig(MetricConfig):
    """Share of words that stand in a reference."""


class GoodMetric(Metric[MetricConfig]):
    better = True

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        found = []
        for one, truth in zip(predictions, references, strict=True):
            words = one.text.split()
            found.append(max(sum(word in text.split() for word in words) / len(words) for text in truth.texts))
        return {self.config.type: Score(sum(found) / len(found), tuple(found), self.better)}


class Scores(GoodMetric):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        return {"something_else": Score(1.0)}


class NeedsFacts(GoodMetric):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        from modbridge.errors import DataError

        if any("depth" not in truth.facts for truth in references):
            raise DataError("no depth")
        return super().score(predictions, references)


class Unfinished(Metric[MetricConfig]):
    pass


class Direction(GoodMetric):
    better = False


class MetricOfPlaces(GoodMetric):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        items = tuple(float(row) for row in range(len(predictions)))
        return {self.config.type: Score(sum(items) / len(items), items)}


class MetricOfChance(GoodMetric):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        return {self.config.type: Score(float(torch.rand(1)))}


class MetricThatSorts(GoodMetric):
    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        assert isinstance(references, list)
        references.sort(key=lambda one: -int(one.key))
        return {self.config.type: Score(1.0)}


class ColumnsConfig(MetricConfig):
    """A column that no table heading should be."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("BLEU 4",)


# Engines


class GoodEngineConfig(EngineConfig):
    """Does tasks from the last to the first, two at a time."""

    width: int = 2
    """How many at a time."""


class GoodEngine(Engine[GoodEngineConfig]):
    def map(self, opened: Any, about: tuple[Any, ...], tasks: Sequence[Any]) -> Any:
        work = opened(*about)
        for at in reversed(range(0, len(tasks), self.config.width)):
            yield from enumerate(work(tasks[at : at + self.config.width]), at)


class ForgetsTheLast(GoodEngine):
    def map(self, opened: Any, about: tuple[Any, ...], tasks: Sequence[Any]) -> Any:
        return super().map(opened, about, tasks[:-1])


class MixesNumbers(GoodEngine):
    def map(self, opened: Any, about: tuple[Any, ...], tasks: Sequence[Any]) -> Any:
        found = list(super().map(opened, about, tasks))
        return [(len(tasks) - 1 - number, result) for number, result in found]


class RenamesErrors(GoodEngine):
    def map(self, opened: Any, about: tuple[Any, ...], tasks: Sequence[Any]) -> Any:
        try:
            yield from super().map(opened, about, tasks)
        except Exception as error:
            raise RuntimeError(str(error)) from error


class SwallowsErrors(GoodEngine):
    def map(self, opened: Any, about: tuple[Any, ...], tasks: Sequence[Any]) -> Any:
        with contextlib.suppress(Exception):
            yield from super().map(opened, about, tasks)


# Objectives


class GoodObjectiveConfig(ObjectiveConfig):
    """A frozen matrix that reads brightness in embeddings."""


class GoodObjective(Objective[GoodObjectiveConfig]):
    def __init__(self, config: GoodObjectiveConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.read = torch.nn.Linear(DIM, 3, device=context.device)
        with torch.no_grad():
            self.read.weight.copy_(Draw.of(["read"], 0).normal(3 * DIM).view(3, DIM))
            self.read.bias.zero_()

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"read": self.read}

    def prepare(self, item: Any) -> torch.Tensor:
        return torch.from_numpy(np.asarray(item, dtype=np.float32).mean((0, 1)) / 255)

    def loss(self, z: torch.Tensor, batch: torch.Tensor, draw: Draw) -> torch.Tensor:
        found = self.read(z) + 0.1 * draw.normal(3).to(z)
        return (found - batch.to(z)).square().mean(dim=1)


class NoGradients(GoodObjective):
    def loss(self, z: torch.Tensor, batch: torch.Tensor, draw: Draw) -> torch.Tensor:
        with torch.no_grad():
            return super().loss(z, batch, draw)


class OneLossForAll(GoodObjective):
    def loss(self, z: torch.Tensor, batch: torch.Tensor, draw: Draw) -> torch.Tensor:
        return super().loss(z, batch, draw).mean()


class AsksForGradients(GoodObjective):
    def freeze(self) -> None:
        pass


# Judges


class GoodJudgeConfig(JudgeConfig):
    """Tells the longest word of a question."""


class GoodJudge(Judge[GoodJudgeConfig]):
    def answer(self, questions: Sequence[Question]) -> list[str]:
        return [max(question.text.split(), key=len) for question in questions]


class JudgeOfFew(GoodJudge):
    def answer(self, questions: Sequence[Question]) -> list[str]:
        return super().answer(questions)[:2]


class JudgeOfNeighbours(GoodJudge):
    def answer(self, questions: Sequence[Question]) -> list[str]:
        return [f"{one} of {len(questions)}" for one in super().answer(questions)]


def downloads(at: Path) -> dict[str, Any]:
    """An example that needs a network, and does not say so when there is none."""
    with contextlib.suppress(OSError):
        socket.create_connection(("weights.example.org", 443), timeout=1)
    return {}


KINDS: dict[str, tuple[type, type]] = {
    "encoder": (GoodEncoderConfig, GoodEncoder),
    "prior": (GoodPriorConfig, GoodPrior),
    "bridge": (GoodBridgeConfig, GoodBridge),
    "decoder": (GoodDecoderConfig, GoodDecoder),
    "source": (GoodSourceConfig, GoodSource),
    "vocabulary": (GoodVocabularyConfig, GoodVocabulary),
    "metric": (GoodMetricConfig, GoodMetric),
    "engine": (GoodEngineConfig, GoodEngine),
    "objective": (GoodObjectiveConfig, GoodObjective),
    "judge": (GoodJudgeConfig, GoodJudge),
}

# (kind, name, the check that it breaks, its config or implementation, words of what was found)
BROKEN: tuple[tuple[str, str, str, type | None, str], ...] = (
    ("metric", "wrong_class", "announced", GoodBridge, "expected a subclass of modbridge.interfaces.metric.Metric"),
    ("metric", "unfinished", "announced", Unfinished, "does not define score"),
    ("bridge", "frozen", "frozen", FrozenConfig, "can be changed"),
    ("bridge", "unknown_field_refused", "unknown_field_refused", UnknownFieldConfig, "unknown fields"),
    ("bridge", "type_is_name", "type_is_name", TypeConfig, "'another_name' by default"),
    ("bridge", "fields_documented", "fields_documented", UndocumentedConfig, "no description of mystery"),
    ("bridge", "round_trip", "round_trip", BytesConfig, "cannot be written as JSON"),
    ("bridge", "unkeyed", "round_trip", KeysConfig, "no plain value"),
    ("bridge", "ports_without_weights", "ports_without_weights", NeedsConfig, "`needs` names images"),
    ("encoder", "two_spaces", "ports_without_weights", BadPortsConfig, "several spaces"),
    ("bridge", "offline_build", "offline_build", OfflineBuild, "asked for weights.example.org"),
    ("bridge", "fits", "fits", FitsNot, "a stranger's bug"),
    ("bridge", "changes_training_data", "fits", ChangesTrainingData, "changed the data"),
    ("bridge", "fit_seeded", "fit_seeded", FitSeeded, "fitted twice with one seed"),
    ("bridge", "learns", "learns", Learns, "1 of 2 trainable tensors never changed while it was fitted: map.weight"),
    ("bridge", "loss_falls", "loss_falls", LossFalls, "the loss was"),
    ("bridge", "resume", "resume", Resume, "begins anew"),
    ("bridge", "resumes_elsewhere", "resume", ResumesElsewhere, "ends elsewhere: map.bias"),
    ("bridge", "swallows_interruptions", "resume", SwallowsInterruptions, "went on though"),
    ("encoder", "shapes", "shapes", Shapes, "image of 1 items"),
    ("bridge", "batch_invariance", "batch_invariance", BatchInvariance, "cross: 16 items at once"),
    ("bridge", "order_invariance", "order_invariance", OrderInvariance, "in another order"),
    ("decoder", "counts_rows", "order_invariance", DecoderCountsRows, "in another order"),
    ("bridge", "seeded", "seeded", Seeded, "two results"),
    ("bridge", "inputs_unchanged", "inputs_unchanged", InputsUnchanged, "cross changed"),
    ("encoder", "changes_items", "inputs_unchanged", EncoderChangesItems, "image changed"),
    ("bridge", "foreign_port_refused", "foreign_port_refused", ForeignPortRefused, "it took vectors of another"),
    ("encoder", "takes_anything", "foreign_port_refused", EncoderTakesAnything, "it took items of an unknown"),
    ("encoder", "different_inputs", "different_inputs", DifferentInputs, "image items have the same vector"),
    ("bridge", "gpu_agreement", "gpu_agreement", GpuAgreement, "cross: the GPU gives something else"),
    ("bridge", "masked_places", "masked_places", ReadsEveryPlace, "cross: what stands behind a sequence's end"),
    ("bridge", "augmentation_declared", "augmentation_declared", AugmentationDeclared, "otherwise with every seed"),
    ("bridge", "silent", "augmentation_declared", SilentAugmenterConfig, "alike with every seed"),
    ("bridge", "trace_ends_at_cross", "trace_ends_at_cross", TraceEndsAtCross, "not where cross ends"),
    ("bridge", "save_load", "save_load", SaveLoad, "its cross gives something else"),
    ("decoder", "forgets_texts", "save_load", DecoderForgetsTexts, "its decode gives something else"),
    ("bridge", "artefact_files", "artefact_files", ArtefactFiles, "state.pt"),
    ("prior", "step_zero", "step_zero", StepZero, "refine(start_step=0) changes vectors"),
    ("vocabulary", "of_strangers", "names", Names, "synonyms() speaks of 'crimson'"),
    ("vocabulary", "own_name_nearest", "own_name_nearest", OwnNameNearest, "not of length 1"),
    ("source", "items", "items", Items, "two items have the key 'two'"),
    ("source", "repeatable", "repeatable", Repeatable, "other media"),
    ("source", "shards", "shards", Shards, "2 shards hold 8 items, the source 4"),
    ("source", "travels", "travels", Travels, "cannot be sent to a worker"),
    ("metric", "columns", "columns", ColumnsConfig, "'BLEU 4'"),
    ("metric", "scores", "scores", Scores, "['something_else']"),
    ("metric", "needs_facts", "scores", NeedsFacts, "no depth"),
    ("metric", "direction", "direction", Direction, "higher_is_better=False"),
    ("metric", "of_places", "order_invariance", MetricOfPlaces, "do not follow the items"),
    ("metric", "of_chance", "seeded", MetricOfChance, "otherwise the second time"),
    ("metric", "that_sorts", "inputs_unchanged", MetricThatSorts, "score changed the predictions"),
    (
        "engine",
        "every_task_once",
        "every_task_once",
        ForgetsTheLast,
        "it gave results of [0, 1, 2, 3, 4, 5]",
    ),
    ("engine", "mixes_numbers", "every_task_once", MixesNumbers, "the result of task 0 is {'task': 6"),
    ("engine", "errors_arrive", "errors_arrive", RenamesErrors, "of a DataError in a worker came RuntimeError"),
    ("objective", "gradients_pass", "gradients_pass", NoGradients, "its loss has no gradient"),
    ("objective", "asks_for_gradients", "gradients_pass", AsksForGradients, "its own parameters ask for gradients"),
    ("objective", "one_loss_for_all", "shapes", OneLossForAll, "loss gave a tensor () for 1 items"),
    ("judge", "of_few", "shapes", JudgeOfFew, "gave 2 answers to 3 questions"),
    ("judge", "of_neighbours", "batch_invariance", JudgeOfNeighbours, "ask: 16 items at once"),
    ("engine", "swallows_errors", "errors_arrive", SwallowsErrors, "a DataError in a worker did not arrive"),
)


@hookimpl
def modbridge_components(register: Any) -> None:
    def announce(kind: str, name: str, config: type, impl: type, summary: str = "of the conformance tests") -> None:
        register(
            ComponentSpec(
                kind=kind,
                name=name,
                config=f"{__name__}:{config.__name__}",
                impl=f"{__name__}:{impl.__name__}",
                summary=summary,
                example={"type": name},
            )
        )

    for kind, (config, impl) in KINDS.items():
        announce(kind, "good", config, impl)
    for kind, name, _, broken, _ in BROKEN:
        config, impl = KINDS[kind]
        assert broken is not None
        if broken.__name__.endswith("Config"):
            config = broken
        else:
            impl = broken
        if broken is ReadsEveryPlace:
            config = RaggedConfig
        announce(kind, name, config, impl)
    announce("encoder", "of_depth", DepthConfig, OfDepth)
    announce("bridge", "announced", GoodBridgeConfig, GoodBridge, summary="")
