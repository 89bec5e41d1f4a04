"""Building components from their configs: nested parts first, then the component itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modbridge.config.component import ComponentConfig
from modbridge.errors import ModbridgeError, PluginError
from modbridge.interfaces.component import BuildContext
from modbridge.plugins.registry import Registry


def build_component(config: ComponentConfig, kind: str, registry: Registry, context: BuildContext) -> Any:
    """The implementation that the registry names for `config`, with its nested parts built.

    A failure inside the component's own code becomes a PluginError that names the component.
    """
    spec = registry.get(kind, config.type)
    kinds = dict(type(config).part_fields())
    parts = {
        name: build_component(part, kinds[name], registry, context) for name, part in config.parts().items()
    }
    implementation = spec.load_impl()
    try:
        return implementation(config, replace(context, parts=parts))
    except (ModbridgeError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise PluginError(
            f"the {kind} {config.type!r} (plugin {spec.plugin!r}) failed while it was built: "
            f"{type(error).__name__}: {error}"
        ) from error
