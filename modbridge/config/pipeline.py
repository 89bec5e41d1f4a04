"""The config of a whole pipeline, and how a tree read from YAML becomes one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeGuard, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from modbridge.config.blocks import check_block, check_model, check_parts
from modbridge.config.component import ComponentConfig, Part, lists_parts
from modbridge.config.grid import LOADER_FIELDS
from modbridge.config.kinds import (
    BridgeConfig,
    DecoderConfig,
    EncoderConfig,
    MetricConfig,
    SourceConfig,
)
from modbridge.config.reported import ReportedConfig
from modbridge.config.selection import metric_column
from modbridge.config.tuning import TuneConfig
from modbridge.errors import ConfigError, Problem
from modbridge.gap_tables import COLUMNS as GAP_COLUMNS
from modbridge.plugins.registry import Registry
from modbridge.tables import MEASURED

DEVICES = r"auto|cpu|mps|cuda(:\d+)?"
# What weights can be selected by, beside metrics.
LAST, TEXT_LOSS = "last", "text_loss"


DecoderName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


def _none_as_empty(value: Any) -> Any:
    """A block can only be taken away by null: an empty one, laid over another, changes nothing of it."""
    return {} if value is None else value


def _none_as_no_items(value: Any) -> Any:
    return [] if value is None else value


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Section):
    """Where items come from."""

    train: Annotated[SourceConfig, Part("source")]
    """Texts to learn from; its media give the source statistics (and pairs, to bridges that need them)."""
    unpaired: Annotated[SourceConfig | None, Part("source")] = None
    """Media to take source vectors from in place of those of `train`, where nothing pairs them with its texts. Bridges
    that need pairs are refused."""
    test: Annotated[SourceConfig | None, Part("source")] = None
    """Held-out items to caption and to measure on. May be left out when `gap.fit` splits the training source."""
    pairs: Annotated[int, Field(ge=1)] | None = None
    """Only so many items of `train`, drawn by the run's seed (the first of a larger draw are those of a smaller one),
    are known as pairs to bridges that need pairs and to `decoder_input: source`; the texts and media of the others
    serve unpaired. null: all."""
    encoder: Annotated[SourceConfig | None, Part("source")] = None
    """What an encoder is trained on that the run trains itself, which then knows more (or other things) than captioner
    and bridge learn from, as a CLIP does; null: `train`."""
    validation: Annotated[SourceConfig | None, Part("source")] = None
    """Items of the training domain, apart from both, by which `select` chooses the decoder's weights."""

    @property
    def pretraining(self) -> SourceConfig:
        """What an encoder is trained on that the run trains itself."""
        return self.encoder or self.train


class SelectConfig(_Section):
    """Which weights of the decoder's training are kept."""

    by: str | None = None
    """"text_loss": those with the best loss on validation captions, of which no medium is seen (but under
    `decoder_input: source`, where it is the loss given their media). "last": those after the
    last step. A metric or one of its columns ("meteor", "bleu_4"): those that caption validation media best, as the
    authors of Diffusion Bridge choose; that takes pairs, and every table row says so. null: "text_loss" where
    `data.validation` is given, else "last"."""
    every: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Epochs between two judgements; the last step is judged too."""
    items: Annotated[int, Field(ge=1)] | None = 1000
    """How many validation items, drawn by the seed, are looked at (the authors' 1,000); null: all."""


class EvaluateConfig(_Section):
    """What the test items are decoded from, and what they are scored against."""

    input: Literal["source", "text"] = "source"
    """"source": the bridged vectors of the media. "text": the vector of one true caption, the oracle; as the bridge's
    `augment` gives it where a decoder is trained on what the bridge makes of media, in a space without texts."""
    caption: Annotated[int, Field(ge=0)] = 0
    """Which caption of an item is its pair in the gap measures, and the oracle's input."""
    references: Literal["all", "others"] = "all"
    """Score against all captions, or only against those that are not `caption`, so that the oracle is judged fairly."""


def _different(seeds: list[int]) -> list[int]:
    if len(set(seeds)) < len(seeds):
        raise ValueError("a seed stands there twice: its split would count twice, and the deviation would be too small")
    return seeds


def _once(sweep: dict[str, list[Any]]) -> dict[str, list[Any]]:
    for name, values in sweep.items():
        if len({str(value) for value in values}) < len(values):
            raise ValueError(f"{name} takes a value twice; give each value once")
    return sweep


class GapConfig(_Section):
    """What `modbridge gap` compares."""

    bridges: Annotated[list[BridgeConfig], Part("bridge")] = []
    """The bridges to measure, one row each; empty: the pipeline's own, after a row without a bridge."""
    sweep: Annotated[
        dict[str, Annotated[list[int | float | str | bool], Field(min_length=1)]], AfterValidator(_once)
    ] = {}
    """Fields of the bridges and the values they take, `start_step: [0, 200, 400]`: one row for each value, from one
    fit where the field changes only the crossing. A dot leads into a part, `prior.steps`, `bridges.0.noise_std`."""
    fit: Annotated[int | None, Field(ge=2)] = None
    """Fit on this many items of the training source and test on its others; null: fit on train, test on test."""
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] = [0]
    """One split (numpy.random.default_rng(seed).permutation) for each seed; the table gives mean and deviation."""
    similarity: bool = False
    """Add the cosines of paired and unpaired texts, noisy texts, source vectors and bridged ones (table 1 of Diffusion
    Bridge), and those behind the decoder's mapper, where there is a decoder to be fitted."""
    cost: bool = False
    """Add each bridge's parameters, multiply-adds and time. Times differ from call to call and are never kept."""


