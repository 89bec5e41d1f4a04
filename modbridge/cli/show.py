"""modbridge show: one component."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from modbridge.cli.state import State, json_option, print_json, print_rows
from modbridge.errors import ConfigError, ModbridgeError, PortError, Problem
from modbridge.plugins.registry import KINDS, ComponentSpec

if TYPE_CHECKING:
    from modbridge.spaces import Port

TAKING = ("prior", "bridge", "decoder", "vocabulary")  # the kinds that are given vectors
FORMS = (("vectors", None, False), ("sequences", 8, False), ("sequences of different lengths", 8, True))


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
    from modbridge.config.template import field_table, render_example

    registry = state.plugins.registry
    if kind not in KINDS:
        raise ConfigError([Problem("", f"no such kind: {kind!r}", hint=f"kinds: {', '.join(KINDS)}")])
    spec = registry.get(kind, name)
    config = _config(spec, sets, state)
    found: dict[str, Any] = {
        "kind": kind,
        "name": name,
        "summary": spec.summary,
        "plugin": spec.plugin,
        "config": spec.config,
        "implementation": spec.impl,
        "fields": field_table(spec.load_config()),
        "ports": _ports(spec, config, dim),
        "example": render_example(kind, name, registry),
    }
    if build:
        found["parameters"] = _parameters(spec, config, state, dim)
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


def _config(spec: ComponentSpec, sets: tuple[str, ...], state: State) -> Any:
    """The component's config with its defaults and `sets`. What has no default is taken from its example; a ConfigError
    where that does not make a whole one."""
    from modbridge.config.blocks import validate_block
    from modbridge.config.overrides import apply_sets

    fields = spec.load_config().model_fields
    needed = {field: value for field, value in spec.example.items() if fields[field].is_required()}
    errors: list[ConfigError] = []
    for start in (needed, spec.example):
        problems: list[Problem] = []
        block, _ = apply_sets({"type": spec.name, **start}, {}, sets, problems)
        if problems:
            raise ConfigError(problems)
        try:
            return validate_block(spec.kind, block, state.plugins.registry)
        except ConfigError as error:
            errors.append(error)
    if sets:
        raise errors[0]
    return errors[0]


def _ports(spec: ComponentSpec, config: Any, dim: int) -> dict[str, str]:
    """What the component takes and gives, for the fields at hand."""
    if isinstance(config, ConfigError):
        return {"ports": f"known once it is configured ({'; '.join(map(str, config.problems))})"}
    try:
        if spec.kind == "encoder":
            return {f"emits {m}": str(config.emits(m)) for m in config.modalities}
        if spec.kind in TAKING:
            forms = _forms(spec.kind, config, dim)
            found = {"takes": ", ".join(forms)}
            if spec.kind == "bridge":
                source, text = next(iter(forms.values())).values()
                found["cross"] = f"{source} -> {config.crosses(source, text)}"
                found["augment"] = f"{text} -> {config.augments(text)}"
                found["needs"] = ", ".join(sorted(config.needs)) or "nothing"
            return found
        if spec.kind == "source":
            return {"gives": f"{config.modality} items" + (" with texts" if config.captioned else "")}
        if spec.kind == "metric":
            return {"judges": "captions" if config.judges == "text" else "images", "columns": ", ".join(config.columns)}
        if spec.kind == "judge":
            return {"is asked about": "texts and images" if config.sees_images else "texts"}
    except ModbridgeError as error:
        return {"ports": str(error)}
    return {}


def _forms(kind: str, config: Any, dim: int) -> dict[str, dict[str, Port]]:
    """What a component takes of vectors and sequences, and the ports "source" and "text" of each. Raises PortError,
    that of vectors, where it takes nothing."""
    from modbridge.spaces import Port, Space

    found: dict[str, dict[str, Port]] = {}
    refusals: list[PortError] = []
    for name, tokens, ragged in FORMS:
        port = Port(space=Space(id="an encoder's space", dim=dim), modality="text", tokens=tokens, ragged=ragged)
        try:
            if kind == "bridge":
                config.crosses(port.changed(modality="image"), port)
                config.augments(port)
            else:
                config.check(port)
            found[name] = {"source": port.changed(modality="image"), "text": port}
        except PortError as error:
            refusals.append(error)
    if not found:
        raise refusals[0]
    return found


def _parameters(spec: ComponentSpec, config: Any, state: State, dim: int) -> int:
    """The parameters of the component, built at dimension `dim`."""
    from modbridge.assembly.build import build_component
    from modbridge.cost import parameters_of
    from modbridge.interfaces.component import BuildContext

    if spec.kind in ("source", "metric", "engine"):
        raise ConfigError([Problem("--build", f"a {spec.kind} has no parameters to count")])
    if isinstance(config, ConfigError):
        raise config
    ports = next(iter(_forms(spec.kind, config, dim).values())) if spec.kind in TAKING else {}
    built = build_component(config, spec.kind, state.plugins.registry, BuildContext(ports=ports))
    return parameters_of(built)
