"""What `modbridge new-plugin` writes runs, keeps the promises of its kinds and passes ruff at once."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import yaml

from modbridge.plugins.manager import Plugins
from modbridge.plugins.registry import KINDS
from modbridge.scaffold import Package
from modbridge.testing.conformance import find_trial, run

SETS = [*((kind,) for kind in KINDS), ("encoder", "bridge"), ("source", "bridge", "decoder", "metric"), KINDS]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Make a written package importable and its entry point known, as installing it would."""

    def put(folder: Path) -> None:
        about = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
        info = folder / f"{about['name'].replace('-', '_')}-{about['version']}.dist-info"
        info.mkdir()
        needs = "".join(f"Requires-Dist: {line}\n" for line in about["dependencies"])
        head = f"Metadata-Version: 2.1\nName: {about['name']}\nVersion: {about['version']}\n{needs}"
        (info / "METADATA").write_text(head, encoding="utf-8")
        points = "".join(f"{key} = {value}\n" for key, value in about["entry-points"]["modbridge"].items())
        (info / "entry_points.txt").write_text(f"[modbridge]\n{points}", encoding="utf-8")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setenv("PYTHONPATH", str(folder))  # the check of a light import asks a fresh process
        importlib.invalidate_caches()

    return put


def written(call: Callable[..., Any], name: str, kinds: Iterable[str]) -> tuple[Path, Any]:
    done = call("new-plugin", name, "--kinds", ",".join(kinds), toy=False)
    assert done.code == 0, done.err
    return Path(name).resolve(), done


def name_of(kinds: Sequence[str]) -> str:
    """A name for each set, since a module that was imported stays imported."""
    return "made-" + "".join(kind[0] for kind in kinds) if len(kinds) > 1 else f"made-{kinds[0]}"


@pytest.mark.parametrize("kinds", SETS, ids=lambda kinds: "-".join(kinds) if len(kinds) < len(KINDS) else "all")
def test_a_new_plugin_runs_at_once(
    call: Callable[..., Any], install: Callable[[Path], None], kinds: tuple[str, ...]
) -> None:
    folder, _ = written(call, name_of(kinds), kinds)
    install(folder)
    module = folder.name.replace("-", "_")
    info = next(info for info in Plugins.discover().infos if info.name == module)
    assert (info.status, info.distribution, info.version) == ("loaded", folder.name, "0.1.0"), info.error
    assert {f"{kind}:{module}_{kind}" for kind in kinds} <= set(info.components)
    done = call("run", folder / "pipeline.yaml", "--out", "run", "--json", "--quiet", toy=False)
    assert done.code == 0, done.err
    assert len(Path("run/predictions.jsonl").read_text("utf-8").splitlines()) == 60
    used = json.dumps(yaml.safe_load((folder / "pipeline.yaml").read_text("utf-8")))
    parts = [name for name in info.components if not name.startswith("engine:")]  # an engine is no part of a config
    assert all(f"{module}_{name.partition(':')[0]}" in used for name in parts)


@pytest.mark.parametrize("kinds", [KINDS, ("encoder", "bridge", "decoder")], ids=["all", "plain"])
def test_a_new_plugin_keeps_its_promises(
    call: Callable[..., Any], install: Callable[[Path], None], kinds: tuple[str, ...]
) -> None:
    name = "kept-" + "".join(kind[0] for kind in kinds)
    folder, _ = written(call, name, kinds)
    install(folder)
    outcomes = list(run(find_trial(name.replace("-", "_"))))
    assert len(outcomes) > 10
    assert [str(outcome) for outcome in outcomes if outcome.status == "failed"] == []


