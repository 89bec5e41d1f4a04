"""`modbridge embed`: vectors made and listed, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file


def test_vectors_are_made_once_and_said_where(call: Any, world: Path, tmp_path: Path) -> None:
    first = call("embed", world, "--json")
    assert first.code == 0, first.err
    rows = first.json["rows"]
    assert {(row["split"], row["side"]) for row in rows} >= {("train", "image"), ("train", "text"), ("test", "image")}
    image = next(row for row in rows if (row["split"], row["side"]) == ("train", "image"))
    assert (image["items"], image["left_out"], image["shards"]) == (24, 0, 1)
    stored = load_file(Path(image["folder"]) / "shard-00000.safetensors")
    assert len(stored["values"]) == len(stored["rows"]) == 24
    again = call("embed", world, "--json")
    assert again.json["rows"] == rows
    assert "making" not in again.err


def test_one_side_of_one_split(call: Any, world: Path) -> None:
    found = call("embed", world, "--split", "train", "--side", "text")
    assert found.code == 0, found.err
    assert found.out.count("\n") == 2
    assert "text vectors of" in found.out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--split", "tran"], "no such split: 'tran' (splits: train, validation, test)"),
        (["--side", "audio"], "no such side: 'audio' (sides: image, text)"),
        (["--split", "validation"], "data.validation: is missing"),
    ],
)
def test_what_is_not_there_is_told(call: Any, world: Path, options: list[str], said: str) -> None:
    found = call("embed", world, *options)
    assert found.code == 1
    assert said in found.err
