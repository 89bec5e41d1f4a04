"""Discovery: light, whole or not at all, and never stopped by one broken plugin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modbridge.errors import ConfigError, DataError
from modbridge.plugins.manager import Candidate, Plugins, from_file

GOOD = """
from modbridge.plugins import ComponentSpec, hookimpl

@hookimpl
def modbridge_components(register):
    register(ComponentSpec(kind="bridge", name="{name}", config="x:Y", impl="x:Z", summary="s"))
"""


def plugin(folder: Path, stem: str, text: str) -> Path:
    path = folder / f"{stem}.py"
    path.write_text(text, encoding="utf-8")
    return path


def status(plugins: Plugins) -> dict[str, str]:
    return {info.name: info.status for info in plugins.infos}


def load(*files: Path) -> Plugins:
    plugins = Plugins()
    for file in files:
        plugins.load(from_file(file))
    return plugins


def test_every_workspace_plugin_is_found_and_whole() -> None:
    found = status(Plugins.discover(environ={}))
    assert found == dict.fromkeys(
        ("builtin", "demo", "captioning", "clap", "clip", "diffusion", "metrics", "ray", "viecap", "vlv"), "loaded"
    )


def test_listing_plugins_imports_nothing_heavy() -> None:
    code = (
        "import sys, modbridge\nfrom modbridge.cli import main\ncode = main(['plugins', '--json'])\n"
        "heavy = {'torch', 'transformers', 'pydantic', 'numpy', 'open_clip', 'rich'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)\nsys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "diffusion" in {row["name"] for row in json.loads(done.stdout)["rows"]}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise RuntimeError('no good')", "RuntimeError: no good"),
        ("import nowhere_to_be_found", "nowhere_to_be_found"),
        ("import sys; sys.exit(3)", "SystemExit"),
        ("def f(:", "SyntaxError"),
        (GOOD.format(name="new").replace("(register)", "(register, surprise)"), "surprise"),
        (GOOD.format(name="new").replace('"bridge"', '"bridges"'), "bridges"),
        (GOOD.format(name="new").replace("modbridge_components", "modbridge_componets"), "modbridge_componets"),
        (GOOD.format(name="new") + "    raise ValueError('half way')", "half way"),
    ],
)
def test_a_broken_plugin_is_told_and_the_others_work(tmp_path: Path, text: str, reason: str) -> None:
    plugins = load(
        plugin(tmp_path, "first", GOOD.format(name="one")),
        plugin(tmp_path, "bad", text),
        plugin(tmp_path, "last", GOOD.format(name="two")),
    )
    assert status(plugins) == {"first": "loaded", "bad": "broken", "last": "loaded"}
    assert reason in next(info.error for info in plugins.infos if info.name == "bad")
    assert plugins.registry.names("bridge") == ["one", "two"]
    with pytest.raises(ConfigError, match="the plugin 'bad' is broken"):
        plugins.registry.get("bridge", "three")


def test_the_second_claim_to_a_name_is_refused_whole(tmp_path: Path) -> None:
    lines = GOOD.format(name="fresh").rstrip().split("\n")
    double = "\n".join([*lines, lines[-1].replace("fresh", "one")])
    plugins = load(plugin(tmp_path, "a", GOOD.format(name="one")), plugin(tmp_path, "b", double))
    assert status(plugins)["b"] == "broken"
    error = plugins.infos[1].error
    assert "'a'" in error
    assert "'b'" in error
    assert plugins.registry.names("bridge") == ["one"]


def test_names_once_more_in_one_plugin_are_refused(tmp_path: Path) -> None:
    lines = GOOD.format(name="one").rstrip().split("\n")
    plugins = load(plugin(tmp_path, "twice", "\n".join([*lines, lines[-1]])))
    assert status(plugins) == {"twice": "broken"}
    assert plugins.registry.names("bridge") == []


def test_allow_and_deny_lists() -> None:
    allowed = status(Plugins.discover(environ={"MODBRIDGE_PLUGINS": "builtin, clip"}))
    assert {name for name, state in allowed.items() if state == "loaded"} == {"builtin", "clip"}
    denied = Plugins.discover(environ={"MODBRIDGE_DISABLE": "diffusion"})
    assert status(denied)["diffusion"] == "disabled"
    with pytest.raises(ConfigError, match="provided by modbridge-diffusion"):
        denied.registry.get("bridge", "diffusion_bridge")


def test_close_names_are_offered() -> None:
    with pytest.raises(ConfigError, match="did you mean 'mean_shift'"):
        Plugins.discover(environ={}).registry.get("bridge", "meanshift")


def test_a_missing_plugin_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected an existing \.py file"):
        Plugins.discover([tmp_path / "none.py"], environ={})


def test_an_observer_that_raises_is_told_once_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (
        "from modbridge.plugins import hookimpl\nseen = []\n"
        "@hookimpl\ndef modbridge_event(event):\n    seen.append(event['name'])\n    raise RuntimeError('oops')\n"
    )
    plugins = load(plugin(tmp_path, "watcher", text))
    plugins.event("log", loss=1.0)
    plugins.event("log", loss=2.0)
    assert capsys.readouterr().err.count("watcher") == 1


def test_entry_points_that_cannot_load_are_candidates_like_others() -> None:
    def boom() -> object:
        raise ImportError("gone")

    plugins = Plugins()
    info = plugins.load(Candidate("ghost", "ghost-dist", "1.0", boom))
    assert info.status == "broken"
    assert info.error.startswith("ImportError: gone (test_plugins.py, line ")


def test_what_lives_in_an_environment_of_its_own_is_not_recommended_to_pip() -> None:
    with pytest.raises(ConfigError) as caught:
        Plugins.discover(environ={}).registry.get("encoder", "laion_clap")
    assert "an environment of its own" in str(caught.value)
    assert "pip install" not in str(caught.value)


def test_results_of_a_changed_file_are_not_taken_for_its_own(tmp_path: Path) -> None:
    def identity(stem: str, text: str) -> list[str | int]:
        plugins = load(plugin(tmp_path, stem, text))
        return plugins.registry.get("bridge", "one").identity

    text = GOOD.format(name="one")
    first = identity("mine", text)
    assert identity("mine", text) == first
    assert identity("mine", text + "# another state\n") != first
    assert identity("yours", text) != first


def test_results_are_kept_apart_by_plugin_and_revision() -> None:
    of = {spec.name: spec.identity for spec in Plugins.discover(environ={}).registry if spec.kind == "bridge"}
    assert of["identity"] == ["builtin", "identity", 1, ""]
