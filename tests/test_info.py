"""modbridge info: what an issue report needs, and nothing that is nobody's business."""

from __future__ import annotations

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
