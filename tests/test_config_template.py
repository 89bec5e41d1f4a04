"""What configs say of themselves: tables of fields, example blocks and starter files."""

from __future__ import annotations

import itertools
import re
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from modbridge.config.blocks import validate_block
from modbridge.config.component import Affects, ComponentConfig, Part
from modbridge.config.document import load_document
from modbridge.config.fields import field_table
from modbridge.config.kinds import MetricConfig
from modbridge.config.reading import read_yaml
from modbridge.config.template import render_example, starter
from modbridge.errors import ConfigError
from modbridge.plugins.registry import ComponentSpec, Registry

HERE = "toy_config_for_templates"


class Train(BaseModel):
    """`epochs`: passes over the data. `rate`: of learning."""

    model_config = ConfigDict(extra="forbid")
    epochs: Annotated[int, Field(ge=1, lt=100)] = 3
    rate: float = 1e-4


class Toy(ComponentConfig):
    """`said_here`: the class tells it. Other words follow."""

    model_config = ConfigDict(use_attribute_docstrings=True)
    must: str
    """Has to be given."""
    choice: Annotated[Literal["a", "on"], Affects("cross"), Affects("augment")] = "on"
    """Below
    the field."""
    size: Annotated[int | None, Field(ge=2, description="In Field.")] = None
    workers: Annotated[int, Affects("nothing")] = 0
    said_here: float = 0.5
    prior: Annotated[ComponentConfig | None, Part("prior")] = None
    train: Annotated[Train, Affects("decode")] = Train()
    names: tuple[str, ...] = ("x, y", "1")
    maybe: Train | None = None


class Below(ComponentConfig):
    plain: bool = True
    """Without use_attribute_docstrings."""


class Prior(ComponentConfig):
    steps: int = 5


class Holder(ComponentConfig):
    inner: Annotated[ComponentConfig, Part("prior")] = Prior(type="p", steps=7)


class Source(ComponentConfig):
    path: str


class Java(MetricConfig):
    missing_: ClassVar[str] = "java"

    def missing(self) -> str | None:
        return self.missing_


class Ready(MetricConfig):
    scale: int = 1


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    module = types.ModuleType(HERE)
    monkeypatch.setitem(sys.modules, HERE, module)
    registry = Registry()
    for kind, name, config, example in (
        ("encoder", "toy", Toy, {"type": "toy", "must": "m"}),
        ("prior", "p", Prior, {}),
        ("bridge", "holder", Holder, {}),
        ("bridge", "below", Below, {}),
        ("source", "files", Source, {}),
        ("metric", "java", Java, {}),
        ("metric", "ready", Ready, {}),
    ):
        setattr(module, config.__name__, config)
        target = f"{HERE}:{config.__name__}"
        registry.take(
            [ComponentSpec(kind=kind, name=name, config=target, impl=target, summary=f"a {name}.", example=example)]
        )
    return registry


def rows(config: type[BaseModel]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in field_table(config)}


def test_a_field_table_tells_everything() -> None:
    table = rows(Toy)
    assert list(table) == [
        *("must", "choice", "size", "workers", "said_here", "prior", "train", "train.epochs", "train.rate", "names"),
        *("maybe", "maybe.epochs", "maybe.rate"),
    ]
    assert table["must"] == {
        "name": "must",
        "type": "text",
        "default": None,
        "required": True,
        "affects": "everything",
        "description": "Has to be given.",
    }
    assert table["choice"]["type"] == "one of a, on"
    assert table["choice"]["affects"] == "cross, augment"
    assert table["choice"]["description"] == "Below the field."
    assert (table["size"]["type"], table["size"]["default"], table["size"]["required"]) == (
        "integer >= 2 or null",
        None,
        False,
    )
    assert table["size"]["description"] == "In Field."
    assert table["workers"]["affects"] == "nothing"
    assert table["said_here"]["description"] == "the class tells it. Other words follow."
    assert table["prior"]["type"] == "a prior or null"
    assert table["train.epochs"]["type"] == "integer >= 1, < 100"
    assert (table["train.epochs"]["default"], table["train.epochs"]["affects"]) == (3, "decode")
    assert table["train.epochs"]["description"] == "passes over the data."
    assert table["train.rate"]["description"] == "of learning."
    assert (table["names"]["type"], table["names"]["default"]) == ("list of text", ["x, y", "1"])


