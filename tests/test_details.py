"""What a decoder tells of a caption: on the command line and in the report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modbridge.details import entities_html, explained

Call = Callable[..., Any]

FOUND = {
    "entities": [
        {"name": "red <b>", "score": 0.91251, "kept": True},
        {"name": "fish & chips", "score": 0.1, "kept": False},
    ],
    "prompt": "There are red <b> in image.",
}
# A decoder that tells of every caption what FOUND says, and recites as the toy does.
PLUGIN = f"""\
import json
from dataclasses import replace

from modbridge.plugins import ComponentSpec, hookimpl
from modbridge_file_toy_plugin import Recite, ReciteConfig


class TellingConfig(ReciteConfig):
    pass


class Telling(Recite):
    def decode_batch(self, bridged, source, keys, seed):
        found = json.loads({json.dumps(FOUND)!r})
        return [replace(one, details=found) for one in super().decode_batch(bridged, source, keys, seed)]


@hookimpl
def modbridge_components(register):
    here = "modbridge_file_telling_plugin"
    register(ComponentSpec(kind="decoder", name="telling", config=f"{{here}}:TellingConfig", impl=f"{{here}}:Telling",
                           summary="tells"))
"""


def test_each_known_detail_has_a_line() -> None:
    assert explained({**FOUND, "retrieved": ["a red one", "it's red"], "other": 3}) == [
        "entities     red <b> 0.913, fish & chips 0.100 (left out)",
        "prompt       'There are red <b> in image.'",
        "retrieved    'a red one'",
        'retrieved    "it\'s red"',
    ]


def test_nothing_told_gives_no_line_but_nothing_found_gives_one() -> None:
    assert explained({}) == explained({"other": 3}) == []
    assert explained({"entities": []}) == ["entities     none"]
    assert entities_html({}) == entities_html({"entities": [], "prompt": "<p>"}) == ""


def test_entities_are_marked_and_escaped() -> None:
    assert entities_html(FOUND) == "<mark>red &lt;b&gt; 0.91</mark> <s>fish &amp; chips 0.10</s>"


@pytest.fixture
def telling(call: Call, world: Path, tmp_path: Path) -> Callable[..., Any]:
    """Call `modbridge ARGS` with the telling decoder beside the toy's."""
    plugin = tmp_path / "telling_plugin.py"
    plugin.write_text(PLUGIN, encoding="utf-8")
    world.write_text(world.read_text().replace("type: toy_recite", "type: telling"), encoding="utf-8")
    return lambda *arguments: call(*arguments, "--plugin", Path(__file__).parent / "toy_plugin.py", "--plugin", plugin,
                                   toy=False)  # fmt: skip


def test_a_run_tells_and_explains(telling: Call, world: Path, tmp_path: Path) -> None:
    result = telling("run", world, "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err

    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert report.count("<mark>red &lt;b&gt; 0.91</mark> <s>fish &amp; chips 0.10</s>") == 9
    assert "red <b>" not in report

    red = tmp_path / "red.png"
    Image.new("RGB", (8, 8), (230, 20, 20)).save(red)
    plain = telling("caption", "--run", tmp_path / "run", red, red)
    assert plain.code == 0, plain.err
    caption, again = plain.out.splitlines()
    assert caption == again
    assert "entities" not in plain.out

    told = telling("caption", "--run", tmp_path / "run", "--explain", red, red).out.splitlines()
    assert told[: len(told) // 2] == told[len(told) // 2 :]
    assert told[0] == caption
    assert told[1:3] == [f"  {line}" for line in explained(FOUND)]
    assert "distance to text mean" in told[3]

    (row,) = telling("caption", "--run", tmp_path / "run", "--explain", "--json", red).json["rows"]
    assert row["caption"] == caption
    assert row["details"] == FOUND
    (row,) = telling("caption", "--run", tmp_path / "run", "--json", red).json["rows"]
    assert row == {"file": str(red), "caption": caption}


def test_a_decoder_that_tells_nothing_is_explained_by_its_bridge_alone(call: Call, world: Path, tmp_path: Path) -> None:
    assert call("run", world, "--out", tmp_path / "run").code == 0
    report = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "<mark>" not in report
    image = tmp_path / "world" / "images" / "025.png"
    caption, *lines = call("caption", "--run", tmp_path / "run", "--explain", image).out.splitlines()
    assert caption
    assert lines
    assert all("distance to text mean" in line for line in lines)
    (row,) = call("caption", "--run", tmp_path / "run", "--explain", "--json", image).json["rows"]
    assert row["details"] == {}
