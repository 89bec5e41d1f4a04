"""A bad plugin is told by its name, and every other command still works."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from modbridge import __version__
from modbridge.errors import ConfigError, PluginError
from modbridge.plugins.containment import contained
from modbridge.plugins.manager import Candidate, PluginInfo, Plugins, from_file

HOOK = "from modbridge.plugins import ComponentSpec, hookimpl\n@hookimpl\n"
COMPONENTS = HOOK + "def modbridge_components(register):\n"
VERB = HOOK + (
    "def modbridge_commands(cli):\n    import click\n"
    "    @cli.command('{name}')\n    def verb():\n        raise RuntimeError('no good')\n"
)

# Parts that are wrong only once they work: a bridge, a decoder, a metric and an encoder of one plugin.
PARTS = """
import torch
from modbridge.config.kinds import BridgeConfig, DecoderConfig, EncoderConfig, MetricConfig
from modbridge.interfaces import Bridge, Decoded, Decoder, Encoder, Metric, Score
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port, Space

class BadBridgeConfig(BridgeConfig):
    wrong: str = "narrow"
    def crosses(self, source, text):
        print("where vectors go")
        return super().crosses(source, text)

class BadBridge(Bridge[BadBridgeConfig]):
    def fit(self, data, fitting):
        print("fitting the bad bridge")
    def tensors(self):
        print("saving the bad bridge")
        return {}
    def cross_vectors(self, x, draw):
        return {"narrow": x[:, :3], "few": x[:1], "right": x}[self.config.wrong]

class BadDecoderConfig(DecoderConfig):
    wrong: str = "few"

class BadDecoder(Decoder[BadDecoderConfig]):
    def fit(self, vectors, targets, fitting): ...
    def decode_batch(self, bridged, source, keys, seed):
        right = [Decoded(key, "a red picture") for key in keys]
        return {"few": right[1:], "strings": ["a"] * len(keys), "right": right}[self.config.wrong]

class BadMetricConfig(MetricConfig):
    wrong: str = "columns"

class BadMetric(Metric[BadMetricConfig]):
    def score(self, predictions, references):
        return {"columns": {"other": Score(1.0)}, "items": {"bad": Score(1.0, (1.0,))}, "float": {"bad": 1.0}}[
            self.config.wrong
        ]

class BadEncoderConfig(EncoderConfig):
    wrong: str = "flat"
    @property
    def modalities(self):
        return ("image", "text")
    def emits(self, modality):
        if self.wrong == "emits":
            return {}["no such port"]
        return Port(space=Space(id="bad", dim=4), modality=modality)

class BadEncoder(Encoder[BadEncoderConfig]):
    def embed(self, batch, modality):
        return {"flat": torch.ones(len(batch)), "sequences": torch.ones(len(batch), 2, 4)}[self.config.wrong]

class NoConfig:
    pass

@hookimpl
def modbridge_components(register):
    for kind in ("bridge", "decoder", "metric", "encoder"):
        stem = f"Bad{kind.title()}"
        register(ComponentSpec(kind=kind, name="bad", config=f"{__name__}:{stem}Config", impl=f"{__name__}:{stem}",
                               summary="s"))
    for name, config in [("nowhere", f"{__name__}:Gone"), ("unhoused", "nowhere.at.all:Gone"),
                         ("stranger", f"{__name__}:NoConfig")]:
        register(ComponentSpec(kind="bridge", name=name, config=config, impl=config, summary="s"))
