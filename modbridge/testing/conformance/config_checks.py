"""What every config promises: it is light, frozen, strict, documented, and says its ports without weights."""

from __future__ import annotations

import json
import re
from typing import Any, Literal, get_args, get_origin

from modbridge.config.blocks import validate_block
from modbridge.config.fields import field_table
from modbridge.config.pipeline import dump
from modbridge.errors import ConfigError, PluginError, SetupError
from modbridge.plugins.registry import KINDS
from modbridge.spaces import Port
from modbridge.store.keys import stable_hash
from modbridge.testing.conformance.outcome import Check, Failed, NotRun
from modbridge.testing.conformance.plugin_checks import require_package, seen_fresh
from modbridge.testing.conformance.subject import Subject

_NAME = re.compile(r"[a-z][a-z0-9_]*")


def announced(subject: Subject) -> None:
    spec, kind = subject.spec, subject.kind
    if not _NAME.fullmatch(spec.name):
        raise Failed(
            f"the component is called {spec.name!r}",
            "a name in snake_case, since people type it after `type:`",
            "call it something like my_component",
        )
    if not spec.summary.strip() or "\n" in spec.summary.strip():
        raise Failed(
            f"its summary is {spec.summary!r}",
            "one line that says what it is, which `modbridge components` shows",
            "give ComponentSpec a summary of one line",
        )
    for what, load in (("config", spec.load_config), ("impl", spec.load_impl)):
        try:
            load()
        except (PluginError, SetupError) as error:
            raise Failed(
                f"`{what}` cannot be taken: {error}",
                f'"package.module:Class" of a {kind.capitalize()}{"Config" if what == "config" else ""}',
                f"correct `{what}` in its ComponentSpec, or mend that module",
            ) from error
    left = sorted(getattr(spec.load_impl(), "__abstractmethods__", ()))
    if left:
        raise Failed(
            f"{spec.impl} does not define {', '.join(left)}",
            f"every abstract method of {kind.capitalize()}",
            f"write {'it' if len(left) == 1 else 'them'}",
        )


def light_config(subject: Subject) -> None:
    require_package(subject)
    seen = seen_fresh(subject)
    if seen.error:
        raise NotRun("the plugin cannot be loaded in a fresh process; see `light_import`")
    step = seen.steps.get(f"{subject.id} config")
    if step is None or step["error"]:
        raise Failed(
            f"importing its config in a fresh process raised {step['error']}"
            if step
            else "it was not registered there",
            "that the config can be imported by itself",
            "correct `config` in its ComponentSpec, or mend that module",
        )
    if step["heavy"]:
        raise Failed(
            f"importing the config loads {', '.join(step['heavy'])}",
            "that configs are checked, listed and shown without any heavy package",
            "keep the config in a module of its own that imports pydantic and modbridge.config only; what needs "
            "the package belongs into the implementation's module, or inside a function",
        )


def frozen(subject: Subject) -> None:
    cls = subject.spec.load_config()
    if not cls.model_config.get("frozen"):
        raise Failed(
            f"{cls.__name__} can be changed after it was checked",
            "a frozen config, since cache keys are made of it",
            "remove `frozen=False` from its model_config",
        )


def unknown_field_refused(subject: Subject) -> None:
    cls = subject.spec.load_config()
    if cls.model_config.get("extra") != "forbid":
        raise Failed(
            f"{cls.__name__} takes unknown fields ({cls.model_config.get('extra')!r})",
            "that a misspelt field is an error and not a silent default",
            "remove `extra` from its model_config",
        )


def type_is_name(subject: Subject) -> None:
    spec = subject.spec
    field = spec.load_config().model_fields["type"]
    if get_origin(field.annotation) is Literal and spec.name not in get_args(field.annotation):
        raise Failed(
            f"the config's `type` is {' or '.join(map(repr, get_args(field.annotation)))}, but it is registered as "
            f"{spec.name!r}",
            "one name",
            f"declare `type: Literal[{spec.name!r}] = {spec.name!r}`, or register it under the other name",
        )
    if not field.is_required() and field.default != spec.name:
        raise Failed(
            f"the config's `type` is {field.default!r} by default, but it is registered as {spec.name!r}",
            "one name",
            "make the default the registered name",
        )


def fields_documented(subject: Subject) -> None:
    cls = subject.spec.load_config()
    if not (cls.__dict__.get("__doc__") or "").strip():
        raise Failed(
            f"{cls.__name__} has no docstring",
            "a sentence that says what the component is",
            "write one",
        )
    # The word `type` that chooses among blocks is told by the field that holds them.
    silent = [r["name"] for r in field_table(cls) if not r["description"] and not r["name"].endswith(".type")]
    if silent:
        raise Failed(
            f"no description of {', '.join(silent)}",
            "that `modbridge show` says of every field what it means",
            "write a docstring under each field, or Field(description=...), or name it in the class's docstring as "
            "`field`: what it does",
        )


