"""The JSON schema of a config file, for editors: installed plugins included."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema
from typing_extensions import TypeAliasType

from modbridge.config.component import ComponentConfig
from modbridge.config.fields import blocks_in, config_name, descriptions, is_annotated, part_kind
from modbridge.config.weights import CHAIN
from modbridge.errors import ModbridgeError
from modbridge.plugins.registry import KINDS, Registry

DIALECT = "https://json-schema.org/draft/2020-12/schema"
REFERENCE = {"type": "string", "pattern": r"\$\{"}

_PATHS: dict[str, Any] = {
    "description": "Places that the rest refers to as ${paths.name}; one that is null is to be given with --set.",
    "type": ["object", "null"],
    "additionalProperties": {"type": ["string", "null"]},
}
_EXTENDS = {"description": "Another config file, relative to this one, that this one changes.", "type": "string"}
_OVERRIDES: dict[str, Any] = {
    "profiles": "Named changes of this config, chosen with --profile.",
    "variants": "Named changes of this config; a run makes each of them.",
}
_AXES: dict[str, Any] = {"type": "object", "additionalProperties": {"type": ["object", "array"]}}
_GRID: dict[str, Any] = {
    "description": "Variants by combination: FIELD: {NAME: VALUE} or FIELD: [VALUE], a line each; or a list of such.",
    "anyOf": [_AXES, {"type": "array", "items": _AXES}, {"type": "null"}],
}


def json_schema(registry: Registry, pipeline_model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema (draft 2020-12) of a config file.

    A component's place takes a block of one of the registered components, told apart by `type`, or the name alone of
    one that needs no field. Every number, boolean and choice may be a "${reference}". A file that `extends` another,
    and a profile or variant, may leave out whatever it does not change.
    """
    whole = _Schema(registry, pipeline_model, partial=False)
    part = _Schema(registry, pipeline_model, partial=True)
    changes = {"anyOf": [{"$ref": part.root}, {"type": "null"}]}
    head = {"extends": _EXTENDS} | {
        name: {"description": text, "type": ["object", "null"], "additionalProperties": changes}
        for name, text in _OVERRIDES.items()
    }
    for one in (whole, part):
        top = one.defs[_name_of(one.root)]
        top["properties"] = head | {"grid": _GRID, "paths": _PATHS} | top.get("properties", {})
        top["additionalProperties"] = False
    return {
        "$schema": DIALECT,
        "title": "modbridge config",
        "if": {"type": "object", "required": ["extends"]},
        "then": {"$ref": part.root},
        "else": {"$ref": whole.root},
        "$defs": _reachable({**whole.defs, **part.defs}, [whole.root, part.root]),
    }


