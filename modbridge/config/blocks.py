"""One block of a config: its word `type` is looked up first, then that component's config class validates it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from pydantic import ValidationError

from modbridge.config.component import ComponentConfig, lists_parts
from modbridge.config.kinds import FittedConfig
from modbridge.config.stored import upgraded_block
from modbridge.config.weights import CHAINED, chained, disagreements, kept_config, laid_over
from modbridge.errors import ConfigError, ModbridgeError, Problem
from modbridge.plugins.registry import Registry


def validate_block(kind: str, block: Any, registry: Registry, path: str = "") -> ComponentConfig:
    """The checked config of one component.

    Raises ConfigError with every problem of the block and of the components nested in it; paths are dotted, from
    `path` on.
    """
    problems: list[Problem] = []
    config = check_block(kind, block, registry, path, problems)
    if config is None or problems:
        raise ConfigError(problems)
    return config


def check_block(
    kind: str, block: Any, registry: Registry, path: str, problems: list[Problem]
) -> ComponentConfig | None:
    """As `validate_block`, but adds to `problems` and goes on; None if the block is unusable."""
    dotted = f"{path}." if path else ""
    if isinstance(block, list) and kind == "bridge":
        return _check_listed(block, registry, path, problems)
    if isinstance(block, str):
        block = {"type": block}
    if not isinstance(block, Mapping):
        problems.append(Problem(path, f"expected a block with `type: NAME`, found {block!r}"))
        return None
    word = block.get("type")
    if not isinstance(word, str):
        hint = f"installed: {', '.join(registry.names(kind)) or 'none'}"
        found = "no type" if word is None else f"the type {word!r}"
        problems.append(Problem(f"{dotted}type", f"found {found}, expected the name of a {kind}", hint=hint))
        return None
    spec = registry.find(kind, word)
    if spec is None:
        problems.append(Problem(f"{dotted}type", f"no such {kind}: {word!r}", hint=registry.advice(kind, word)))
        return None
    try:
        cls: type[ComponentConfig] = spec.load_config()
    except ModbridgeError as error:
        problems.append(Problem(f"{dotted}type", str(error)))
        return None
    kept: dict[str, Any] | None = None
    if block.get("weights") is not None and issubclass(cls, FittedConfig):
        kept = kept_config(kind, block, path, problems)
        if kept is None:
            return None
        kept = upgraded_block(kind, kept, registry)
        block = laid_over(kept, block, _training_fields(cls, kept, registry))
    model = _check_values(cls, block, registry, path, problems)
    if kept is not None and model is not None:
        before = _check_values(cls, kept, registry, path, problems)
        if before is None:
            return None
        wrong = disagreements(before, model, path, str(block["weights"]))
        problems += wrong
        return None if wrong else model
    return model


def check_parts(
    kind: str, value: Any, registry: Registry, path: str, problems: list[Problem], *, listed: bool
) -> ComponentConfig | list[ComponentConfig] | None:
    """What a field that holds one component, or where `listed` a list of them, is given; None if one is unusable."""
    if not listed:
        return check_block(kind, value, registry, path, problems)
    if not isinstance(value, list):
        problems.append(Problem(path, f"expected a list, found {value!r}", hint=f"write [{value}]"))
        return None
    found = [check_block(kind, item, registry, f"{path}.{number}", problems) for number, item in enumerate(value)]
    whole = [item for item in found if item is not None]
    return whole if len(whole) == len(found) else None


def _check_listed(blocks: list[Any], registry: Registry, path: str, problems: list[Problem]) -> ComponentConfig | None:
    """A list in the place of a bridge: a chain of its items, whose problems are told where the items were written."""
    found: list[Problem] = []
    config = check_block("bridge", chained(blocks), registry, path, found)
    prefix = f"{path}.{CHAINED}".lstrip(".")
    for problem in found:
        if problem.path == prefix or problem.path.startswith(f"{prefix}."):
            problem = replace(problem, path=f"{path}{problem.path.removeprefix(prefix)}".lstrip("."))
        problems.append(problem)
    return config


def _training_fields(
    cls: type[ComponentConfig], kept: Mapping[str, Any], registry: Registry
) -> dict[str, tuple[str, ...]]:
    """The training fields of a component and, by their dotted names, of the parts that its artefact names."""
    found = {"": cls.training_fields}
    for field, kind in cls.part_fields():
        value = kept.get(field)
        parts = [(f"{field}.{i}", v) for i, v in enumerate(value)] if isinstance(value, list) else [(field, value)]
        for name, part in parts:
            if isinstance(part, Mapping) and (spec := registry.find(kind, str(part.get("type")))) is not None:
                below = _training_fields(spec.load_config(), part, registry)
                found |= {f"{name}.{deeper}".rstrip("."): fields for deeper, fields in below.items()}
    return found


def _check_values(
    cls: type[ComponentConfig], block: Mapping[str, Any], registry: Registry, path: str, problems: list[Problem]
) -> ComponentConfig | None:
    """A component of a class that is known, with its nested parts."""
    dotted = f"{path}." if path else ""
    values = dict(block)
    for name, part_kind in cls.part_fields():
        if values.get(name) is not None:
            listed = lists_parts(cls.model_fields[name])
            values[name] = check_parts(part_kind, values[name], registry, f"{dotted}{name}", problems, listed=listed)
    # A part with a mistake of its own is told by that mistake; it is not missing.
    broken = {name for name, value in values.items() if value is None and block.get(name) is not None}
    own: list[Problem] = []
    model: ComponentConfig | None = check_model(cls, {k: v for k, v in values.items() if k not in broken}, path, own)
    problems += [problem for problem in own if problem.path.removeprefix(dotted) not in broken]
    return model


def check_model(cls: type[Any], values: Mapping[str, Any], path: str, problems: list[Problem]) -> Any:
    """A pydantic model of `values`; its errors become problems with dotted paths and suggestions."""
    dotted = f"{path}." if path else ""
    try:
        return cls(**values)
    except ValidationError as error:
        wrong: dict[str, list[str]] = {}
        found: dict[str, str] = {}
        for item in error.errors():
            location = _given_path(values, item["loc"])
            where = (dotted + ".".join(map(str, location))).rstrip(".")
            if item["type"] == "extra_forbidden":
                name = str(location[-1])
                fields = sorted(_fields_at(cls, item["loc"][:-1]))
                close = difflib.get_close_matches(name, fields, n=1, cutoff=0.6)
                hint = f"did you mean {close[0]!r}?" if close else f"fields: {', '.join(fields)}"
                problems.append(Problem(where, "no such field", hint=hint))
            elif item["type"] == "missing":
                problems.append(Problem(where, "is missing; it has no default"))
            else:
                message = item["msg"].removeprefix("Value error, ")
                wrong.setdefault(where, []).append(f"{message[0].lower()}{message[1:]}")
                # The whole block is not repeated where the block as such is at fault.
                found[where] = f"; found {item['input']!r}" if location else ""
        problems += [Problem(at, f"{', or '.join(messages)}{found[at]}") for at, messages in wrong.items()]
        return None
    except ModbridgeError as error:
        problems.append(Problem(path, str(error)))
        return None


def _given_path(values: Any, location: tuple[Any, ...]) -> tuple[Any, ...]:
    """An error's place in the config as it was written: pydantic also names branches of unions, which nobody wrote."""
    path: list[Any] = []
    for number, step in enumerate(location):
        last = number == len(location) - 1
        if isinstance(values, Mapping) and (step in values or last):
            path.append(step)
            values = values.get(step)
        elif isinstance(values, list | tuple) and isinstance(step, int):
            path.append(step)
            values = values[step] if step < len(values) else None
    return tuple(path)


def _fields_at(cls: type[Any], location: tuple[Any, ...]) -> set[str]:
    """The field names of the model that stands at `location` inside `cls`. Where pydantic names the branch of a union
    told apart by its word `type`, that branch is meant."""
    model: Any = cls
    branches: list[Any] = []
    for step in location:
        field = getattr(model, "model_fields", {}).get(step)
        if field is not None:
            options = [field.annotation, *getattr(field.annotation, "__args__", ())]
            branches = [option for option in options if hasattr(option, "model_fields")]
            model = branches[0] if branches else model
        else:
            model = next((branch for branch in branches if _word_of(branch) == step), model)
    return {field.alias or name for name, field in getattr(model, "model_fields", {}).items()}


def _word_of(model: Any) -> Any:
    """The one word that the field `type` of a block takes; None where it takes others."""
    field = model.model_fields.get("type")
    words = get_args(field.annotation) if field is not None else ()
    return words[0] if len(words) == 1 else None
