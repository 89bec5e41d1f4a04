"""The bridges of a gap table: those that `gap.bridges` lists, each once for every value of `gap.sweep`."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from modbridge.config.blocks import check_model
from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import BridgeConfig
from modbridge.config.pipeline import PipelineConfig, dump
from modbridge.errors import ConfigError, Problem


def gap_bridges(config: PipelineConfig) -> list[BridgeConfig]:
    """The bridges that `modbridge gap` measures, in the order of the table; no two are the same.

    A bridge that has none of the swept fields stays as it is. Raises ConfigError, naming `gap.sweep.FIELD`, for a field
    that no bridge has and for a value that a bridge refuses.
    """
    bridges: Sequence[BridgeConfig] = config.gap.bridges or [config.bridge]
    problems: list[Problem] = []
    for name in config.gap.sweep:
        if not any(_has(bridge, name) for bridge in bridges):
            hint = f"bridges: {', '.join(dict.fromkeys(bridge.type for bridge in bridges))}"
            problems.append(Problem(f"gap.sweep.{name}", "no bridge of the comparison has this field", hint=hint))
    found: list[BridgeConfig] = []
    for bridge in bridges:
        axes = [(name, values) for name, values in config.gap.sweep.items() if _has(bridge, name)]
        for point in itertools.product(*(values for _, values in axes)):
            changed: Any = bridge
            for (name, _), value in zip(axes, point, strict=True):
                changed = _with(changed, name, value, f"gap.sweep.{name}", problems)
                if changed is None:
                    break
            if changed is not None and not _still_of_its_weights(bridge, changed):
                names = ", ".join(name for name, _ in axes)
                problems.append(
                    Problem(
                        f"gap.sweep.{axes[0][0]}",
                        f"{names} would change the fit, but the weights of {bridge.type!r} are given",
                        hint="sweep what changes only the crossing, or leave `weights` out to fit each",
                    )
                )
                break
            if changed is not None and dump(changed) not in map(dump, found):
                found.append(changed)
    if problems:
        raise ConfigError(list(dict.fromkeys(problems)))
    return found


def _still_of_its_weights(before: ComponentConfig, after: ComponentConfig) -> bool:
    """Whether every component whose weights are given would still have been fitted as they were."""
    if getattr(before, "weights", None) is not None and before.key_fields() != after.key_fields():
        return False
    changed = after.parts()
    return all(name in changed and _still_of_its_weights(part, changed[name]) for name, part in before.parts().items())


def _has(block: Any, name: str) -> bool:
    head, _, rest = name.partition(".")
    if isinstance(block, list):
        return bool(rest) and head.isdigit() and int(head) < len(block) and _has(block[int(head)], rest)
    if not isinstance(block, BaseModel) or head == "type" or head not in type(block).model_fields:
        return False
    return _has(getattr(block, head), rest) if rest else True


def _with(block: Any, name: str, value: Any, path: str, problems: list[Problem]) -> Any:
    """`block` with the field `name` set, checked as if it had been written so; None if it is refused."""
    head, _, rest = name.partition(".")
    if isinstance(block, list):
        item = _with(block[int(head)], rest, value, path, problems)
        return None if item is None else [*block[: int(head)], item, *block[int(head) + 1 :]]
    new = _with(getattr(block, head), rest, value, path, problems) if rest else value
    if new is None and rest:
        return None
    values = {field: getattr(block, field) for field in type(block).model_fields} | {head: new}
    wrong: list[Problem] = []
    checked = check_model(type(block), values, "", wrong)
    problems += [Problem(path, problem.message, hint=problem.hint) for problem in wrong]
    return checked
