"""The metric that `select.by` names: one of the pipeline's own, or any installed one with its defaults."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from modbridge.config.blocks import validate_block
from modbridge.config.kinds import MetricConfig
from modbridge.errors import ConfigError, ModbridgeError, Problem
from modbridge.plugins.registry import Registry


def metric_column(by: str, metrics: Sequence[MetricConfig], registry: Registry) -> tuple[MetricConfig, str]:
    """The metric that fills the column `by`, or is called so and fills one column, and that column.

    `metrics`: the pipeline's, whose options then hold; others have their defaults. Raises ConfigError if there is none,
    if it fills several columns, or if it judges images.
    """
    installed = [*metrics, *_with_defaults(registry)]
    candidates = [metric for metric in installed if metric.judges == "text"]
    for metric in candidates:
        if by in metric.columns:
            return metric, by
    named = next((metric for metric in candidates if metric.type == by), None)
    if named is not None:
        if len(named.columns) == 1:
            return named, named.columns[0]
        columns = ", ".join(named.columns)
        raise ConfigError([Problem("select.by", f"{by!r} fills several columns", hint=f"name one of {columns}")])
    of_images = {name: m.type for m in installed if m.judges == "image" for name in (m.type, *m.columns)}
    painted = next((of for name, of in of_images.items() if by == name or by.endswith(f"_{name}")), None)
    if painted is not None:
        message = f"{by!r} is of {painted!r}, which judges images; weights are chosen by what `decoder` writes"
        raise ConfigError([Problem("select.by", message, hint="name a metric of captions, or text_loss, or last")])
    known = list(dict.fromkeys(column for metric in candidates for column in metric.columns))
    close = get_close_matches(by, ["last", "text_loss", *known], n=1, cutoff=0.6)
    meant = f"did you mean {close[0]!r}? " if close else ""
    hint = f"{meant}last, text_loss, or a metric: {', '.join(known)}; {registry.advice('metric', by)}"
    raise ConfigError([Problem("select.by", f"no such metric: {by!r}", hint=hint)])


def _with_defaults(registry: Registry) -> list[MetricConfig]:
    """Every installed metric that can do without options."""
    found = []
    for name in registry.names("metric"):
        try:
            config = validate_block("metric", name, registry)
        except ModbridgeError:
            continue  # it wants options, or its plugin is broken: it can still be chosen from the pipeline's `metrics`
        assert isinstance(config, MetricConfig)
        found.append(config)
    return found
