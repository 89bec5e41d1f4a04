"""Every distribution says that it is MIT, and has the text."""

from __future__ import annotations

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
LICENCE = (ROOT / "LICENSE").read_text("utf-8")
PROJECTS = sorted(path.parent for path in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml")))
PROJECTS += sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))


def project(folder: Path) -> dict[str, object]:
    return dict(tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"])


@pytest.mark.parametrize("folder", PROJECTS, ids=lambda folder: folder.name)
def test_a_distribution_has_the_licence(folder: Path) -> None:
    told = project(folder)
    assert told["license"] == "MIT"
    assert told["license-files"] == ["LICENSE"]
    text = (folder / "LICENSE").read_text("utf-8")
    assert text.startswith("MIT License\n")
    if "examples" not in folder.parts:
        assert text == LICENCE


def test_what_is_installed_says_so_too() -> None:
    names = [str(project(folder)["name"]) for folder in PROJECTS if "examples" not in folder.parts]
    for name in set(names) - {"modbridge-laion-clap"}:
        found = metadata.metadata(name)
        assert found["License-Expression"] == "MIT"
        assert found.get_all("License-File") == ["LICENSE"]


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert (citation["cff-version"], citation["license"]) == ("1.2.0", "MIT")
    assert str(citation["version"]) == project(ROOT)["version"] == metadata.version("modbridge")
    assert citation["authors"]
    assert citation["title"].startswith("modbridge")
