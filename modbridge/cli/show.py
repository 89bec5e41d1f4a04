"""modbridge show: one component."""

from __future__ import annotations

from typing import Any

import click

from modbridge.cli.state import State, json_option, print_json, print_rows
from modbridge.errors import ConfigError, ModbridgeError, Problem
from modbridge.plugins.registry import KINDS, ComponentSpec


@click.command("show")
@click.argument("kind")
@click.argument("name")
@click.option("--set", "sets", multiple=True, metavar="FIELD=VALUE", help="Set a field of the component.")
@click.option("--build", is_flag=True, help="Build it and count its parameters.")
@click.option("--dim", type=click.IntRange(1), default=512, show_default=True, help="The dimension of its vectors.")
@json_option
@click.pass_obj
def command(state: State, kind: str, name: str, sets: tuple[str, ...], build: bool, dim: int, as_json: bool) -> None:
    """Show a component: fields and defaults, ports, an example, where its code is.

    \b
    Examples:
      modbridge show bridge mean_shift
      modbridge show prior ddpm --set denoiser.width=1024 --build --json
    """
    from modbridge.config.overrides import apply_sets
    from modbridge.config.template import field_table, render_example

    registry = state.plugins.registry
    if kind not in KINDS:
        raise ConfigError([Problem("", f"no such kind: {kind!r}", hint=f"kinds: {', '.join(KINDS)}")])
    spec = registry.get(kind, name)
    problems: list[Problem] = []
    block, _ = apply_sets({"type": name, **spec.example}, {}, sets, problems)
    if problems:
        raise ConfigError(problems)
    found: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "summary": spec.summary,
        "plugin": spec.plugin,
        "config": spec.config,
        "implementation": spec.impl,
        "fields": field_table(spec.load_config()),
        "ports": _ports(spec, block, state, dim),
        "example": render_example(kind, name, registry),
    }
    if build:
        found["parameters"] = _parameters(spec, block, state, dim)
    if as_json:
        print_json(found)
        return
    click.echo(f"{kind} {name}: {spec.summary}")
    click.echo(f"plugin {spec.plugin}; config {spec.config}; code {spec.impl}")
    for side, text in found["ports"].items():
        click.echo(f"{side}: {text}")
    if build:
        click.echo(f"parameters: {found['parameters']:,}")
    click.echo()
    rows = [
        (f["name"], f["type"], "required" if f["required"] else str(f["default"]), f["description"] or "")
        for f in found["fields"]
    ]
    print_rows(("field", "type", "default", "meaning"), rows)
    click.echo(f"\n{found['example']}")


def _config(spec: ComponentSpec, block: dict[str, Any], state: State) -> Any:
    from modbridge.config.blocks import validate_block

    return validate_block(spec.kind, block, state.plugins.registry)


def _ports(spec: ComponentSpec, block: dict[str, Any], state: State, dim: int) -> dict[str, str]:
    """What the component takes and gives, for the fields at hand."""
    from modbridge.spaces import Port, Space

    config = _config(spec, block, state)
    space = Space(id="an encoder's space", dim=dim)
    source, text = Port(space=space, modality="image"), Port(space=space, modality="text")
    try:
        if spec.kind == "encoder":
            return {f"emits {m}": str(config.emits(m)) for m in config.modalities}
        if spec.kind == "bridge":
            return {
                "cross": f"{source} -> {config.crosses(source, text)}",
                "augment": f"{text} -> {config.augments(text)}",
                "needs": ", ".join(sorted(config.needs)) or "nothing",
            }
        if spec.kind == "source":
            return {"gives": f"{config.modality} items" + (" with texts" if config.captioned else "")}
        if spec.kind == "metric":
            return {"columns": ", ".join(config.columns)}
    except ModbridgeError as error:
        return {"ports": str(error)}
    return {}


def _parameters(spec: ComponentSpec, block: dict[str, Any], state: State, dim: int) -> int:
    """The parameters of the component, built at dimension `dim`."""
    from modbridge.assembly.build import build_component
    from modbridge.interfaces.component import BuildContext, Component
    from modbridge.spaces import Port, Space

    config = _config(spec, block, state)
    space = Space(id="toy", dim=dim)
    ports = {m: Port(space=space, modality=m) for m in ("text", "image")}
    ports["source"] = ports["image"]
    if spec.kind == "encoder":
        ports = {}
    built = build_component(config, spec.kind, state.plugins.registry, BuildContext(ports=ports))
    if not isinstance(built, Component):
        raise ConfigError([Problem("", f"a {spec.kind} has no parameters to count")])
    return built.parameter_count() + sum(part.parameter_count() for part in built.context.parts.values())