def test_docstrings_below_fields_are_read_without_the_switch_too() -> None:
    assert rows(Below)["plain"]["description"] == "Without use_attribute_docstrings."
    assert rows(Below)["plain"]["type"] == "true or false"


def test_a_nested_component_is_one_row_with_what_it_says() -> None:
    assert rows(Holder)["inner"]["default"] == {"type": "p", "steps": 7}
    assert rows(Holder)["inner"]["type"] == "a prior"


def parsed(text: str) -> Any:
    problems: list[Any] = []
    value, _ = read_yaml(text, "f", problems)
    assert problems == []
    return value


def test_an_example_shows_every_field_at_its_default(registry: Registry) -> None:
    text = render_example("encoder", "toy", registry)
    assert parsed(text) == {
        "type": "toy",
        "must": "m",
        "choice": "on",
        "size": None,
        "workers": 0,
        "said_here": 0.5,
        "prior": None,
        "train": {"epochs": 3, "rate": 1e-4},
        "names": ["x, y", "1"],
        "maybe": None,
    }
    assert validate_block("encoder", parsed(text), registry) == Toy(type="toy", must="m")
    assert "# a toy\n" in text
    assert "# Below the field.\nchoice: on  # one of a, on; matters only to cross and augment\n" in text
    assert "must: m  # required: text" in text
    assert "prior: null  # a prior or null: p\n" in text
    assert "#maybe:  # as a block\n#  # passes over the data.\n#  epochs: 3" in text


def test_an_example_writes_nested_components_out(registry: Registry) -> None:
    assert parsed(render_example("bridge", "holder", registry)) == {
        "type": "holder",
        "inner": {"type": "p", "steps": 7},
    }


def test_an_unknown_name_is_told(registry: Registry) -> None:
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        render_example("encoder", "tey", registry)
    with pytest.raises(ConfigError, match="no such bridge"):
        starter({"bridge": "nothing"}, registry)


def test_a_starter_switches_on_only_what_must_be_given(registry: Registry, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = starter({"bridge": "holder"}, registry)
    path.write_text(text)
    document = load_document(path)
    assert document.to_be_given == ["paths.data"]
    document = load_document(path, sets=["paths.data=/d"])
    assert document.tree == {
        "name": "my-run",
        "paths": {"data": "/d"},
        "seed": 0,
        "data": {
            "train": {"type": "files", "path": "/d/train_path"},
            "test": {"type": "files", "path": "/d/test_path"},
        },
        "encoder": {"type": "toy", "must": None},
        "bridge": {"type": "holder"},
        "decoder": None,
        "metrics": [{"type": "ready"}],
    }
    assert "decoder: null  # required: no decoder is installed" in text
    assert "  must: null  # required: text" in text


def test_a_starter_takes_what_was_chosen(registry: Registry) -> None:
    tree = parsed(starter({"bridge": "holder", "prior": "p", "metrics": ["java", "ready"]}, registry))
    assert tree["bridge"] == {"type": "holder", "inner": {"type": "p"}}
    assert tree["metrics"] == [{"type": "java"}, {"type": "ready"}]
    assert parsed(starter({"metric": "java"}, registry))["metrics"] == [{"type": "java"}]


def test_what_a_starter_switches_off_is_the_default(registry: Registry) -> None:
    lines = starter({"bridge": "holder"}, registry).splitlines()
    # Prose is "# word"; what is switched off begins right after the #, or further in where it is nested.
    switched = [re.sub(r"^( *)#", r"\1", line) for line in lines if not re.match(r" *# \S", line)]
    keep = list(itertools.takewhile(lambda line: not line.startswith("decoder"), switched))
    text = "\n".join(line for line in keep if "maybe: null" not in line and not re.match(r" +prior: null", line))
    tree = parsed(text)
    assert tree["bridge"] == {"type": "holder", "inner": {"type": "p", "steps": 7}}
    assert tree["encoder"]["maybe"] == {"epochs": 3, "rate": 1e-4}
    tree["encoder"]["must"] = "m"
    expected = Toy(type="toy", must="m", maybe=Train())
    assert validate_block("encoder", tree["encoder"], registry) == expected


def test_every_installed_component_can_be_shown() -> None:
    from modbridge.plugins.manager import Plugins

    installed = Plugins.discover().registry
    specs = list(installed)
    assert specs
    for spec in specs:
        block = parsed(render_example(spec.kind, spec.name, installed))
        names = {row["name"].split(".")[0] for row in field_table(spec.load_config())}
        assert set(block) == names | {"type"}