class CompareConfig(_Section):
    """How `modbridge compare` judges."""

    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_different)] | None = None
    """Every row is made once for each seed; where `gap.fit` splits the training source, the seeds are the splits. null:
    `gap.seeds` for splits, else the pipeline's own `seed`."""
    baseline: str | None = None
    """The row that the others are tested against. null: the first row without a bridge, else the first row."""
    rank_by: str | None = None
    """The measure that rows are ranked by. null: CIDEr where captions are scored by it, else the first column of the
    first metric; "harmonic_mean" (of the centred cosine and the centred R@1) without captions."""
    level: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """Coverage of the intervals; differences count as significant where the corrected p is below 1 - level."""
    resamples: Annotated[int, Field(ge=200)] = 10000
    """Draws of the bootstrap over items and seeds."""
    cost: bool = True
    """Add what each bridge costs: parameters, multiply-adds, items a second, peak memory. Timed anew at every call."""


class PipelineConfig(_Section):
    """A pipeline: Encoder -> Bridge -> Decoder, the data it learns from and how it is judged."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9_.-]*$")] = "run"
    """Names the run's folder."""
    paths: dict[str, str | None] = {}
    """Folders that the rest refers to as ${paths.name}; one without value is to be given with --set."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Decides every random number of the run."""
    device: Annotated[str, Field(pattern=f"^({DEVICES})$")] = "auto"
    """"auto" takes a GPU where there is one. Does not enter cache keys."""
    data: DataConfig
    """Where items come from."""
    encoder: Annotated[EncoderConfig, Part("encoder")]
    """Puts items of several modalities into one space."""
    bridge: Annotated[BridgeConfig, Part("bridge")]
    """Carries source vectors across the gap. A list, [mean_shift, capdec], is a chain of bridges."""
    augment: Annotated[BridgeConfig | None, Part("bridge")] = None
    """The bridge whose `augment` prepares the decoder's training vectors, or a list of bridges, one after another;
    null: `bridge` itself."""
    augment_draws: Annotated[int, Field(ge=1)] | Literal["fresh"] = "fresh"
    """How many different noise draws a caption gets: "fresh" every epoch, or 1 as the authors of Diffusion Bridge."""
    decoder: Annotated[DecoderConfig | None, Part("decoder")] = None
    """Reads vectors out as text. May be left out for gap measurements."""
    decoders: Annotated[dict[DecoderName, DecoderConfig], Part("decoder"), BeforeValidator(_none_as_empty)] = {}
    """More decoders of the same bridged vectors, by name: `{image: {type: ...}}`. Each is fitted and decodes the test
    items; `decoder`, whose name is "text", is the one that is scored. One that makes images learns from media. null
    takes away those of a parent config."""
    decoder_input: Literal["text", "source"] = "text"
    """What the decoder is trained on. "text": vectors of the training captions, as the augmenter gives them; no medium
    is seen (zero-shot captioning). "source": vectors of the training media, carried across by `bridge`, with their
    captions (fully supervised captioning; takes pairs, and no `augment`)."""
    select: SelectConfig = SelectConfig()
    """Which weights of the decoder's training are kept."""
    tune: Annotated[list[TuneConfig], BeforeValidator(_none_as_no_items)] = []
    """Encoder, bridge and decoder trained together on the media of `data.train` with their captions, step after step,
    each saying what trains in it; after the decoder was fitted, and from there. What `decoders` read stays as it was
    before. null takes away those of a parent config."""
    metrics: Annotated[list[MetricConfig], Part("metric")] = []
    """Judges of the captions, and of the images that decoders of `decoders` make: their columns stand behind the
    decoder's name (`image_fid`)."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """What the test items are decoded from, and what they are scored against."""
    gap: GapConfig = GapConfig()
    """What `modbridge gap` compares."""
    compare: CompareConfig = CompareConfig()
    """How `modbridge compare` judges."""
    reported: ReportedConfig | None = None
    """What a paper reports, shown beside what is measured."""
    main: str | None = None
    """The variant that `modbridge caption` and `modbridge.load` use when none is named."""

    @property
    def augmenter(self) -> BridgeConfig:
        """The bridge that prepares decoder training."""
        return self.augment or self.bridge

    def with_decoder(self, name: str) -> PipelineConfig:
        """This pipeline with one of `decoders` in the place of `decoder`."""
        decoder = self.decoders[name]
        changes: dict[str, Any] = {"decoder": decoder, "decoders": {}, "tune": []}
        if decoder.makes != "text":  # captions neither teach nor judge it
            changes |= {"decoder_input": "source", "augment": None, "select": SelectConfig(by=LAST)}
        return self.model_copy(update=changes)

    @property
    def image_decoders(self) -> tuple[str, ...]:
        """The names of those of `decoders` that make images."""
        return tuple(name for name, decoder in self.decoders.items() if decoder.makes == "image")

    def columns_of(self, metric: MetricConfig) -> tuple[str, ...]:
        """The columns that a metric fills in a row: its own, or, where it judges images, those of each decoder that
        makes images, behind its name."""
        if metric.judges == "text":
            return metric.columns
        return tuple(f"{name}_{column}" for name in self.image_decoders for column in metric.columns)

    @property
    def scored(self) -> tuple[str, ...]:
        """Every column that its metrics fill in a row."""
        return tuple(column for metric in self.metrics for column in self.columns_of(metric))

    def tunes(self, part: str) -> bool:
        """Whether `tune` trains anything of "encoder", "bridge" or "decoder"."""
        return any(step.trains(part) for step in self.tune)

    @property
    def pretraining_seed(self) -> int:
        """What decides the random numbers of what is trained on `data.pretraining`: the encoder, and objectives."""
        own = self.encoder.fit_seed
        return self.seed if own is None else own

    @property
    def selected_by(self) -> str:
        """What the decoder's weights are chosen by: "last", "text_loss", or a metric. Weights that are given are not
        chosen again."""
        if self.decoder is not None and self.decoder.given:
            return LAST
        return self.select.by or (LAST if self.data.validation is None else TEXT_LOSS)

    @property
    def selects_with_pairs(self) -> bool:
        """Whether choosing the decoder's weights takes a metric on media with their captions."""
        return self.selected_by not in (LAST, TEXT_LOSS)

    @property
    def selects_on_media(self) -> bool:
        """Whether choosing the decoder's weights takes media with their captions, by a metric or by the loss."""
        return self.selects_with_pairs or (self.supervised and self.selected_by == TEXT_LOSS)

    @property
    def supervised(self) -> bool:
        """Whether the decoder is trained on media."""
        return self.decoder is not None and self.decoder_input == "source"

    @property
    def captions(self) -> bool:
        """Whether the decoder writes text, and hence takes captions to learn from."""
        return self.decoder is not None and self.decoder.makes == "text"


