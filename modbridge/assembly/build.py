"""Building components from their configs: nested parts first, then the component itself."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from modbridge.config.component import ComponentConfig
from modbridge.config.kinds import MetricConfig, ObjectiveConfig
from modbridge.config.pipeline import dump
from modbridge.config.weights import weights_folder
from modbridge.errors import ModbridgeError, PluginError, SetupError
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.metric import Metric
from modbridge.interfaces.objective import Objective
from modbridge.plugins.containment import off_stdout
from modbridge.plugins.registry import Registry
from modbridge.store.keys import stable_hash


class Shared:
    """The parts that several components hold (`ComponentConfig.shared`): each is built once for its config, its device
    and `seed`, which is one for all that hold it, and where the run trains it for what it is `taught` on (a
    fingerprint).

    `remember`: what keeps them, given a key and what makes one; without it they are kept here.
    """

    def __init__(
        self, seed: int, remember: Callable[[str, Callable[[], Any]], Any] | None = None, taught: str = ""
    ) -> None:
        self.seed, self.remember, self.taught = seed, remember or self._kept, taught
        self._built: dict[str, Any] = {}

    def _kept(self, key: str, make: Callable[[], Any]) -> Any:
        if key not in self._built:
            self._built[key] = make()
        return self._built[key]

    def part(self, config: ComponentConfig, kind: str, registry: Registry, device: torch.device) -> Component[Any]:
        """The part of a config, which stands at no port, without gradients of its own."""

        def make() -> Component[Any]:
            context = BuildContext(device=device, seed=self.seed)
            found: Component[Any] = build_component(config, kind, registry, context, self)
            if isinstance(found, Objective):
                found.freeze()
            return found

        taught = self.taught if isinstance(config, ObjectiveConfig) and config.needs_fit else ""
        key = stable_hash([registry.get(kind, config.type).identity, dump(config), str(device), self.seed, taught])
        part: Component[Any] = self.remember(f"shared {key}", make)
        return part


def build_component(
    config: ComponentConfig, kind: str, registry: Registry, context: BuildContext, shared: Shared | None = None
) -> Any:
    """The implementation that the registry names for `config`, with its nested parts built. `shared`: where those that
    several components hold are found.

    A failure inside the component's own code becomes a PluginError that names the component.
    """
    spec = registry.get(kind, config.type)
    parts = _parts(config, registry, context, shared or Shared(context.seed))
    implementation = spec.load_impl()
    with guard(kind, config.type, spec.plugin, "it was built"):
        return implementation(config, replace(context, parts=parts))


def build_metric(
    config: MetricConfig, registry: Registry, context: BuildContext | None = None, shared: Shared | None = None
) -> Metric[Any]:
    """The metric that the registry names for `config`, with its nested parts built, which stand at no port. `context`:
    where it works (by default on the CPU). `shared`: as for `build_component`."""
    spec = registry.get("metric", config.type)
    context = context or BuildContext()
    parts = _parts(config, registry, context, shared or Shared(context.seed))
    implementation = spec.load_impl()
    with guard("metric", config.type, spec.plugin, "it was built"):
        found: Metric[Any] = implementation(config, parts) if parts else implementation(config)
    found.context = replace(context, parts=parts)
    return found


def _parts(
    config: ComponentConfig, registry: Registry, context: BuildContext, shared: Shared
) -> dict[str, Component[Any]]:
    """The nested parts of a component, built."""
    return {
        name: shared.part(part, of, registry, context.device)
        if part.shared
        else build_component(part, of, registry, _inside(context, config, name, part), shared)
        for name, of, part in config.each_part()
    }


def _inside(context: BuildContext, config: ComponentConfig, name: str, part: ComponentConfig) -> BuildContext:
    """The surroundings of a nested part."""
    artefact = context.artefact and context.artefact / name
    weights: str | None = getattr(part, "weights", None)
    if artefact is None and weights is not None:
        artefact = weights_folder(weights)
    return replace(context, ports=config.part_ports(name, context.ports), artefact=artefact)


@contextmanager
def guard(kind: str, name: str, plugin: str, doing: str) -> Iterator[None]:
    """Turn what a component's own code raises into a PluginError that names it; our own errors pass. What it prints
    goes to stderr, behind its plugin's name."""
    try:
        with off_stdout(plugin):
            yield
    except ModbridgeError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno == errno.ENOSPC
        if full or "No space left on device" in str(error):
            raise SetupError(f"no disk space left while {doing} ({kind} {name!r}); free some and run again.") from error
        raise PluginError(
            f"the {kind} {name!r} of plugin {plugin!r} failed while {doing}: {type(error).__name__}: {error}"
        ) from error
