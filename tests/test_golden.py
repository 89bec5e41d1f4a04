"""The list of public names: components and their fields, hooks, verbs, classes and functions."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "golden.py"


@pytest.fixture(scope="module")
def golden() -> Any:
    spec = importlib.util.spec_from_file_location("golden", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_public_names_are_those_of_the_list(golden: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """A failure shows what changed, and what to do about it."""
    code = golden.main([])
    told = capsys.readouterr()
    assert code == 0, f"{told.out}\n{told.err}"


def test_a_change_is_shown(
    golden: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "components.json"
    kept.write_text(golden.FILE.read_text(encoding="utf-8").replace('"noise_std": "number', '"noise_sd": "number'))
    monkeypatch.setattr(golden, "FILE", kept)
    assert golden.main([]) == 1
    told = capsys.readouterr()
    assert '-    "noise_sd": "number >= 0.0' in told.out
    assert '+    "noise_std": "number >= 0.0' in told.out
    assert "CHANGELOG.md and run: python tools/golden.py --write" in told.err
    assert golden.main(["--write"]) == 0
    assert golden.main([]) == 0
    assert kept.read_text(encoding="utf-8") == golden.text()