class _Generate(GenerateJsonSchema):
    """Pydantic's schemas, where a value that is no free text may also be a reference."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_reference(super().int_schema(schema))

    def float_schema(self, schema: core_schema.FloatSchema) -> JsonSchemaValue:
        return _or_reference(super().float_schema(schema))

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        return _or_reference(super().bool_schema(schema))

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        found = super().literal_schema(schema)
        return found if "const" in found else _or_reference(found)

    def enum_schema(self, schema: core_schema.EnumSchema) -> JsonSchemaValue:
        return _or_reference(super().enum_schema(schema))

    def str_schema(self, schema: core_schema.StringSchema) -> JsonSchemaValue:
        found = super().str_schema(schema)
        return found if set(found) == {"type"} else _or_reference(found)

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}  # a type that JSON cannot describe takes anything here; the config class itself checks it


def _or_reference(schema: JsonSchemaValue) -> JsonSchemaValue:
    return {"anyOf": [schema, dict(REFERENCE)]}


class _Schema:
    """The definitions of one reading of the config: whole, or `partial` with nothing required."""

    def __init__(self, registry: Registry, pipeline_model: type[BaseModel], *, partial: bool) -> None:
        self.registry, self.partial = registry, partial
        self.prefix = "partial." if partial else ""
        self.configs: dict[tuple[str, str], type[BaseModel]] = {}
        self.defs: dict[str, Any] = {}
        self.broken: dict[tuple[str, str], str] = {}
        for spec in registry:
            try:
                self.configs[spec.kind, spec.name] = spec.load_config()
            except ModbridgeError as error:
                self.broken[spec.kind, spec.name] = str(error)
        models = list(dict.fromkeys(_models([pipeline_model, *self.configs.values()])))
        refs, schema = models_json_schema(
            [(model, "validation") for model in models],
            ref_template=f"#/$defs/{self.prefix}{{model}}",
            schema_generator=_Generate,
        )
        self.defs |= {self.prefix + name: body for name, body in schema.get("$defs", {}).items()}
        self.refs = {model: refs[model, "validation"]["$ref"] for model in models}
        for model in models:
            self._describe(model)
        for kind in KINDS:
            self._add_kind(kind)
        self.root = self.refs[pipeline_model]

    def _describe(self, model: type[BaseModel]) -> None:
        """Put components into a model's places for them, and its fields' descriptions where they are missing."""
        body = self.defs[_name_of(self.refs[model])]
        told = descriptions(model)
        for name, field in model.model_fields.items():
            key = config_name(name, field)
            properties = body.get("properties", {})
            if key not in properties:
                continue
            kind = part_kind(field)
            if kind:
                least = {k: v for k, v in properties[key].items() if k == "minItems"}
                properties[key] = self._slot(field.annotation, kind) | least
            if name in told:
                properties[key] = {"description": told[name]} | {
                    k: v for k, v in properties[key].items() if k != "description"
                }
            if self.partial and blocks_in(field):
                properties[key] = {"anyOf": [properties[key], {"type": "null"}]}
        if self.partial:
            body.pop("required", None)

    def _slot(self, annotation: Any, kind: str) -> dict[str, Any]:
        """The schema of a field that holds a component, a list of them, or a block of them."""
        if isinstance(annotation, TypeAliasType):
            annotation = annotation.__value__
        if is_annotated(annotation):
            return self._slot(annotation.__origin__, kind)
        origin, args = get_origin(annotation), get_args(annotation)
        if origin in (Union, types.UnionType):
            options: list[dict[str, Any]] = []
            for arg in args:
                option = {"type": "null"} if arg is type(None) else self._slot(arg, kind)
                options += [option] if option not in options else []
            return options[0] if len(options) == 1 else {"anyOf": options}
        if isinstance(origin, type) and issubclass(origin, Mapping):
            return {"type": "object", "additionalProperties": self._slot(args[1], kind)}
        if isinstance(origin, type) and args:
            return {"type": "array", "items": self._slot(args[0], kind)}
        return {"$ref": f"#/$defs/{self.prefix}component.{kind}"}

    def _add_kind(self, kind: str) -> None:
        """Definitions of every component of a kind, and of the choice among them."""
        options: list[dict[str, Any]] = []
        words: list[str] = []
        for name in self.registry.names(kind):
            summary = self.registry.get(kind, name).summary
            body: dict[str, Any]
            word = {"type": {"const": name, "description": summary}}
            if (kind, name) in self.broken:
                reason = self.broken[kind, name]
                body = {"type": "object", "description": f"{summary}. Its fields are not known: {reason}"}
                body |= {"properties": word, "required": ["type"]}
            else:
                body = dict(self.defs[_name_of(self.refs[self.configs[kind, name]])])
                body |= {"title": f"{kind} {name}", "properties": {**body.get("properties", {}), **word}}
                body["additionalProperties"] = False
                body["required"] = sorted({*body.get("required", []), "type"})
            if body["required"] == ["type"] or self.partial:
                words.append(name)
            if self.partial:
                del body["required"]
            key = f"{self.prefix}component.{kind}.{name}"
            self.defs[key] = body
            options.append({"$ref": f"#/$defs/{key}"})
        text: dict[str, Any] = {"anyOf": [{"enum": words}, dict(REFERENCE)]} if words else dict(REFERENCE)
        if kind == "bridge" and CHAIN in self.registry.names(kind):
            several = {"description": f"Short for a {CHAIN}.", "type": "array", "minItems": 1}
            options.append(several | {"items": {"$ref": f"#/$defs/{self.prefix}component.{kind}"}})
        choice: dict[str, Any] = {"oneOf": [*options, text]}
        if self.partial:
            choice = {"anyOf": [*options, text, {"type": "null"}]}
        if not options:
            choice = {"description": f"No {kind} is installed.", "type": ["object", "string", "null"]}
        self.defs[f"{self.prefix}component.{kind}"] = choice


def _models(roots: list[type[BaseModel]]) -> Iterator[type[BaseModel]]:
    """Models and the blocks inside them, each after those that hold it."""
    for model in roots:
        yield model
        for field in model.model_fields.values():
            for block in _inner(field):
                if block is not model:
                    yield from _models([block])


def _inner(field: FieldInfo) -> list[type[BaseModel]]:
    return [block for block in blocks_in(field) if not issubclass(block, ComponentConfig)]


def _name_of(ref: str) -> str:
    return ref.removeprefix("#/$defs/")


def _reachable(defs: dict[str, Any], roots: list[str]) -> dict[str, Any]:
    """The definitions that are used, starting from `roots`."""
    wanted, used = list(roots), set[str]()
    while wanted:
        name = _name_of(wanted.pop())
        if name not in used:
            used.add(name)
            wanted += _refs(defs[name])
    return {name: defs[name] for name in sorted(used)}


def _refs(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [ref for item in value.values() for ref in _refs(item)]
    return [ref for item in value for ref in _refs(item)] if isinstance(value, list) else []
