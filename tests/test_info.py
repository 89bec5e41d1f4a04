"""modbridge info and doctor: what an issue report needs, and what is missing."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest


def test_info_names_versions_devices_and_plugins(call: Callable[..., Any]) -> None:
    rows = {row["what"]: row["found"] for row in call("info", "--json").json["rows"]}
    assert rows["modbridge"] == metadata.version("modbridge")
    assert rows["torch"] == metadata.version("torch")
    assert rows["devices"].startswith("cpu")
    assert rows["plugin toy_plugin"] == "a file, loaded"
    assert rows["plugin builtin"] == f"modbridge {metadata.version('modbridge')}, loaded"


def test_info_as_markdown_is_one_table(call: Callable[..., Any]) -> None:
    head, line, *rows = call("info", "--markdown").out.splitlines()
    assert (head, line) == ("| what | found |", "|---|---|")
    assert all(row.replace("\\|", "").count("|") == 3 for row in rows)


def test_a_broken_plugin_is_told_in_one_cell_without_the_home_folder(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MODBRIDGE_SECRET", "a-value")
    broken = tmp_path / "broken.py"
    broken.write_text(f"raise RuntimeError('no | in {tmp_path}\\nand a second line')\n", "utf-8")
    result = call("info", "--markdown", "--plugin", broken)
    row = next(row for row in result.out.splitlines() if row.startswith("| plugin broken "))
    assert "broken: " in row
    assert "no \\| in ~ and a second line" in row
    assert str(tmp_path) not in result.out
    assert "MODBRIDGE_SECRET" in result.out
    assert "a-value" not in result.out


def test_the_doctor_says_how_to_get_what_is_missing(call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from modbridge.cli import doctor

    monkeypatch.setattr(doctor, "EXTRAS", (("a thing", ("no_such_module",), "thing"),))
    result = call("doctor", "--json")
    rows = {row["what"]: row for row in result.json["rows"]}
    assert rows["a thing: no_such_module"]["advice"] == "pip install 'modbridge[thing]'"
    assert result.code == 0  # nothing that is needed


@pytest.mark.parametrize("missing", [True, False])
def test_a_torchvision_that_does_not_load_is_told_but_its_absence_is_fine(
    missing: bool, call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from modbridge.cli import doctor

    monkeypatch.setattr(doctor, "find_spec", lambda name: None if missing and name == "torchvision" else name)
    monkeypatch.setitem(sys.modules, "torchvision", None)  # an import of it raises ImportError
    result = call("doctor", "--json")
    row = next(row for row in result.json["rows"] if row["what"].startswith("torch "))
    assert (result.code, row["there"]) == ((0, True) if missing else (4, False))
    assert missing or "matching pair" in row["advice"]
