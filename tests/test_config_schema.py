"""The JSON schema for editors, tried with a small validator of our own where `jsonschema` is not installed."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from modbridge.config.component import ComponentConfig, Part
from modbridge.config.reading import read_yaml
from modbridge.config.schema import json_schema
from modbridge.plugins.registry import ComponentSpec, Registry

HERE = "toy_config_for_schema"


class Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")
    width: int = 4


class Prior(ComponentConfig):
    """`steps`: how many."""

    steps: Annotated[int, Field(ge=1)] = 5
    shape: Shape = Shape()


class Bridge(ComponentConfig):
    mode: Literal["x", "y"] = "x"
    prior: Annotated[ComponentConfig, Part("prior")]
    others: Annotated[list[ComponentConfig], Part("prior")] = Field(default_factory=list)
    named: dict[str, Annotated[ComponentConfig, Part("prior")]] = Field(default_factory=dict)


class Identity(ComponentConfig):
    flag: bool = False
    rate: float = 0.5


class Data(BaseModel):
    model_config = ConfigDict(extra="forbid")
    train: Annotated[ComponentConfig, Part("source")]


class Pipeline(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    name: Annotated[str, Field(pattern="^[a-z]+$")] = "run"
    """Names the folder."""
    seed: int = 0
    data: Data | None = None
    bridge: Annotated[ComponentConfig, Part("bridge")]
    augment: Annotated[ComponentConfig | None, Part("bridge")] = None
    decoder: Annotated[ComponentConfig, Part("decoder")] | None = None


@pytest.fixture
def schema(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    module = types.ModuleType(HERE)
    monkeypatch.setitem(sys.modules, HERE, module)
    registry = Registry()
    for kind, name, config in (
        ("prior", "p", Prior),
        ("bridge", "b", Bridge),
        ("bridge", "identity", Identity),
        ("bridge", "nothing", Identity),
        ("source", "broken", None),
    ):
        target = f"{HERE}:{config.__name__ if config else 'Missing'}"
        if config:
            setattr(module, config.__name__, config)
        registry.take([ComponentSpec(kind=kind, name=name, config=target, impl=target, summary=f"the {name}")])
    built = json_schema(registry, Pipeline)
    assert json.loads(json.dumps(built)) == built
    return built


def fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    """JSON schema, as much of it as is used here."""
    try:
        import jsonschema  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        return _fits(value, schema, root)
    jsonschema.Draft202012Validator.check_schema(root)
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


KINDS: dict[str, Any] = {"object": dict, "array": list, "string": str, "boolean": bool, "null": type(None)}


def _is(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        return isinstance(value, int if kind == "integer" else int | float) and not isinstance(value, bool)
    return isinstance(value, KINDS[kind])


def _fits(value: Any, schema: Any, root: dict[str, Any]) -> bool:
    known = {
        *("$ref", "type", "const", "enum", "oneOf", "anyOf", "if", "then", "else", "required", "properties", "$defs"),
        *("additionalProperties", "items", "pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
        *("multipleOf", "minItems", "maxItems", "prefixItems", "minProperties", "minLength", "discriminator"),
        *("title", "description", "default", "examples", "format", "$schema"),
    }
    assert set(schema) <= known, set(schema) - known

    def sub(part: Any, item: Any = value) -> bool:
        return _fits(item, part, root)

    tests = [sub(root["$defs"][schema["$ref"].removeprefix("#/$defs/")])] if "$ref" in schema else []
    if "type" in schema:
        kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        tests.append(any(_is(value, kind) for kind in kinds))
    if "const" in schema:
        tests.append(value == schema["const"])
    if "enum" in schema:
        tests.append(value in schema["enum"])
    if "oneOf" in schema:
        tests.append(sum(map(sub, schema["oneOf"])) == 1)
    if "anyOf" in schema:
        tests.append(any(map(sub, schema["anyOf"])))
    if "if" in schema:
        tests.append(sub(schema["then"] if sub(schema["if"]) else schema["else"]))
    if "pattern" in schema and isinstance(value, str):
        tests.append(re.search(schema["pattern"], value) is not None)
    if _is(value, "number"):
        tests.append(schema.get("minimum", value) <= value <= schema.get("maximum", value))
        tests.append(schema.get("exclusiveMinimum", value - 1) < value < schema.get("exclusiveMaximum", value + 1))
        tests.append(value % schema.get("multipleOf", value or 1) == 0)
    if isinstance(value, list | str | dict):
        least = {list: "minItems", str: "minLength", dict: "minProperties"}[type(value)]
        tests.append(schema.get(least, 0) <= len(value))
    if isinstance(value, list):
        tests.append(len(value) <= schema.get("maxItems", len(value)))
        tests += [sub(part, item) for part, item in zip(schema.get("prefixItems", []), value, strict=False)]
    if isinstance(value, dict):
        tests.append(set(schema.get("required", [])) <= set(value))
        properties, rest = schema.get("properties", {}), schema.get("additionalProperties", True)
        for name, item in value.items():
            if name in properties:
                tests.append(sub(properties[name], item))
            else:
                tests.append(rest is True or (rest is not False and sub(rest, item)))
    if isinstance(value, list) and "items" in schema:
        tests += [sub(schema["items"], item) for item in value[len(schema.get("prefixItems", [])) :]]
    return all(tests)


RIGHT: list[dict[str, Any]] = [
    {"bridge": "identity"},
    {"bridge": {"type": "nothing", "flag": True}},
    {"bridge": {"type": "b", "prior": "p"}},
    {"bridge": {"type": "b", "prior": {"type": "p", "steps": 2, "shape": {"width": 3}}, "mode": "y"}},
    {"bridge": {"type": "b", "prior": "p", "others": ["p", {"type": "p"}], "named": {"one": {"type": "p"}}}},
    {"bridge": "identity", "augment": None, "seed": "${paths.seed}", "paths": {"data": None, "x": "/y"}},
    {"bridge": {"type": "identity", "flag": "${a}", "rate": "${b}"}},
    {"bridge": {"type": "b", "prior": "${p}", "mode": "${m}"}},
    {"bridge": "${word}", "name": "${n}"},
    {"bridge": "identity", "data": {"train": {"type": "broken", "anything": 1}}},
    {"bridge": "identity", "decoder": {"type": "whatever"}},
    {"extends": "base.yaml"},
    {"extends": "base.yaml", "bridge": {"prior": {"steps": 3}}, "data": {}},
    {"extends": "base.yaml", "bridge": {"type": "b"}},
    {
        "bridge": "identity",
        "variants": {"one": {"bridge": {"flag": True}}, "plain": None},
        "profiles": {"t": {"seed": 1}},
    },
]
WRONG: list[dict[str, Any]] = [
    {},
    {"bridge": "unknown"},
    {"bridge": {"type": "unknown"}},
    {"bridge": {"flag": True}},
    {"bridge": "b"},
    {"bridge": {"type": "b"}},
    {"bridge": {"type": "identity", "flog": True}},
    {"bridge": {"type": "identity", "flag": "yes"}},
    {"bridge": {"type": "identity", "prior": "p"}},
    {"bridge": {"type": "b", "prior": "identity"}},
    {"bridge": {"type": "b", "prior": {"type": "p", "steps": 0}}},
    {"bridge": {"type": "b", "prior": {"type": "p", "shape": {"widht": 3}}}},
    {"bridge": {"type": "b", "prior": "p", "others": [{"type": "p", "x": 1}]}},
    {"bridge": {"type": "b", "prior": "p", "named": {"one": {"type": "q"}}}},
    {"bridge": {"type": "b", "prior": "p", "mode": "z"}},
    {"bridge": "identity", "sede": 1},
    {"bridge": "identity", "seed": "one"},
    {"bridge": "identity", "name": "UPPER"},
    {"bridge": "identity", "paths": {"data": 3}},
    {"bridge": "identity", "data": {}},
    {"extends": 3},
    {"extends": "base.yaml", "bridge": {"nothing_has_this": 3}},
    {"extends": "base.yaml", "sede": 1},
    {"bridge": "identity", "variants": {"one": {"sede": 1}}},
]


@pytest.mark.parametrize("config", RIGHT, ids=str)
def test_a_right_config_fits(schema: dict[str, Any], config: dict[str, Any]) -> None:
    assert fits(config, schema, schema)


@pytest.mark.parametrize("config", WRONG, ids=str)
def test_a_wrong_config_does_not(schema: dict[str, Any], config: dict[str, Any]) -> None:
    assert not fits(config, schema, schema)


def test_descriptions_come_along(schema: dict[str, Any]) -> None:
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    top = schema["$defs"]["Pipeline"]["properties"]
    assert top["name"]["description"] == "Names the folder."
    prior = schema["$defs"]["component.prior.p"]
    assert prior["properties"]["steps"]["description"] == "how many."
    assert prior["properties"]["type"] == {"const": "p", "description": "the p"}
    assert prior["additionalProperties"] is False
    assert "Missing" in schema["$defs"]["component.source.broken"]["description"]


@pytest.fixture(scope="module")
def installed() -> dict[str, Any]:
    from modbridge.config.pipeline import PipelineConfig
    from modbridge.plugins.manager import Plugins

    return json_schema(Plugins.discover().registry, PipelineConfig)


def test_every_reference_leads_somewhere(installed: dict[str, Any]) -> None:
    refs = re.findall(r'"\$ref": "#/\$defs/([^"]+)"', json.dumps(installed))
    assert refs
    assert set(refs) <= set(installed["$defs"])
    assert {"$ref": "#/$defs/component.bridge.identity"} in installed["$defs"]["component.bridge"]["oneOf"]


ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "path",
    [p for folder in ("configs", "modbridge/demo", "benchmarks") for p in sorted((ROOT / folder).rglob("*.yaml"))],
    ids=lambda p: p.name,
)
def test_every_config_of_the_repository_fits(installed: dict[str, Any], path: Path) -> None:
    problems: list[Any] = []
    tree, _ = read_yaml(path.read_text(), path.name, problems)
    assert problems == []
    assert fits(tree, installed, installed)
    assert not fits({**tree, "no_such_field": 1}, installed, installed)
    assert not fits({**tree, "bridge": {"type": "no_such_bridge"}}, installed, installed)
