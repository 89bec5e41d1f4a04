"""Config files: YAML 1.2 scalars, lines, `extends`, references, and every mistake told at once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from modbridge.config.document import Mark, load_document
from modbridge.errors import ConfigError

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "c.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems(path: Path, *sets: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_document(path, sets=sets)
    assert caught.value.exit_code == 1
    return "\n".join(map(str, caught.value.problems)).replace(f"{path.parent}/", "")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("-12", -12),
        ("0x1F", 31),
        ("0o17", 15),
        ("017", 17),
        (".inf", float("inf")),
        ("true", True),
        ("True", True),
        ("FALSE", False),
        ("on", "on"),
        ("off", "off"),
        ("yes", "yes"),
        ("No", "No"),
        ("null", None),
        ("~", None),
        ("", None),
        ("2024-01-02", "2024-01-02"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("'1e-4'", "1e-4"),
        ("!!str 12", "12"),
        ("!!float 3", 3.0),
        ("cuda:0", "cuda:0"),
        ("[1, two, 3.0]", [1, "two", 3.0]),
        ("ünï", "ünï"),
    ],
)
def test_scalars_follow_yaml_1_2(write: Write, text: str, value: object) -> None:
    got = load_document(write(f"x: {text}\n")).tree["x"]
    assert got == value
    assert type(got) is type(value)


def test_a_key_named_on_is_a_word(write: Write) -> None:
    assert load_document(write("on: 1\nno: 2\n")).tree == {"on": 1, "no": 2}


def test_every_path_knows_its_line(write: Write) -> None:
    path = write("name: a\ndata:\n  train:\n    type: folder\n    path: x\nmetrics:\n  - bleu\n  - type: cider\n")
    document = load_document(path)
    assert document.where("name") == f"{path}:1"
    assert document.where("data.train.path") == f"{path}:5"
    assert document.where(("data", "train")) == f"{path}:3"
    assert document.where("data.train.missing.deeper") == f"{path}:3"
    assert document.where("metrics.1.type") == document.where(("metrics", 1, "type")) == f"{path}:8"
    assert document.where("nowhere") == document.where("") == f"{path}:1"
    assert document.marks["metrics", 0] == Mark(str(path), 7)
    assert document.text == path.read_text()
    assert document.files == [path]


def test_a_dotted_key_keeps_its_own_line(write: Write) -> None:
    path = write("a: 1\nb.c: 2\n")
    assert load_document(path).where("b.c") == f"{path}:2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", ["c.yaml:3: a:", "line 1 and in line 3"]),
        ("x:\n  a: 1\n  a: 2\n", ["c.yaml:3: x.a:", "line 2 and in line 3"]),
        ("", ["c.yaml", "empty"]),
        ("# only a comment\n", ["c.yaml", "empty"]),
        ("- a\n- b\n", ["c.yaml:1", "found a list"]),
        ("word\n", ["c.yaml:1", "found the single value 'word'"]),
        ("a: 1\nx: !!python/object/apply:os.system [ls]\n", ["c.yaml:2: x:", "!!python/object/apply:os.system", "not"]),
        ("a: !mine 3\n", ["c.yaml:1: a:", "!mine"]),
        ("a: !!binary aGk=\n", ["c.yaml:1: a:", "!!binary"]),
        ("a: !!int word\n", ["c.yaml:1: a:", "!!int", "'word'"]),
        ("ok: 1\n1: x\n", ["c.yaml:2", "'1'", 'in quotes: "1"']),
        ("? [a, b]\n: 1\n", ["c.yaml:1", "expected a name as key"]),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", ["c.yaml:3: c.<<:", "merge keys", "extends"]),
        ("a: &x [1, *x]\n", ["c.yaml:1: a.1:", "inside the very value"]),
        ("a: *nothing\n", ["c.yaml:1", "no anchor", "nothing"]),
        ("a:\n\tb: 1\n", ["c.yaml:2", "a tab", "indent with spaces"]),
        ("a: b: c\n", ["c.yaml:1", "in quotes"]),
        ("a:\n    b: 1\n  c: 2\n", ["c.yaml:3", "indentation"]),
        ("a: [1, 2\nb: 3\n", ["c.yaml:2", "brackets"]),
        ("a: 'open\n", ["quot"]),
        ("a: [${b}]\nb: 1\n", ["c.yaml:1", "wants quotes"]),
        ("a: 1\n---\nb: 2\n", ["more than one document"]),
        ("a: 1\nb: x\x01y\n", ["c.yaml:2", "character"]),
        ("a: " + "[" * 5000 + "\n", ["c.yaml", "too deeply"]),
    ],
)
def test_a_mistake_is_told_with_its_line(write: Write, text: str, expected: list[str]) -> None:
    told = problems(write(text))
    for words in expected:
        assert words in told
    assert len(told.splitlines()) == 1


def test_a_file_that_is_no_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"a: \xff\xfe\n")
    assert "UTF-8" in problems(tmp_path / "c.yaml")


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_bytes(b"\xef\xbb\xbfa: 1\n")
    assert load_document(tmp_path / "c.yaml").tree == {"a": 1}


def test_aliases_repeat_a_value_without_sharing_it(write: Write) -> None:
    tree = load_document(write("a: &x {b: [1]}\nc: *x\n")).tree
    assert tree == {"a": {"b": [1]}, "c": {"b": [1]}}
    assert tree["a"]["b"] is not tree["c"]["b"]


def test_an_alias_bomb_is_refused_quickly(write: Write) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    start = time.monotonic()
    assert "aliases" in problems(write("\n".join(lines)))
    assert time.monotonic() - start < 10


def test_a_missing_file_is_named_with_its_neighbours(write: Write, tmp_path: Path) -> None:
    write("a: 1\n", "coco.yaml")
    assert "there is no file coc.yaml (did you mean coco.yaml?)" in problems(tmp_path / "coc.yaml")
    assert "configs in" in problems(tmp_path / "zzzz.yaml")
    assert "no folder" in problems(tmp_path / "no" / "c.yaml")
    assert "is a folder" in problems(tmp_path)


# extends


def test_a_child_is_laid_over_its_parent(write: Write) -> None:
    base = write("name: base\ndata:\n  train: folder\n  size: 3\nmetrics: [bleu, cider]\nnote: x\n", "sub/base.yaml")
    middle = write("extends: sub/base.yaml\nseed: 1\n", "middle.yaml")
    child = write("extends: middle.yaml\ndata:\n  size: 4\nmetrics: [rouge_l]\nnote: null\n")
    document = load_document(child)
    assert document.tree == {
        "name": "base",
        "data": {"train": "folder", "size": 4},
        "metrics": ["rouge_l"],
        "note": None,
        "seed": 1,
    }
    assert document.where("data.train") == f"{base}:3"
    assert document.where("data.size") == f"{child}:3"
    assert document.where("metrics.0") == f"{child}:4"
    assert document.where("seed") == f"{middle}:2"
    assert document.files == [child, middle, base]
    assert document.text == child.read_text()


def test_a_changed_word_inherits_no_field_of_another_component(write: Write) -> None:
    write("bridge:\n  type: diffusion_bridge\n  start_step: 400\n  prior: {type: ddpm, steps: 9}\n", "base.yaml")
    assert load_document(write("extends: base.yaml\nbridge:\n  type: c3\n")).tree == {"bridge": {"type": "c3"}}
    assert load_document(write("extends: base.yaml\nbridge: c3\n")).tree == {"bridge": "c3"}
    same = load_document(write("extends: base.yaml\nbridge:\n  type: diffusion_bridge\n  start_step: 1\n")).tree
    assert same["bridge"] == {"type": "diffusion_bridge", "start_step": 1, "prior": {"type": "ddpm", "steps": 9}}
    inner = load_document(write("extends: base.yaml\nbridge:\n  prior: {type: other}\n")).tree
    assert inner["bridge"] == {"type": "diffusion_bridge", "start_step": 400, "prior": {"type": "other"}}


def test_a_word_is_the_short_form_of_a_block(write: Write) -> None:
    write("bridge: c3\n", "base.yaml")
    document = load_document(write("extends: base.yaml\nbridge:\n  radius: 2\n"))
    assert document.tree == {"bridge": {"type": "c3", "radius": 2}}
    assert document.where("bridge.type").endswith("base.yaml:1")
    changed = load_document(write("extends: base.yaml\nbridge:\n  type: noise\n  std: 1\n")).tree
    assert changed == {"bridge": {"type": "noise", "std": 1}}


def test_a_missing_parent_names_both_files(write: Write) -> None:
    write("a: 1\n", "base.yaml")
    told = problems(write("name: x\nextends: bose.yaml\n"))
    assert told == "c.yaml:2: extends: there is no file bose.yaml (did you mean base.yaml?)"


def test_circles_of_parents_are_refused(write: Write) -> None:
    write("extends: c.yaml\n", "b.yaml")
    told = problems(write("extends: b.yaml\n"))
    assert "b.yaml:1: extends:" in told
    assert "c.yaml -> b.yaml -> c.yaml" in told
    assert "circle" in problems(write("extends: self.yaml\n", "self.yaml"))


def test_extends_takes_one_file(write: Write) -> None:
    assert "c.yaml:1: extends: expected the path of one other file" in problems(write("extends: [a.yaml, b.yaml]\n"))


def test_a_mistake_in_a_parent_is_told_where_it_stands(write: Write) -> None:
    write("a: 1\na: 2\nb: ${nothing}\n", "base.yaml")
    told = problems(write("extends: base.yaml\nc: 1\nc: 2\n"))
    assert "base.yaml:2: a:" in told
    assert "c.yaml:3: c:" in told
    assert "base.yaml:3: b:" in told


# references


def test_references_keep_their_type_or_become_text(write: Write) -> None:
    text = "seed: 3\nrate: 1e-4\nflag: true\ncells: [{name: n}]\nz: '${seed}'\na: ${ rate }\nb: ${flag}\n"
    text += "text: s${seed}-${flag}-${cells.0.name}\nchain: <${text}>\ninner: ['${seed}', {x: '${chain}'}]\n"
    tree = load_document(write(text)).tree
    assert tree["z"] == 3
    assert tree["a"] == 1e-4
    assert tree["b"] is True
    assert tree["text"] == "s3-true-n"
    assert tree["chain"] == "<s3-true-n>"
    assert tree["inner"] == [3, {"x": "<s3-true-n>"}]


def test_two_dollars_stand_for_one(write: Write) -> None:
    assert load_document(write("a: $${b} costs $5\nb: 1\nc: ${a}\n")).tree["c"] == "${b} costs $5"


def test_references_see_the_merged_tree(write: Write) -> None:
    write("root: base\npath: ${root}/x\n", "base.yaml")
    child = write("extends: base.yaml\nroot: child\n")
    assert load_document(child).tree["path"] == "child/x"
    assert load_document(child, sets=["root=set"]).tree["path"] == "set/x"


def test_paths_without_a_value_are_to_be_given(write: Write) -> None:
    path = write(
        "paths:\n  data:\n  other: null\n  coco: ${paths.data}/coco\nx: ${paths.coco}/train\ny: ${paths.data}\n"
    )
    document = load_document(path)
    assert document.to_be_given == ["paths.data", "paths.other"]
    assert document.tree["x"] == "${paths.data}/coco/train"
    assert document.tree["y"] == "${paths.data}"
    given = load_document(path, sets=["paths.data=/d"])
    assert given.tree["x"] == "/d/coco/train"
    assert given.to_be_given == ["paths.other"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("paths: {data: x}\ny: ${paths.date}/z\n", ["c.yaml:2: y:", "${paths.date} names nothing", "${paths.data}?"]),
        ("paths: {data: x}\ny: ${data}\n", ["did you mean ${paths.data}?"]),
        ("name: ${nam}\n", ["name: ${nam} names nothing", "dotted path"]),
        ("y: ${HOME}\n", ["${HOME} names nothing", "dotted path"]),
        ("a: {b: 1}\ny: ${a}\n", ["names a block", "a.b"]),
        ("y: x${oops\n", ["is not closed", "$${"]),
        ("a: null\ny: x-${a}\n", ["c.yaml:2: y:", "no value"]),
        ("y: ${}\n", ["names nothing"]),
    ],
)
def test_a_wrong_reference_is_told(write: Write, text: str, expected: list[str]) -> None:
    told = problems(write(text))
    for words in expected:
        assert words in told
    assert len(told.splitlines()) == 1


def test_a_circle_of_references_is_told_once(write: Write) -> None:
    told = problems(write("a: ${b}\nb: x${c}\nc: ${a}\nd: ${a}\n"))
    assert len(told.splitlines()) == 1
    assert "a -> b -> c -> a" in told
    assert "a -> a" in problems(write("a: ${a}\n"))


def test_references_cannot_blow_up(write: Write) -> None:
    lines = ["a0: xxxxxxxxxx"] + [f"a{i}: " + f"${{a{i - 1}}}" * 10 for i in range(1, 12)]
    assert "expand to more than" in problems(write("\n".join(lines)))
    many = "\n".join(["b0: 1"] + [f"b{i}: ${{b{i - 1}}}" for i in range(1, 3000)])
    assert load_document(write(many)).tree["b2999"] == 1
    backwards = "\n".join([f"b{i}: ${{b{i + 1}}}" for i in range(3000)])
    assert "too many others" in problems(write(backwards + "\nb3000: 1"))


# profiles, variants and all at once


def test_a_profile_then_a_variant_is_laid_over_the_rest(write: Write) -> None:
    text = "seed: 1\nbridge: {type: a, x: 1}\nname: n${seed}\nvariants:\n  two:\n    seed: 2\n    bridge: {type: b}\n"
    path = write(
        text + "  plain:\nprofiles:\n  tiny:\n    seed: 7\n    size: 1\n    variants: {two: {bridge: {y: 9}}}\n"
    )
    two = load_document(path, variant="two")
    assert two.tree["bridge"] == {"type": "b"}
    assert two.tree["name"] == "n2"
    assert two.where("bridge.type") == f"{path}:7"
    assert load_document(path, variant="plain").tree["name"] == "n1"
    tiny = load_document(path, profile="tiny")
    assert (tiny.tree["name"], tiny.tree["size"], tiny.where("size")) == ("n7", 1, f"{path}:12")
    both = load_document(path, profile="tiny", variant="two").tree
    assert (both["name"], both["size"], both["bridge"]) == ("n2", 1, {"type": "b", "y": 9})
    assert load_document(path, variant="two", sets=["seed=3"]).tree["name"] == "n2"  # the variant says its own
    assert load_document(path, variant="two", sets=["seed=3"], point=["seed=4"]).tree["name"] == "n4"
    with pytest.raises(ConfigError, match=r"c\.yaml:4: variants: hold no 'tow' \(did you mean 'two'\?\)"):
        load_document(path, variant="tow")
    with pytest.raises(ConfigError, match="there are: none"):
        load_document(write("a: 1\n"), profile="tiny")


def test_of_several_profiles_the_later_wins(write: Write) -> None:
    path = write("a: 1\nb: 1\nprofiles:\n  one: {a: 2, b: 2}\n  two: {b: 3}\n")
    for profiles, a, b in [("one,two", 2, 3), ("two,one", 2, 2), ("two", 1, 3)]:
        tree = load_document(path, profile=profiles).tree
        assert (tree["a"], tree["b"]) == (a, b)
    with pytest.raises(ConfigError, match="hold no 'three'"):
        load_document(path, profile="one,three")


def test_ten_mistakes_are_told_at_once(write: Write) -> None:
    text = (
        "a: 1\na: 2\n3: x\nb: !mine y\nc: ${nope}\nd: ${e}\ne: ${d}\nf: x${open\ng: {<<: {h: 1}}\npaths: {data: z}\n"
        "i: ${paths.dota}\n"
    )
    sets = ["nothing", "a.b=1", "j=[1", "k..l=2"]
    told = problems(write(text), *sets).splitlines()
    assert len(told) == 12
    places = [line.split(": ")[0] for line in told]
    assert sorted(set(places)) == sorted([*(f"c.yaml:{line}" for line in (2, 3, 4, 5, 7, 8, 9, 11)), "--set"])
    with pytest.raises(ConfigError, match="12 mistakes in the config"):
        load_document(write(text), sets=sets)
