"""Every check catches a component that breaks its promise, and lets a good one pass."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modbridge.errors import ConfigError, PluginError
from modbridge.interfaces import Reference
from modbridge.plugins.manager import Plugins, from_file
from modbridge.plugins.registry import KINDS
from modbridge.testing import conformance
from modbridge.testing.conformance import CHECKS, Check, cases, find_trial
from modbridge.testing.conformance import use_checks as used
from modbridge.testing.conformance.runner import Case
from modbridge.testing.conformance.subject import Subject
from modbridge.testing.conformance.trial import Trial

FILE = Path(__file__).parent / "breaking_plugin.py"
IN_PACKAGES = ("light_import", "quiet_import", "hooks", "light_config")  # tested on packages below


def loaded() -> Plugins:
    plugins = Plugins()
    info = plugins.load(from_file(FILE))
    assert info.status == "loaded", info.error
    return plugins


PLUGINS = loaded()
TRIAL = find_trial("breaking_plugin", PLUGINS)
BROKEN = sys.modules["modbridge_file_breaking_plugin"].BROKEN
ALL = {case.id: case for case in cases(TRIAL)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_component_passes(kind: str) -> None:
    outcomes = [case.run() for name, case in ALL.items() if name.startswith(f"{kind}:good/")]
    assert len(outcomes) > 10
    assert [str(outcome) for outcome in outcomes if outcome.status == "failed"] == []
    assert "ok" in {outcome.status for outcome in outcomes}


@pytest.mark.parametrize(
    ("kind", "name", "check", "found"), [(kind, name, check, found) for kind, name, check, _, found in BROKEN]
)
def test_a_broken_promise_is_caught(
    kind: str, name: str, check: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(used, "gpu", lambda: "cpu")  # the CPU stands in for a GPU that gives other numbers
    outcome = ALL[f"{kind}:{name}/{check}"].run()
    assert outcome.status == "failed", outcome
    assert found in outcome.found
    assert outcome.expected
    assert outcome.remedy


def test_a_component_without_a_summary() -> None:
    outcome = ALL["bridge:announced/announced"].run()
    assert outcome.found == "its summary is ''"


def test_every_check_has_a_component_that_breaks_it() -> None:
    caught = {check for _, _, check, _, _ in BROKEN} | {"announced", *IN_PACKAGES}
    assert caught == {check.name for check in CHECKS}


def test_without_a_gpu_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(used, "gpu", lambda: None)
    outcome = ALL["bridge:gpu_agreement/gpu_agreement"].run()
    assert (outcome.status, outcome.reason) == ("not run", "no GPU")


def test_what_cannot_be_tried_is_not_run_and_says_where_to_look() -> None:
    outcome = ALL["bridge:fits/shapes"].run()
    assert (outcome.status, outcome.reason) == ("not run", "it cannot be made; see `fits`")


def test_ones_own_items() -> None:
    """An encoder of a modality that nobody drew items of."""
    outcome = ALL["encoder:of_depth/shapes"].run()
    assert outcome.status == "not run"
    assert "conformance(..., items={'depth': [...]})" in outcome.reason
    given = {"depth": [[float(row), 1.0, row / 2] for row in range(5)]}
    outcomes = [case.run() for case in cases(find_trial("breaking_plugin", PLUGINS, given), "encoder:of_depth/*")]
    assert {outcome.check for outcome in outcomes if outcome.status == "ok"} > {"shapes", "order_invariance"}
    assert [str(outcome) for outcome in outcomes if outcome.status == "failed"] == []


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"example_from": "json:loads"}, "`example_from` (json:loads) raised TypeError"),
        ({"example_from": "modbridge_file_breaking_plugin:downloads"}, "asked for weights.example.org"),
        ({"example": {"type": "good", "stpes": 3}}, "its example is refused: stpes"),
        (
            {"example": {}, "config": "modbridge.builtin.source_config:JsonlConfig"},
            "it has no example, and its defaults",
        ),
    ],
)
def test_an_example_that_will_not_do(changes: dict[str, Any], found: str) -> None:
    """What is wrong with it is told once; all that would need it says where."""
    kind = "source" if "config" in changes else "bridge"
    spec = replace(PLUGINS.registry.get(kind, "good"), **changes)
    plugins = Plugins()
    plugins.registry.take([spec])
    subject = Subject(Trial(plugins, "breaking_plugin", str(FILE)), spec)
    outcomes = {check.name: Case(subject, check).run() for check in CHECKS if kind in check.kinds}
    assert outcomes["offline_build"].status == "failed"
    assert found in outcomes["offline_build"].found
    others = ("round_trip", "ports_without_weights", "shapes" if kind == "bridge" else "items")
    assert {outcomes[name].reason for name in others} == {"it has no example that can be tried; see `offline_build`"}


def test_ones_own_references() -> None:
    """A metric that needs facts of its own."""
    given = [Reference(str(row), (f"a thing {row}", f"thing {row}"), {"depth": row}) for row in range(4)]
    chosen = cases(find_trial("breaking_plugin", PLUGINS, references=given), "metric:needs_facts/*")
    outcomes = [case.run() for case in chosen]
    assert [str(outcome) for outcome in outcomes if outcome.status == "failed"] == []


# Packages: what a fresh process sees of them

CONFIG = '''"""Configs."""
{top}
from modbridge.config.kinds import EncoderConfig
from modbridge.spaces import Port, Space

class Config(EncoderConfig):
    """An encoder of nothing."""

    @property
    def modalities(self):
        return ("image", "text")

    def emits(self, modality):
        {inside}
        return Port(space=Space(id="{name}", dim=4), modality=modality)
'''
PLUGIN = '''"""A plugin."""
{top}
from modbridge.plugins import ComponentSpec, hookimpl

@hookimpl
def modbridge_components(register):
    register(ComponentSpec(kind="encoder", name="{name}", config="{name}.config:Config", impl="{name}.impl:Encoder",
                           summary="nothing", example={{"type": "{name}"}}))
{more}
'''


VERB = "import click\n@hookimpl\ndef modbridge_commands(cli):\n    cli.add_command(click.Command({}))"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Write a package with an entry point onto the path; gives the outcomes of its checks that match a glob."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name: str, only: str, *, plugin: str = "", config: str = "", emits: str = "pass", more: str = "") -> Any:
        folder, info = tmp_path / name, tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[modbridge]\n{name} = {name}\n")
        (folder / "__init__.py").write_text(PLUGIN.format(top=plugin, name=name, more=more))
        (folder / "config.py").write_text(CONFIG.format(top=config, name=name, inside=emits))
        importlib.invalidate_caches()
        plugins = Plugins.discover(environ={"MODBRIDGE_PLUGINS": name})
        return {case.id: case.run() for case in cases(find_trial(name, plugins), only)}

    return make


def test_a_light_quiet_package(package: Callable[..., Any]) -> None:
    found = package("light_one", "*i[mn]*")
    for check in ("plugin:light_one/light_import", "plugin:light_one/quiet_import", "encoder:light_one/light_config"):
        outcome = found.get(check)
        assert outcome is None or outcome.status == "ok", outcome
    assert found["plugin:light_one/light_import"].status == "ok"


def test_a_package_that_loads_numpy_when_it_is_listed(package: Callable[..., Any]) -> None:
    (outcome,) = package("heavy_one", "*/light_import", plugin="import numpy").values()
    assert outcome.status == "failed"
    assert outcome.found.startswith("importing the plugin loads numpy")
    assert "ComponentSpec" in outcome.remedy


def test_a_config_that_loads_numpy(package: Callable[..., Any]) -> None:
    (outcome,) = package("heavy_config", "*/light_config", config="import numpy").values()
    assert outcome.found == "importing the config loads numpy"


def test_a_config_that_builds_its_model_to_know_its_ports(package: Callable[..., Any]) -> None:
    (outcome,) = package("heavy_ports", "*/ports_without_weights", emits="import numpy").values()
    assert outcome.found.startswith("asked for its ports, the config loads numpy")


def test_a_package_that_prints(package: Callable[..., Any]) -> None:
    (outcome,) = package("loud_one", "*/quiet_import", config="print('hello from the config')").values()
    assert "'hello from the config'" in outcome.found


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ("def modbridge_doctor():\n    return []", "modbridge_doctor is not marked as a hook"),
        ("def modbridge_doktor():\n    return []", "defines modbridge_doktor, which is no hook"),
        ("@hookimpl\ndef modbridge_doctor():\n    return [('java', False, '')]", "not what to do"),
        ("@hookimpl\ndef modbridge_doctor():\n    return ['java']", "modbridge_doctor gave 'java'"),
        (VERB.format("'run', help='x'"), "adds the verb 'run', which modbridge has already"),
        (VERB.format("'go'"), "'go' has no help"),
    ],
)
def test_hooks_of_the_wrong_form(package: Callable[..., Any], more: str, found: str) -> None:
    (outcome,) = package(f"hooked_{abs(hash(more))}", "*/hooks", more=more).values()
    assert outcome.status == "failed"
    assert found in outcome.found


# The door for pytest


def run_one(test: Any, name: str) -> None:
    """One case of a test that `conformance` made, as pytest would run it."""
    (mark,) = test.pytestmark
    chosen = dict(zip(mark.kwargs["ids"], mark.args[1], strict=True))
    test(case=chosen[name])


def test_the_pytest_door() -> None:
    expected = {
        "bridge:seeded/seeded": "it draws from torch's generator on purpose",
        "bridge:good/shapes": "we thought it could not",
    }
    test = conformance("breaking_plugin", plugins=PLUGINS, expected_failures=expected)
    run_one(test, "prior:good/seeded")
    with pytest.raises(pytest.fail.Exception, match="expected: that an item's result depends on"):
        run_one(test, "bridge:order_invariance/order_invariance")
    with pytest.raises(pytest.xfail.Exception, match="torch's generator on purpose"):
        run_one(test, "bridge:seeded/seeded")
    with pytest.raises(pytest.fail.Exception, match="it is ok, though a failure was expected"):
        run_one(test, "bridge:good/shapes")
    with pytest.raises(pytest.skip.Exception, match="see `fits`"):
        run_one(test, "bridge:fits/seeded")


def test_expected_failures_must_exist_and_have_reasons() -> None:
    with pytest.raises(ConfigError, match=r"no check 'bridge:good/shape' \(did you mean bridge:good/shapes"):
        conformance("breaking_plugin", plugins=PLUGINS, expected_failures={"bridge:good/shape": "why"})
    with pytest.raises(ConfigError, match="has no reason"):
        conformance("breaking_plugin", plugins=PLUGINS, expected_failures={"bridge:good/shapes": " "})


def test_a_plugin_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match=r"no plugin is called 'diffusio'.*did you mean 'diffusion'"):
        conformance("diffusio")
    assert find_trial("modbridge-diffusion").plugin == "diffusion"  # a distribution's name will do


def test_a_file_named_as_an_installed_plugin_is_not_mistaken_for_it(tmp_path: Path) -> None:
    (tmp_path / "diffusion.py").write_text("", encoding="utf-8")
    with pytest.raises(PluginError, match="'diffusion' is broken: a plugin named 'diffusion' is loaded already"):
        find_trial(str(tmp_path / "diffusion.py"))


def test_what_a_component_prints_while_it_is_checked_is_no_result(capsys: pytest.CaptureFixture[str]) -> None:
    def loud(subject: Subject) -> None:
        print("checking")

    assert Case(Subject(TRIAL), Check("loud", ("plugin",), "it is loud", loud)).run().status == "ok"
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "[breaking_plugin] checking\n")


def test_a_broken_plugin(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('a stranger')\n")
    with pytest.raises(PluginError, match="'broken' is broken: RuntimeError: a stranger"):
        conformance(str(tmp_path / "broken.py"))


# The verb


def test_the_verb(call: Callable[..., Any]) -> None:
    good = call("test-plugin", FILE, "--only", "prior:good/*", toy=False)
    assert good.code == 0, good.err
    assert "batch_invariance" in good.out
    bad = call("test-plugin", FILE, "--only", "prior:step_zero/*", toy=False)
    assert bad.code == 3
    assert "FAILED" in bad.out
    assert "what to do: give x back where the step is 0" in bad.out
    reason = "prior:step_zero/step_zero=it always renormalises"
    known = call("test-plugin", FILE, "--only", "prior:step_zero/*", "--expect", reason, "--json", toy=False)
    assert known.code == 0
    rows = {row["id"]: row for row in known.json["rows"]}
    assert rows["prior:step_zero/step_zero"]["status"] == "expected"
    assert rows["prior:step_zero/step_zero"]["reason"] == "it always renormalises"
    assert known.json["counts"]["expected"] == 1


def test_the_verb_lists_checks(call: Callable[..., Any]) -> None:
    found = call("test-plugin", "--list", "--json", toy=False)
    assert {row["check"] for row in found.json["rows"]} == {check.name for check in CHECKS}
    listed = call("test-plugin", FILE, "--list", "--only", "*:good/seeded", toy=False)
    assert len(listed.out.strip().splitlines()) == 1 + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nobody"], "no plugin is called 'nobody'"),
        ([FILE, "--only", "bridge:nobody/*"], "matches no check"),
        ([FILE, "--expect", "bridge:good/seeded"], "expected ID=REASON"),
        ([FILE, "--expect", "bridge:goood/seeded=why"], "did you mean bridge:good/seeded"),
        ([], "no plugin was named"),
        (["missing.py"], "expected an existing .py file"),
    ],
)
def test_mistakes_are_told(call: Callable[..., Any], arguments: list[Any], message: str) -> None:
    found = call("test-plugin", *arguments, toy=False)
    assert found.code == 1
    assert message in found.err