@pytest.mark.parametrize("name", ["xy", "a-plugin-with-rather-a-long-name"])
def test_what_is_written_passes_ruff(call: Callable[..., Any], name: str) -> None:
    folder, _ = written(call, name, KINDS)
    plain, _ = written(call, f"{name[:20]}-b", ("encoder", "bridge", "decoder"))
    for where in (folder, plain):
        for verb in (["check", "--no-cache"], ["format", "--check", "--no-cache"]):
            done = subprocess.run(
                [sys.executable, "-m", "ruff", *verb, "."], cwd=where, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stdout


def test_parts_stay_short(call: Callable[..., Any]) -> None:
    for kinds in (("encoder", "bridge"), ("prior", "encoder")):
        folder, _ = written(call, f"short-{kinds[0]}", kinds)
        module = folder / folder.name.replace("-", "_")
        assert len((module / "bridge.py").read_text("utf-8").splitlines()) <= 40
        assert len((module / "encoder.py").read_text("utf-8").splitlines()) <= 60


def test_files_are_told_and_parts_that_others_need_are_added(call: Callable[..., Any]) -> None:
    folder, done = written(call, "with-prior", ["prior", "vocabulary"])
    paths = sorted(str(path.relative_to(folder.parent)) for path in folder.rglob("*") if path.is_file())
    assert sorted(done.out.splitlines()) == paths
    assert "bridge, decoder" in done.err
    assert {"with-prior/with_prior/bridge.py", "with-prior/with_prior/decoder.py"} <= set(paths)
    assert {"with-prior/.github/workflows/test.yml", "with-prior/LICENSE", "with-prior/README.md"} <= set(paths)
    workflow = yaml.safe_load((folder / ".github/workflows/test.yml").read_text("utf-8"))
    assert any("pytest" in step.get("run", "") for step in workflow["jobs"]["test"]["steps"])
    about = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    assert about["entry-points"]["modbridge"] == {"with_prior": "with_prior.plugin"}
    assert (about["license"], about["dependencies"]) == ("MIT", ["modbridge>=0.1,<0.2"])
    assert "Permission is hereby granted" in (folder / "LICENSE").read_text("utf-8")


def test_nothing_of_the_template_is_left_in_any_file() -> None:
    """And every template is used."""
    seen: set[str] = set()
    for kinds in SETS:
        for path, text in Package.of("other-name", kinds).files().items():
            left = re.findall("my.plugin|MyPlugin|kindword|FIRST_KIND|A_LIST|A_TABLE|EXAMPLE|_VERSION", text)
            assert left == [], path
            seen.add(text)
    titles = {text.splitlines()[0] for text in seen if text}
    for template in (files("modbridge.scaffold") / "template" / "parts").iterdir():
        assert template.read_text("utf-8").splitlines()[0] in titles, template.name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("My-Plugin", "is no package name"),
        ("2fast", "is no package name"),
        ("-x", None),
        ("a--b", "is no package name"),
        ("a/b", "is no package name"),
        ("../x", "is no package name"),
        ("", "is no package name"),
        ("x" * 33, "is no package name"),
        ("class", "is a word of Python's own"),
        ("json", "is the name of a package that is here already"),
        ("torch", "is the name of a package that is here already"),
        ("modbridge", "is the name of a package that is here already"),
        ("modbridge-clip", "is the name of a package that is here already"),
        ("captioning", "is the name of a plugin that is here already"),
        ("tests", "is the name of the folder of its own tests"),
    ],
)
def test_names_that_cannot_be(call: Callable[..., Any], tmp_path: Path, name: str, reason: str | None) -> None:
    before = sorted(tmp_path.iterdir())
    done = call("new-plugin", name, toy=False)
    assert done.code == (1 if reason else 2)  # a dash makes it an option
    assert (reason or "No such option") in done.err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("kinds", ["bridges", "bridge,metrics", "", ","])
def test_unknown_kinds(call: Callable[..., Any], kinds: str) -> None:
    done = call("new-plugin", "fine", "--kinds", kinds, toy=False)
    assert done.code == 1
    assert "kinds: encoder, prior, bridge, decoder, source, vocabulary, metric, engine, objective" in done.err
    assert not Path("fine").exists()


def test_nothing_is_written_over(call: Callable[..., Any], tmp_path: Path) -> None:
    kept = tmp_path / "there" / "notes.txt"
    kept.parent.mkdir()
    kept.write_text("mine", encoding="utf-8")
    for out in (kept.parent, kept):
        done = call("new-plugin", "fine", "--out", out, toy=False)
        assert done.code == 1
        assert "nothing was written" in done.err
    assert [path.name for path in kept.parent.iterdir()] == ["notes.txt"]
    kept.unlink()
    assert call("new-plugin", "fine", "--out", kept.parent, toy=False).code == 0
    assert (kept.parent / "fine" / "bridge.py").is_file()