def round_trip(subject: Subject) -> None:
    config = subject.config
    try:
        text = json.dumps(dump(config))
    except (TypeError, ValueError) as error:
        raise Failed(
            f"its config cannot be written as JSON: {error}",
            "fields of plain values, blocks and components, since every artefact keeps its config",
            "use numbers, strings, lists, dicts and pydantic models as field types",
        ) from error
    try:
        again = validate_block(subject.kind, json.loads(text), subject.trial.registry)
    except ConfigError as error:
        raise Failed(
            f"its config, written as JSON, is refused when it is read again: {error}",
            "that what an artefact keeps can be read",
            "let the validators take what they give",
        ) from error
    if again != config:
        changed = [name for name in type(config).model_fields if getattr(again, name) != getattr(config, name)]
        raise Failed(
            f"{', '.join(changed)} changed when the config was written as JSON and read again",
            "the same config",
            "let the validators give what they were given once it is in its final form",
        )
    try:
        stable_hash(config.key_fields())
    except (TypeError, ValueError) as error:
        raise Failed(
            f"`key_fields` gives what is no plain value: {error}",
            "numbers, strings, lists and dicts, of which cache keys are made",
            "return plain values from key_fields",
        ) from error


def ports_without_weights(subject: Subject) -> None:
    config, kind = subject.config, subject.kind
    alone: dict[str, Any] = {"heavy": [], "error": None}
    step = alone if subject.trial.file else seen_fresh(subject).steps.get(f"{subject.id} ports", alone)
    if step["error"]:
        raise Failed(
            f"asked for its ports in a fresh process, the config raised {step['error']}",
            "an answer without weights",
            "let the config say its ports by its fields alone (and by headers of files that it names)",
        )
    if step["heavy"]:
        raise Failed(
            f"asked for its ports, the config loads {', '.join(step['heavy'])}",
            "that pipelines are checked without any heavy package",
            "know the dimension by a table or by a file's header, not by building the model",
        )
    if kind == "encoder":
        _encoder_ports(config)
    elif kind == "bridge":
        ports = subject.ports
        _a_port("crosses", config.crosses(ports["source"], ports["text"]))
        _a_port("augments", config.augments(ports["text"]))
    if kind in ("bridge", "prior"):
        unknown = set(config.needs) - {"text", "source", "pairs"}
        if unknown:
            raise Failed(
                f"`needs` names {', '.join(sorted(map(str, unknown)))}",
                'some of "text", "source", "pairs"',
                "return a frozenset of these words",
            )


def _encoder_ports(config: Any) -> None:
    names = config.modalities
    if not isinstance(names, tuple) or not names or len(set(names)) != len(names):
        raise Failed(
            f"`modalities` is {names!r}", 'a tuple such as ("image", "text"), each once', "return such a tuple"
        )
    spaces = set()
    for name in names:
        port = _a_port(f"emits({name!r})", config.emits(name))
        spaces.add(port.space.id)
        if port.modality != name:
            raise Failed(
                f"emits({name!r}) gives a port of {port.modality!r}", f"a port of {name!r}", "pass the modality on"
            )
    if len(spaces) > 1:
        raise Failed(
            f"its modalities lie in several spaces: {', '.join(sorted(spaces))}",
            "one space, in which items of all its modalities can be compared",
            "give all ports one Space, whose id names the weights",
        )


def _a_port(what: str, found: Any) -> Port:
    if not isinstance(found, Port):
        raise Failed(f"{what} gives {found!r}", "a modbridge.spaces.Port", "return a Port")
    return found


CHECKS = (
    Check("announced", KINDS, "name, summary, config and implementation are what they must be", announced),
    Check("light_config", KINDS, "importing its config loads no heavy package", light_config),
    Check("frozen", KINDS, "its config cannot be changed", frozen),
    Check("unknown_field_refused", KINDS, "its config refuses unknown fields", unknown_field_refused),
    Check("type_is_name", KINDS, "its config's `type` is the name it is registered under", type_is_name),
    Check("fields_documented", KINDS, "every field says what it means", fields_documented),
    Check("round_trip", KINDS, "its config survives being written as JSON, and makes cache keys", round_trip),
    Check(
        "ports_without_weights", KINDS, "its ports are known without weights or heavy packages", ports_without_weights
    ),
)