def check_pipeline(tree: Mapping[str, Any], registry: Registry, problems: list[Problem]) -> PipelineConfig | None:
    """A pipeline of a plain tree. Every mistake is added to `problems`; None if there was one."""
    before = len(problems)
    values = {name: value for name, value in tree.items() if name not in LOADER_FIELDS}
    config: PipelineConfig | None = _check_section(PipelineConfig, values, "", registry, problems)
    if config is not None and config.reported is not None:
        problems += config.reported.problems(MEASURED | GAP_COLUMNS | set(config.scored))
    if config is not None:
        problems += _misplaced_decoders(config) + _misplaced_metrics(config) + _untrained(config)
    if config is not None and config.selects_with_pairs:
        try:
            metric_column(config.selected_by, config.metrics, registry)
        except ConfigError as error:
            problems += error.problems
    return config if len(problems) == before else None


def _misplaced_decoders(config: PipelineConfig) -> list[Problem]:
    """Decoders under a name that is not theirs."""
    found = []
    if config.decoder is not None and not config.captions:
        message = f"{config.decoder.type!r} makes no text, and `decoder` is the one whose captions are scored"
        hint = f"write it as `decoders: {{{config.decoder.makes}: {{type: {config.decoder.type}}}}}`"
        found.append(Problem("decoder", message, hint=hint))
    if "text" in config.decoders:
        found.append(Problem("decoders.text", "is the name of `decoder` itself", hint="give it another name"))
    return found