"""


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str, stem: str = "bad") -> Path:
        path = tmp_path / f"{stem}.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def loaded(path: Path, seconds: float = 10.0) -> tuple[Plugins, PluginInfo]:
    plugins = Plugins(seconds)
    return plugins, plugins.load(from_file(path))


# --- hooks


@pytest.mark.parametrize(
    "text",
    [
        "import time; time.sleep(60)",
        "while True:\n    pass",
        "import threading; threading.Event().wait()",
        COMPONENTS + "    while True:\n        try:\n            while True: pass\n        except Exception: pass",
        COMPONENTS + "    try:\n        while True: pass\n    except: pass\n    raise OSError",
    ],
)
def test_a_plugin_that_hangs_is_stopped(plugin: Callable[..., Path], text: str) -> None:
    _, info = loaded(plugin(text), seconds=0.3)
    assert info.status == "broken"
    assert "0.3 s" in info.error or "OSError" in info.error


def test_every_other_hook_is_stopped_as_well(plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    hang = "    import time; time.sleep(60)\n"
    text = HOOK + f"def modbridge_doctor():\n{hang}@hookimpl\ndef modbridge_event(event):\n{hang}"
    text += f"@hookimpl\ndef modbridge_commands(cli):\n{hang}"
    plugins, info = loaded(plugin(text), seconds=0.3)
    assert info.status == "loaded"
    ((what, there, advice),) = plugins.doctor()
    assert (what, there) == ("plugin bad", False)
    assert "0.3 s" in advice
    assert plugins.doctors_failed == ["bad"]
    plugins.event("log")
    plugins.event("log")
    plugins.commands(click.Group())
    told = capsys.readouterr().err
    assert told.count("the observer 'bad' failed") == 1
    assert "the plugin 'bad' failed to add its verbs: it was not done after 0.3 s" in told


def test_the_limit_is_lifted_afterwards_and_leaves_other_alarms_alone() -> None:
    rang: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: rang.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with contained("good", 5.0):
            pass
        time.sleep(0.5)
        assert rang == [signal.SIGALRM]
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_outside_the_main_thread_plugins_load_without_a_limit(plugin: Callable[..., Path]) -> None:
    found: list[str] = []
    path = plugin(COMPONENTS + "    pass\n")
    thread = threading.Thread(target=lambda: found.append(loaded(path)[1].status))
    thread.start()
    thread.join()
    assert found == ["loaded"]


def test_the_environment_sets_the_limit() -> None:
    assert Plugins.discover(environ={"MODBRIDGE_PLUGIN_SECONDS": "7.5"}).seconds == 7.5
    assert Plugins.discover(environ={"MODBRIDGE_PLUGIN_SECONDS": ""}).seconds == 30.0


@pytest.mark.parametrize("given", ["soon", "inf", "nan"])
def test_a_limit_that_is_no_number_is_told(given: str) -> None:
    with pytest.raises(ConfigError, match=f"MODBRIDGE_PLUGIN_SECONDS: '{given}' is no number of seconds"):
        Plugins.discover(environ={"MODBRIDGE_PLUGIN_SECONDS": given})


def test_what_raised_is_told_with_its_place(plugin: Callable[..., Path]) -> None:
    _, info = loaded(plugin(COMPONENTS + "    register()\n    raise AssertionError\n"))
    assert info.error.endswith("(bad.py, line 4)")


@pytest.mark.parametrize("head", ["def modbridge_componets(register): ...", "def modbridge_components(registry): ..."])
def test_hooks_of_another_form_are_told_with_those_that_there_are(plugin: Callable[..., Path], head: str) -> None:
    _, info = loaded(plugin(HOOK + head))
    assert info.status == "broken"
    assert "the hooks are modbridge_components(register), modbridge_commands(cli)" in info.error
    assert "<module" not in info.error


def test_without_stdout_verbs_work_as_well() -> None:
    call = 'exec "$0" -m modbridge components bridge --json >&-'
    done = subprocess.run(["sh", "-c", call, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_one_component_twice_is_told_as_such(plugin: Callable[..., Path]) -> None:
    spec = "ComponentSpec(kind='bridge', name='b', config='x:Y', impl='x:Z', summary='s')"
    plugins, info = loaded(plugin(COMPONENTS + f"    for _ in range(2): register({spec})\n"))
    assert info.error == "it registers the bridge 'b' twice; give one of them another name."
    assert plugins.registry.find("bridge", "b") is None


@pytest.mark.parametrize(
    ("requires", "found"),
    [
        (("modbridge>=0.1",), None),
        (("numpy>=99", "modbridge"), None),
        (("modbridge>=99 ; extra == 'later'",), None),
        (("modbridge>=99",), f">=99, and this is modbridge {__version__}"),
        (("torch", "modbridge<0.0.1"), f"<0.0.1, and this is modbridge {__version__}"),
    ],
)
def test_a_plugin_of_another_modbridge_is_not_even_imported(requires: tuple[str, ...], found: str | None) -> None:
    imported: list[bool] = []

    def load() -> Any:
        imported.append(True)
        return sys.modules[__name__]

    info = Plugins().load(Candidate("later", "later-dist", "1", load, requires))
    assert info.status == ("broken" if found else "loaded")
    assert (found or "") in info.error
    assert bool(imported) == (found is None)


def test_one_module_under_two_names_is_told(plugin: Callable[..., Path]) -> None:
    path = plugin(COMPONENTS + "    pass\n")
    plugins, first = loaded(path)
    again = plugins.load(from_file(path))
    module = plugins.manager.get_plugin("bad")
    other = plugins.load(Candidate("worse", "worse", "1", lambda: module))
    assert (first.status, again.status, other.status) == ("loaded", "broken", "broken")
    assert "a plugin named 'bad' is loaded already" in again.error
    assert plugins.manager.get_plugin("bad") is module


@pytest.mark.parametrize("given", ["'bridge'", "None", "{'kind': 'bridge'}"])
def test_what_is_no_spec_is_refused(plugin: Callable[..., Path], given: str) -> None:
    _, info = loaded(plugin(COMPONENTS + f"    register({given})\n"))
    assert "expected a ComponentSpec" in info.error


# --- the command line


def test_what_hooks_print_goes_to_stderr_with_their_name(plugin: Callable[..., Path]) -> None:
    """In a process of its own, so that file descriptors are those of a shell."""
    text = (
        "import os, subprocess, sys\nprint('hello from import')\nos.write(1, b'low level\\n')\n"
        "subprocess.run(['echo', 'from a child'])\nsys.__stdout__.write('by the back door\\n')\n"
        + COMPONENTS
        + "    print('no newline', end='')\n    assert sys.stdout.encoding\n"
    )
    path = plugin(text, "chatty")
    call = [sys.executable, "-m", "modbridge", "plugins", "--json", "--plugin", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=True)
    rows = {row["name"]: row["status"] for row in json.loads(done.stdout)["rows"]}
    assert rows["chatty"] == rows["builtin"] == "loaded"
    assert {"[chatty] hello from import", "[chatty] no newline", "low level", "from a child", "by the back door"} <= {
        *done.stderr.splitlines()
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("raise RuntimeError('no good')", "RuntimeError: no good"),
        ("import sys; sys.exit(0)", "SystemExit"),
        ("import pytest; pytest.skip('no module', allow_module_level=True)", "Skipped: no module"),
        ("print('[1, 2')\nimport time\ntime.sleep(60)", "after 1 s"),
        (
            COMPONENTS
            + "    register(ComponentSpec(kind='bridge', name='mean_shift', config='x:Y', impl='x:Z', summary='s'))",
            "'builtin' has it",
        ),
    ],
)
def test_every_verb_works_beside_a_broken_plugin(
    plugin: Callable[..., Path], call: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, text: str, error: str
) -> None:
    monkeypatch.setenv("MODBRIDGE_PLUGIN_SECONDS", "1" if "sleep" in text else "30")
    more = ["--plugin", str(plugin(text))]
    listed = call("plugins", "--json", *more).json["rows"]
    assert {row["name"]: error in row["error"] for row in listed if row["status"] == "broken"} == {"bad": True}
    assert any(row["name"] == "mean_shift" for row in call("components", "bridge", "--json", *more).json["rows"])
    assert call("show", "bridge", "mean_shift", "--json", *more).json["plugin"] == "builtin"
    assert call("check", "--help", *more).code == 0
    doctor = call("doctor", "--json", *more)
    assert doctor.code == 3
    assert any("plugin bad" in row["what"] and not row["there"] for row in doctor.json["rows"])
    missing = call("show", "bridge", "mean_shifty", *more)
    assert missing.code == 1
    assert "the plugin 'bad' is broken" in missing.err


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("nowhere", "AttributeError"),
        ("unhoused", "there is no module 'nowhere'"),
        ("stranger", "expected a subclass of modbridge.config.component.ComponentConfig"),
    ],
)
def test_classes_that_are_not_there(
    plugin: Callable[..., Path], call: Callable[..., Any], world: Path, name: str, reason: str
) -> None:
    more = ["--plugin", str(plugin(PARTS))]
    shown = call("show", "bridge", name, *more)
    assert shown.code == 3
    assert reason in shown.err
    checked = call("check", world, "--set", f"bridge.type={name}", *more)
    assert checked.code == 1
    assert f"the bridge {name!r} of plugin 'bad'" in checked.err
    assert reason in checked.err
    assert call("schema", *more).json["title"] == "modbridge config"
    assert call("check", world, *more).code == 0


@pytest.mark.parametrize(
    ("sets", "code", "told"),
    [
        (["bridge={type: bad}"], 3, "the bridge 'bad' gave a tensor"),
        (["bridge={type: bad, wrong: few}"], 3, "the bridge 'bad' gave a tensor (1, 8) for"),
        (["bridge={type: bad, wrong: unheard}"], 3, "the bridge 'bad' of plugin 'bad' failed while it carried"),
        (["decoder={type: bad}"], 3, "the decoder 'bad' gave 8 texts for 9 items"),
        (["decoder={type: bad, wrong: strings}"], 3, "the decoder 'bad' gave ['a']"),
        (["metrics=[{type: bad}]"], 3, "the metric 'bad' gave {'other'"),
        (["metrics=[{type: bad, wrong: items}]"], 3, "the metric 'bad' gave 1 scores of bad for 9 items"),
        (["metrics=[{type: bad, wrong: float}]"], 3, "expected a Score for each"),
        (["encoder={type: bad}"], 3, "the encoder 'bad' gave a tensor (9,) for 9 items"),
        (["encoder={type: bad, wrong: sequences}"], 3, "the encoder 'bad' gave a tensor (9, 2, 4)"),
        (["encoder={type: bad, wrong: emits}"], 3, "KeyError: 'no such port' (in the plugin 'bad'"),
    ],
)
def test_parts_that_give_wrong_shapes_are_told(
    plugin: Callable[..., Path], call: Callable[..., Any], world: Path, sets: list[str], code: int, told: str
) -> None:
    done = call("run", world, *(word for one in sets for word in ("--set", one)), "--plugin", str(plugin(PARTS)))
    assert done.code == code
    assert told in done.err


def test_what_parts_print_does_not_spoil_json(
    plugin: Callable[..., Path], call: Callable[..., Any], world: Path
) -> None:
    right = ["--set", "bridge={type: bad, wrong: right}"]
    done = call("run", world, *right, "--json", "--plugin", str(plugin(PARTS)))
    assert done.code == 0
    assert done.json
    assert "[bad] fitting the bad bridge" in done.err
    assert "[modbridge_file_bad] saving the bad bridge" in done.err


def test_an_error_knows_the_plugin_whose_verb_raised_it(plugin: Callable[..., Path]) -> None:
    plugins, _ = loaded(plugin(VERB.format(name="greet")))
    group = click.Group()
    plugins.commands(group)
    with pytest.raises(RuntimeError) as caught:
        group.main(["greet"], standalone_mode=False)
    assert plugins.culprit(caught.value) == "bad"
    assert plugins.culprit(ValueError("ours")) is None


def test_a_verb_that_is_taken_is_refused_with_all_its_plugin_s(
    plugin: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    plugins, _ = loaded(plugin(VERB.format(name="greet")))
    plugins.load(from_file(plugin(VERB.format(name="greet"), "second")))
    plugins.load(from_file(plugin(VERB.format(name="run"), "third")))
    plugins.load(from_file(plugin(VERB.format(name="wave"), "fourth")))
    group = click.Group()
    plugins.commands(group, taken=["run"])
    assert sorted(group.commands) == ["greet", "wave"]
    told = capsys.readouterr().err
    assert "the plugin 'second' failed to add its verbs: 'greet' is there already." in told
    assert "the plugin 'third' failed to add its verbs: 'run' is there already." in told


def test_a_limit_of_nothing_is_no_limit() -> None:
    with contained("slow", 0.0):
        pass

    def hang() -> None:
        with contained("slow", 0.05):
            time.sleep(60)

    with pytest.raises(PluginError, match="not done after"):
        hang()
