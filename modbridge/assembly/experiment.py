"""From a config file to its cells: one checked pipeline for each variant and each point of the varied axes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from modbridge.assembly.plan import Plan, make_plan
from modbridge.config.document import Document, Reading, read_config
from modbridge.config.grid import LOADER_FIELDS
from modbridge.config.interpolation import leaves
from modbridge.config.overrides import expand, parse_vary
from modbridge.config.pipeline import PipelineConfig, check_pipeline
from modbridge.config.reading import read_value
from modbridge.errors import ConfigError, ModbridgeError, Problem, SetupError
from modbridge.plugins.registry import Registry
from modbridge.tables import without


@dataclass(frozen=True)
class Cell:
    """One pipeline of an experiment. `label` names it in tables: the variant and the varied values."""

    label: str
    config: PipelineConfig
    plan: Plan
    document: Document
    varied: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def untuned(self) -> Cell:
        """This cell without joint training: what that starts from."""
        return replace(self, config=self.config.model_copy(update={"tune": []})) if self.config.tune else self

    @cached_property
    def others(self) -> dict[str, Cell]:
        """This cell with each of its further decoders in the place of the one whose captions are scored, by name. They
        are not tuned."""
        configs = {name: self.config.with_decoder(name) for name in self.config.decoders}
        return {
            name: replace(self, label=f"{self.label} / {name}", config=config, plan=make_plan(config))
            for name, config in configs.items()
        }


@dataclass(frozen=True)
class Misfit:
    """A cell whose parts are right by themselves but do not fit together, and why."""

    label: str
    problems: list[Problem]
    config: PipelineConfig
    varied: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A config file, read and checked. `to_be_given`: declared paths without value that a cell refers to. `misfits`:
    cells left out because their parts do not fit together, where that was allowed."""

    path: Path
    cells: list[Cell]
    to_be_given: list[str]
    misfits: list[Misfit] = field(default_factory=list)

    @property
    def first(self) -> Cell:
        return self.cells[0]

    def require_paths(self) -> None:
        """Raise ConfigError if a declared path has no value yet."""
        if self.to_be_given:
            raise ConfigError(
                [
                    Problem(name, "is to be given", where=str(self.path), hint=f"add --set {name}=DIR")
                    for name in self.to_be_given
                ]
            )


def load_experiment(
    path: str | Path,
    registry: Registry,
    *,
    sets: Sequence[str] = (),
    vary: Sequence[str] = (),
    profile: str | None = None,
    allow_misfits: bool = False,
) -> Experiment:
    """Read, merge and check a config with everything that it asks for, before any weight loads.

    `allow_misfits`: leave out cells whose parts do not fit together, as long as others are left; a matrix has some.
    Raises ConfigError with every mistake, each with its file and line.
    """
    path = Path(path)
    problems: list[Problem] = []
    reading = read_config(path, sets=sets, profile=profile)
    base = _read(reading, None, problems)
    variants = base.tree.get("variants") or {None: {}}
    if not isinstance(variants, dict):
        raise ConfigError([Problem("variants", "expected a block of NAME: overrides", where=base.where("variants"))])
    points = expand(parse_vary(vary)) if vary else [("", [])]
    cells: list[Cell] = []
    misfits: list[Misfit] = []
    to_be_given: dict[str, None] = {}
    for variant in variants:
        for label, point in points:
            document = _read(reading, variant, problems, point)
            if "name" not in document.tree:
                document.tree["name"] = re.sub(r"[^A-Za-z0-9_.-]+", "-", path.stem).lstrip(".") or "run"
            name = "/".join(filter(None, (variant, label))) or document.tree["name"]
            to_be_given |= dict.fromkeys(_referred_to(document))
            varied = {at: _typed(text) for at, text in (item.split("=", 1) for item in point)}
            found: list[Problem] = []
            config = check_pipeline(document.tree, registry, found)
            plan = _plan(config, found) if config is not None else None
            found = [replace(p, where=p.where or document.where(p.path)) for p in found]
            if config is not None and plan is not None:
                cells.append(Cell(name, config, plan, document, varied))
            elif config is not None:
                misfits.append(Misfit(name, found, config, varied))
            else:
                problems += _untold(found, problems)
    if not (allow_misfits and cells):
        for misfit in misfits:
            problems += _untold(misfit.problems, problems)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    main = cells[0].config.main
    if main is not None and main not in [cell.label for cell in cells] and main not in variants:
        labels = ", ".join(cell.label for cell in cells)
        raise ConfigError([Problem("main", f"names no variant: {main!r}", where=base.where("main"), hint=labels)])
    return Experiment(path, cells, list(to_be_given), misfits)


def row_name(cell: Cell | Misfit) -> str:
    """What the row of a comparison is called: the cell's label without its seed."""
    return without(cell.label, "seed", cell.config.seed) or cell.config.name


def _typed(text: str) -> Any:
    """A varied value as a table holds it: numbers and words as they are, anything longer as it was written."""
    value = read_value(text, "--vary", [])
    return value if isinstance(value, str | int | float | bool) else text


def _read(reading: Reading, variant: str | None, problems: list[Problem], point: Sequence[str] = ()) -> Document:
    """A document. Its mistakes are added to `problems`, and checking goes on with what could be read."""
    try:
        return reading.document(variant, point)
    except ConfigError as error:
        if not isinstance(error.partial, Document):
            raise
        problems += error.problems
        return error.partial


def _referred_to(document: Document) -> list[str]:
    """The paths without value that the pipeline refers to; a profile may do without some. References to them still
    stand in the tree."""
    settings = {name: block for name, block in document.tree.items() if name not in (*LOADER_FIELDS, "paths")}
    texts = [value for _, value in leaves(settings) if isinstance(value, str) and "${" in value]
    names = {match.strip() for text in texts for match in re.findall(r"\$\{([^{}]*)\}", text)}
    return [name for name in document.to_be_given if name in names]


def _untold(found: Sequence[Problem], told: Sequence[Problem]) -> list[Problem]:
    """The problems of places of which none is told yet: the same mistake stands in every cell."""
    paths = {problem.path for problem in told if problem.path}
    return [problem for problem in found if problem.path not in paths]


def _plan(config: PipelineConfig, problems: list[Problem]) -> Plan | None:
    """The plan of a checked pipeline; where its parts do not fit together, None and the reasons."""
    try:
        return make_plan(config)
    except ConfigError as error:
        problems += error.problems
    except SetupError:  # no mistake of the config's
        raise
    except ModbridgeError as error:
        problems.append(Problem("", str(error)))
    return None
