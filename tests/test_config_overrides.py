"""How one config is laid over another: merging, `--set` and `--vary`."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modbridge.config.document import load_document
from modbridge.config.overrides import Axis, deep_merge, expand, parse_vary
from modbridge.config.reading import flow_text, read_yaml
from modbridge.errors import ConfigError

scalars = st.none() | st.booleans() | st.integers() | st.sampled_from(["a", "b", "a b", ""]) | st.floats(0, 1)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["type", "a", "b"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(trees, trees)
def test_laying_a_tree_over_twice_changes_nothing_more(base: Any, override: Any) -> None:
    before = copy.deepcopy((base, override))
    once = deep_merge(base, override)
    assert deep_merge(once, override) == once
    assert (base, override) == before


@settings(max_examples=200, deadline=None)
@given(trees, trees)
def test_the_override_wins_wherever_it_speaks(base: Any, override: Any) -> None:
    def wins(merged: Any, override: Any) -> bool:
        if isinstance(override, dict):
            return isinstance(merged, dict) and all(k in merged and wins(merged[k], v) for k, v in override.items())
        if isinstance(merged, dict):  # a word, kept as the block that it is short for
            return isinstance(override, str) and merged.get("type") == override
        return bool(merged == override) and type(merged) is type(override)

    assert wins(deep_merge(base, override), override)


@settings(max_examples=100, deadline=None)
@given(trees, trees)
def test_nothing_comes_from_a_block_of_another_type(base: Any, override: Any) -> None:
    base, override = {"type": "x", "a": base}, {"type": "y", "b": override}
    assert deep_merge(base, override) == override


def test_merging_shares_nothing() -> None:
    base, override = {"a": {"b": [1]}}, {"c": {"d": [2]}}
    merged = deep_merge(base, override)
    merged["a"]["b"].append(9)
    merged["c"]["d"].append(9)
    assert (base, override) == ({"a": {"b": [1]}}, {"c": {"d": [2]}})


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False)
        | st.text("ab1:#-,[]{}'\"\\ \n.${}eé!&*"),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab: 1"), inner, max_size=2),
        max_leaves=6,
    )
)
def test_a_value_written_in_one_line_reads_back(value: Any) -> None:
    problems: list[Any] = []
    got, _ = read_yaml(flow_text({"x": value}), "f", problems)
    if not problems:  # an empty key or "<<" is refused on purpose
        assert got == {"x": value}
        assert repr(got) == repr({"x": value})
    else:
        assert "key" in str(problems[0])


# --set


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(
        "seed: 0\nempty:\nbridge:\n  type: diffusion_bridge\n  start_step: 1\n  prior: {type: ddpm, n: 1}\n"
        "decoder: prefix\ncells:\n  - name: a\n    size: 1\n  - name: b\n"
    )
    return path


def test_set_changes_one_field_and_says_so(config: Path) -> None:
    document = load_document(config, sets=["bridge.start_step=400", "cells.1.name=x", "new.deep.field=[1, {a: no}]"])
    assert document.tree["bridge"] == {"type": "diffusion_bridge", "start_step": 400, "prior": {"type": "ddpm", "n": 1}}
    assert document.tree["cells"] == [{"name": "a", "size": 1}, {"name": "x"}]
    assert document.tree["new"] == {"deep": {"field": [1, {"a": "no"}]}}
    assert document.where("bridge.start_step") == document.where("cells.1.name") == "--set"
    assert document.where("new.deep.other") == "--set"
    assert document.where("bridge") == f"{config}:3"
    assert document.where("cells.0.name") == f"{config}:9"


@pytest.mark.parametrize(
    "text", ["1e-4", "on", "null", "", "true", "0x10", "2024-01-01", "'a, b'", "[a, 1.5]", "{a: 1}"]
)
def test_set_reads_values_as_a_file_does(config: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "d.yaml").write_text(f"x: {text}\n")
    assert load_document(config, sets=[f"x={text}"]).tree["x"] == load_document(tmp_path / "d.yaml").tree["x"]


def test_value_may_hold_equals_signs(config: Path) -> None:
    assert load_document(config, sets=["x=a=b"]).tree["x"] == "a=b"


@pytest.mark.parametrize("order", [1, -1])
def test_all_sets_are_one_override(config: Path, order: int) -> None:
    sets = ["bridge.type=c3", "bridge.radius=2", "bridge.inner.type=q", "bridge.inner.z=1"][::order]
    document = load_document(config, sets=sets)
    assert document.tree["bridge"] == {"type": "c3", "radius": 2, "inner": {"type": "q", "z": 1}}
    assert document.where("bridge.missing") == "--set"


def test_set_knows_words(config: Path) -> None:
    tree = load_document(config, sets=["decoder.beams=3", "bridge=c3", "bridge.radius=2"]).tree
    assert tree["decoder"] == {"type": "prefix", "beams": 3}
    assert tree["bridge"] == {"type": "c3", "radius": 2}


def test_the_later_of_two_sets_wins_and_null_takes_a_block_away(config: Path) -> None:
    tree = load_document(config, sets=["seed=1", "seed=2", "bridge=null", "empty.x=1"]).tree
    assert (tree["seed"], tree["bridge"], tree["empty"]) == (2, None, {"x": 1})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bridge.start_step", ["NAME=VALUE", "--set bridge.start_step=400"]),
        ("=3", ["does not name a field", "--set bridge.start_step=400"]),
        ("a..b=3", ["does not name a field"]),
        ("seed.x=3", ["--set: seed.x: seed is the single value 0"]),
        ("cells.7.name=3", ["cells is a list", "'7'", "0 to 1"]),
        ("cells.name=3", ["cells is a list", "'name'"]),
        ("metrics.0=3", ["no list 'metrics'", "--set metrics=[...]"]),
        ("x=[1, 2", ["--set: x:", "brackets"]),
        ("x=a: b", ["--set: x:", "quotes"]),
        ("x=#fff", ["--set: x:", "comment"]),
        ("x=a #fff", ["--set: x:", "comment"]),
        ("x=!!python/name:os.system", ["--set: x:", "not allowed"]),
        ("x=${nope}", ["--set: x:", "names nothing"]),
        ("extends=other.yaml", ["extends", "edit the file"]),
    ],
)
def test_a_wrong_set_is_told(config: Path, text: str, expected: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_document(config, sets=[text])
    assert caught.value.exit_code == 1
    assert len(caught.value.problems) == 1
    for words in expected:
        assert words in str(caught.value)


# --vary


def test_vary_gives_axes() -> None:
    axes = parse_vary(["bridge.type=identity, c3", "seed=0,1,2", 'x=[1,2],{a: [3,4]},\'p,q\',"r,\\",s",null,1e-4'])
    assert axes == [
        Axis("bridge.type", ("identity", "c3")),
        Axis("seed", (0, 1, 2)),
        Axis("x", ([1, 2], {"a": [3, 4]}, "p,q", 'r,",s', None, 1e-4)),
    ]
    assert parse_vary(['x=[a, "]", b],c'])[0].values == (["a", "]", "b"], "c")
    assert parse_vary([]) == []


def test_expand_gives_every_combination_in_order() -> None:
    cells = expand(parse_vary(["bridge.type=identity,c3", "seed=0,1"]))
    assert [label for label, _ in cells] == [
        "type=identity,seed=0",
        "type=identity,seed=1",
        "type=c3,seed=0",
        "type=c3,seed=1",
    ]
    assert cells[3][1] == ["bridge.type=c3", "seed=1"]
    assert expand([]) == [("", [])]


def test_labels_use_the_shortest_names_that_differ() -> None:
    axes = parse_vary(["bridge.type=a", "decoder.type=b", "bridge.prior.steps=1", "steps=2"])
    assert expand(axes)[0][0] == "bridge.type=a,decoder.type=b,prior.steps=1,steps=2"


@pytest.mark.parametrize("value", [[1, "a, b"], {"a": None}, "1e-4", "null", "x: y", 0.5, True, "a #b", "${seed}"])
def test_a_varied_value_reaches_the_config_unchanged(config: Path, value: Any) -> None:
    ((_, sets),) = expand([Axis("x", (value,))])
    expected = 0 if value == "${seed}" else value
    assert load_document(config, sets=sets).tree["x"] == expected


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["seed"], "NAME=VALUE"),
        (["=1,2"], "names no field"),
        (["seed="], "empty value"),
        (["seed=1,,2"], "empty value"),
        (["seed=1,1"], "given twice"),
        (["seed=[1"], "brackets"),
        (["seed=1", "seed=2"], "varied twice"),
        (["bridge=a,b", "bridge.type=c"], "same field"),
        (["bridge.type=c", "bridge=a,b"], "same field"),
    ],
)
def test_a_wrong_vary_is_told(texts: list[str], expected: str) -> None:
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_vary(texts)
    assert len(caught.value.problems) == 1


def test_every_mistake_of_vary_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_vary(["seed", "x=1,,2", "y=[", "z=1", "z=2"])
    assert len(caught.value.problems) == 4