def _misplaced_metrics(config: PipelineConfig) -> list[Problem]:
    """Metrics of images where nothing makes any, and columns that two metrics would fill."""
    found, taken = [], dict[str, int]()
    for number, metric in enumerate(config.metrics):
        if metric.judges == "image" and not config.image_decoders:
            message = f"{metric.type!r} judges images, and none of `decoders` makes any"
            hint = "add one, such as `decoders: {image: {type: diffusion_painter}}`, or leave the metric out"
            found.append(Problem(f"metrics.{number}", message, hint=hint))
        for column in config.columns_of(metric):
            other = config.metrics[taken.setdefault(column, number)]
            if other is not metric and (other != metric or metric.judges == "image"):
                message = f"{metric.type!r} fills the column {column!r}, which metrics.{taken[column]} fills too"
                named = ", or give it a `column` of its own" if "column" in type(metric).model_fields else ""
                found.append(Problem(f"metrics.{number}", message, hint=f"leave one of the two out{named}"))
                break
    return found


def _untrained(config: PipelineConfig) -> list[Problem]:
    """Decoders that nothing trains."""
    names = [("decoder", config.decoder)] if not config.tune else []
    named = [*names, *((f"decoders.{name}", decoder) for name, decoder in config.decoders.items())]
    message = "takes no step of its own, and no `tune` trains it"
    hint = "give it steps, or a `tune`, which trains `decoder`"
    return [Problem(path, message, hint=hint) for path, one in named if one is not None and one.left_to_tuning]


def _check_section(
    cls: type[BaseModel], values: Mapping[str, Any], path: str, registry: Registry, problems: list[Problem]
) -> Any:
    dotted = f"{path}." if path else ""
    checked, broken = dict(values), set()
    for name, field in cls.model_fields.items():
        value = values.get(name)
        kind = next((mark.kind for mark in field.metadata if isinstance(mark, Part)), None)
        if value is None:
            continue
        if kind:
            listed = lists_parts(field)
            if get_origin(field.annotation) is dict:
                checked[name] = _check_named(kind, value, f"{dotted}{name}", registry, problems)
            else:
                checked[name] = check_parts(kind, value, registry, f"{dotted}{name}", problems, listed=listed)
            if checked[name] is None:
                broken.add(name)
        elif _is_section(field.annotation) and isinstance(value, Mapping):
            checked[name] = _check_section(field.annotation, value, f"{dotted}{name}", registry, problems)
            if checked[name] is None:
                broken.add(name)
    found: list[Problem] = []
    model = check_model(cls, {k: v for k, v in checked.items() if k not in broken}, path, found)
    problems += [p for p in found if p.path.removeprefix(dotted) not in broken]
    return None if broken else model


def _check_named(
    kind: str, value: Any, path: str, registry: Registry, problems: list[Problem]
) -> dict[str, ComponentConfig] | None:
    """A block of NAME: component; None if one is unusable."""
    if not isinstance(value, Mapping):
        problems.append(Problem(path, f"expected a block of NAME: {kind}, found {value!r}"))
        return None
    # A profile or a variant may take one away by null.
    given = {str(name): block for name, block in value.items() if block is not None}
    found = {name: check_block(kind, block, registry, f"{path}.{name}", problems) for name, block in given.items()}
    whole = {name: config for name, config in found.items() if config is not None}
    return whole if len(whole) == len(found) else None


def _is_section(annotation: Any) -> TypeGuard[type[_Section]]:
    return isinstance(annotation, type) and issubclass(annotation, _Section)


def dump(value: Any) -> Any:
    """A config as plain JSON values, with every default filled in and the fields of the actual components."""
    if isinstance(value, BaseModel):
        return {name: dump(getattr(value, name)) for name in type(value).model_fields}
    if isinstance(value, Mapping):
        return {str(key): dump(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [dump(item) for item in value]
    return value
