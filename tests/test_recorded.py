"""Captions made elsewhere, in the place of a decoder: scored as a run's own are, in one table with them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from modbridge.errors import DataError
from modbridge.spaces import Embeddings
from modbridge.testing import build, build_config, toy_embeddings, toy_port

Call = Callable[..., Any]
ITEMS = [f"{number:03d}" for number in range(24, 33)]  # of the world's test set


def written(path: Path, lines: list[Any]) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def captions(path: Path, texts: Mapping[str, str]) -> Path:
    return written(path, [{"key": key, "text": text} for key, text in texts.items()])


def decoder(path: Path) -> Any:
    return build("decoder", {"type": "recorded", "path": str(path)})


def rows(done: Any) -> list[dict[str, Any]]:
    assert done.code == 0, done.err
    found: list[dict[str, Any]] = done.json["rows"]
    return found


# --- in a run


@pytest.fixture
def said(tmp_path: Path) -> Path:
    """For each test item the colour that it is: its first caption, word by word."""
    colours = ("red", "green", "blue")
    return captions(tmp_path / "said.jsonl", {key: f"a {colours[int(key) % 3]} picture" for key in ITEMS})


def test_it_stands_in_a_table_beside_a_decoder_of_the_run(call: Call, world: Path, tmp_path: Path) -> None:
    wrong = captions(tmp_path / "wrong.jsonl", {key: f"a wrong picture {key}" for key in reversed(ITEMS)})
    variants = f"variants:\n  ours: {{}}\n  theirs: {{decoder: {{type: recorded, path: {wrong}}}}}\n"
    world.write_text(world.read_text("utf-8") + variants, encoding="utf-8")
    ours, theirs = rows(call("run", world, "--out", tmp_path / "run", "--json"))
    assert ours["bleu_1"] == pytest.approx(1.0)  # it recites the items' colours
    assert theirs["bleu_1"] == pytest.approx(2 / 4)  # "a" and "picture"
    assert [row["training"].split(",")[0] for row in (ours, theirs)] == ["captioner text-only", "captioner untrained"]
    lines = (tmp_path / "run" / "predictions.jsonl").read_text("utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines][len(ITEMS) :] == [f"a wrong picture {key}" for key in ITEMS]


def test_another_text_in_the_file_is_another_row(call: Call, world: Path, said: Path, tmp_path: Path) -> None:
    def run(path: Path, out: str) -> tuple[float, str]:
        sets = ("--set", f"decoder={{type: recorded, path: {path}}}", "--cache", tmp_path / "cache")
        done = call("run", world, "--out", tmp_path / out, "--json", *sets)
        return rows(done)[0]["bleu_1"], done.err

    assert run(said, "one")[0] == pytest.approx(1.0)
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(said.read_bytes())
    again, told = run(copy, "two")
    assert again == pytest.approx(1.0)
    assert "0 stages done" in told
    captions(said, dict.fromkeys(ITEMS, "something else altogether"))
    assert run(said, "three")[0] == pytest.approx(0.0, abs=1e-6)


def test_the_predictions_of_another_run_are_such_a_file(call: Call, world: Path, tmp_path: Path) -> None:
    first = rows(call("run", world, "--out", tmp_path / "one", "--json"))[0]
    repeated = f"decoder={{type: recorded, path: {tmp_path / 'one' / 'predictions.jsonl'}}}"
    second = rows(call("run", world, "--out", tmp_path / "two", "--json", "--set", repeated))[0]
    for column in ("bleu_1", "bleu_4", "cider"):
        assert second[column] == first[column]


def test_a_file_that_is_not_there_is_told_at_check(call: Call, world: Path, tmp_path: Path) -> None:
    done = call("check", world, "--set", f"decoder={{type: recorded, path: {tmp_path}/none.jsonl}}")
    assert done.code == 1
    assert "decoder: " in done.err
    assert "none.jsonl: no such file; give the `path` of a .jsonl or .jsonl.gz file" in " ".join(done.err.split())


def test_items_without_a_caption_are_told(call: Call, world: Path, tmp_path: Path) -> None:
    some = captions(tmp_path / "some.jsonl", dict.fromkeys([*ITEMS[:4], "other"], "a picture"))
    done = call("run", world, "--out", tmp_path / "run", "--set", f"decoder={{type: recorded, path: {some}}}")
    assert done.code == 1
    told = " ".join(done.err.split())
    assert "has no caption of 5 of 9 items that were asked for at once: the first is '028'" in told
    assert "It has 5 captions, the first of '024'." in told


# --- the file


@pytest.mark.parametrize("name", ["c.jsonl", "c.jsonl.gz"])
def test_captions_are_those_of_their_keys(tmp_path: Path, name: str) -> None:
    lines = [
        {"key": "image5", "text": " five,\nin two lines ", "score": -1.5, "details": {}},
        "",
        {"key": "image0", "text": ""},
        *({"key": f"image{number}", "text": f"item {number}"} for number in (1, 2, 3, 4)),
        {"key": 7, "text": "of a whole number"},
    ]
    asked = toy_embeddings(6, modality="image")
    reader = decoder(written(tmp_path / name, lines))
    found = reader.decode(asked)
    assert [one.key for one in found] == list(asked.keys)
    assert [one.text for one in found] == ["", "item 1", "item 2", "item 3", "item 4", " five,\nin two lines "]
    assert reader.captions["7"] == "of a whole number"


def test_sequences_of_any_length_are_taken(tmp_path: Path) -> None:
    path = captions(tmp_path / "c.jsonl", {"a": "first", "b": "second"})
    block = {"type": "recorded", "path": str(path)}
    for ragged in (False, True):
        port = toy_port().changed(tokens=3, ragged=ragged)
        build_config("decoder", block).check(port)
        mask = torch.tensor([[True, True, False], [True, True, True]]) if ragged else None
        values = torch.ones(2, 3, 16) if mask is None else torch.ones(2, 3, 16) * mask[..., None]
        reader: Any = build("decoder", block, ports={"text": port})
        assert [one.text for one in reader.decode(Embeddings(values, port, ("b", "a"), mask=mask))] == [
            "second",
            "first",
        ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"text": "a"}, r"c.jsonl:2: no field 'key'; found 'text'"),
        ({"key": "b"}, r"c.jsonl:2: the field 'text' is missing; expected the item's caption"),
        ({"key": "b", "text": None}, r"c.jsonl:2: the field 'text' holds None; expected the item's caption"),
        ({"key": "b", "text": ["x"]}, r"c.jsonl:2: the field 'text' holds \['x'\]"),
        ({"key": 1.5, "text": "x"}, r"c.jsonl:2: the field 'key' holds 1.5"),
        ({"key": "a", "text": "x"}, r"c.jsonl:2: a second caption of 'a', after .*c.jsonl:1; expected one of each"),
        ("{nonsense", r"c.jsonl:2: not JSON"),
        ("[1]", r"c.jsonl:2: expected an object"),
    ],
)
def test_bad_lines_are_told(tmp_path: Path, line: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        decoder(written(tmp_path / "c.jsonl", [{"key": "a", "text": "said"}, line]))


def test_a_file_without_captions_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds no captions; expected \{\"key\""):
        decoder(written(tmp_path / "c.jsonl", [""]))
