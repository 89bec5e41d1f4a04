"""The docs say what the code does: every verb, hook and component has its heading, and what is shown can be typed."""

from __future__ import annotations

import importlib.util
import re
import sys
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import click
import pytest
import yaml

from modbridge.assembly.experiment import load_experiment
from modbridge.cli import VERBS, cli
from modbridge.cli.state import State
from modbridge.config.pipeline import check_pipeline
from modbridge.demo import demo_config
from modbridge.errors import Problem
from modbridge.plugins.hookspecs import Hooks
from modbridge.plugins.manager import Plugins

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(p for p in DOCS.rglob("*.md") if "generated" not in p.parts)]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


@lru_cache
def extension(name: str = "modbridge_reference") -> ModuleType:
    """A module of docs/_ext."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "_ext" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


commands = extension("pages").commands


@lru_cache(maxsize=1)
def plugins() -> Plugins:
    return Plugins.discover(environ={})


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The generated pages by name."""
    return {path.name: path.read_text("utf-8") for path in extension().write_reference(tmp_path_factory.mktemp("ref"))}


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page, but for files whose use test_docs_run.py checks."""
    found = extension("pages").blocks(page)
    return [block.text for block in found if block.language == language and block.marked("file") is None]


def of(page: Path) -> str:
    return str(page.relative_to(ROOT))


# --- the reference


def test_every_verb_has_a_heading_and_its_options(reference: dict[str, str]) -> None:
    headings = HEADING.findall(reference["cli.md"])
    assert [f"modbridge {verb}" for verb in sorted(VERBS)] == [h for h in headings if h.startswith("modbridge ")]
    sections = dict(re.findall(r"^## modbridge ([\w-]+)\n(.*?)(?=^## )", reference["cli.md"], re.MULTILINE | re.DOTALL))
    for verb, section in sections.items():
        context = click.Context(cli, info_name="modbridge", obj=State())
        command = cli.get_command(context, verb)
        assert command is not None
        for option in {name for p in command.params if isinstance(p, click.Option) for name in p.opts}:
            assert f"`{option}" in section + reference["cli.md"].split("## Options of every verb")[1], (verb, option)
        assert f"modbridge {verb}" in section.partition("```bash")[2], f"{verb}: no example"


def test_every_hook_has_a_heading(reference: dict[str, str]) -> None:
    hooks = [name for name in vars(Hooks) if name.startswith("modbridge_")]
    assert HEADING.findall(reference["hooks.md"]) == hooks


def test_every_first_party_component_has_a_heading_and_its_fields(reference: dict[str, str]) -> None:
    page = reference["components.md"]
    registered = {name for info in plugins().infos for name in info.components}
    wanted = {f"{kind}:{name}" for kind, name in re.findall(r"^### (\w+) `(\w+)`$", page, re.MULTILINE)}
    assert wanted <= registered
    assert {
        "encoder:open_clip", "encoder:hf_clip", "encoder:precomputed", "prior:ddpm", "bridge:identity",
        "bridge:diffusion_bridge", "decoder:prefix_lm", "source:drawn_scenes", "metric:cider",
    } <= wanted  # fmt: skip
    packages = {"modbridge", *(path.name for path in ROOT.glob("plugins/*/modbridge_*"))}
    for spec in plugins().registry:
        if spec.config.split(".")[0] not in packages:
            continue
        section = page.partition(f"### {spec.kind} `{spec.name}`\n")[2].partition("\n### ")[0]
        assert section, f"{spec.kind} {spec.name} has no heading"
        for field in spec.load_config().model_fields:
            assert field == "type" or f"| `{field}` |" in section, (spec.kind, spec.name, field)


def test_the_pipeline_s_fields_are_all_described(reference: dict[str, str]) -> None:
    rows = [line.split(" | ") for line in reference["config.md"].splitlines() if line.startswith("| `")]
    assert {"| `data.train`", "| `evaluate.references`", "| `gap.fit`", "| `main`"} <= {row[0] for row in rows}
    assert [row[0] for row in rows if not row[-1].strip(" |")] == []


def test_every_public_class_and_function_has_a_heading(reference: dict[str, str]) -> None:
    headings = set(HEADING.findall(reference["python.md"]))
    described = {heading.strip("`").rpartition(".")[2] for heading in headings}
    compatibility = (DOCS / "explanation" / "compatibility.md").read_text("utf-8")
    for module in extension().PUBLIC:
        assert f"Module `{module}`" in headings
        assert f"`{module}`" in compatibility
        assert set(extension().public_names(module)) <= described
    methods = reference["python.md"].partition("### `modbridge.interfaces.Bridge`")[2].partition("\n### ")[0]
    for method in ("fit(", "cross_vectors(", "augment_vectors(", "cross("):
        assert f"`{method}" in methods
    for text in ("frame: Frame = 'raw'", "Raise PortError, naming both sides"):
        assert text in reference["python.md"]


def test_every_method_has_its_row() -> None:
    page = (DOCS / "explanation" / "methods.md").read_text("utf-8")
    rows = {name for line in page.splitlines() if line.startswith("| ") for name in re.findall(r"`(\w+)`", line)}
    ours = {s.name for s in extension().own_components(plugins()) if s.kind in ("prior", "bridge", "decoder")}
    assert ours - rows <= {"named_colours"}


def test_a_second_build_writes_nothing(tmp_path: Path) -> None:
    first = {path: path.stat().st_mtime_ns for path in extension().write_reference(tmp_path)}
    assert {path: path.stat().st_mtime_ns for path in extension().write_reference(tmp_path)} == first


def test_a_missing_plugin_stops_the_build() -> None:
    ext = extension()
    assert {"modbridge", "modbridge-clip", "modbridge-metrics"} <= ext.first_party()
    known = ext.Plugins.discover
    try:
        ext.Plugins.discover = classmethod(lambda cls, environ: known(environ={"MODBRIDGE_DISABLE": "clip"}))
        with pytest.raises(RuntimeError, match="modbridge-clip"):
            ext.own_plugins()
    finally:
        ext.Plugins.discover = known


# --- commands


def parse(arguments: list[str]) -> None:
    """Parse a command as click would, without running it. Raises click.ClickException."""
    root = cli.make_context("modbridge", list(arguments), obj=State(), resilient_parsing=True)
    if arguments[0] in ("--version", "--help"):
        return
    command = cli.get_command(root, arguments[0])
    if command is None:
        raise click.UsageError(f"no such verb: {arguments[0]}")
    command.make_context(arguments[0], arguments[1:], parent=root)


def test_commands_are_found_and_bad_ones_refused() -> None:
    shell = (
        "pip install uv && uv run modbridge demo  # all\nX=1 modbridge check a.yaml \\\n --json | head\nls > modbridge"
    )
    assert list(commands(shell)) == [["demo"], ["check", "a.yaml", "--json"]]
    assert list(commands("modbridge init > my.yaml; modbridge plugins")) == [["init"], ["plugins"]]
    for wrong in (["demos"], ["demo", "--proflie", "smoke"], ["caption", "x.png"], ["run"]):
        with pytest.raises(click.ClickException):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=of)
def test_the_commands_of_a_page_parse(page: Path) -> None:
    for text in blocks(page, "bash"):
        for arguments in commands(text):
            try:
                parse(arguments)
            except click.ClickException as error:
                pytest.fail(f"{of(page)}: modbridge {' '.join(arguments)}: {error.format_message()}")


def test_the_examples_of_the_help_texts_parse(reference: dict[str, str]) -> None:
    found = [c for kind, text in BLOCK.findall(reference["cli.md"]) if kind == "bash" for c in commands(text)]
    assert {arguments[0] for arguments in found} == set(VERBS)
    for arguments in found:
        parse(arguments)


# --- configs


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "yaml")], ids=of)
def test_the_configs_of_a_page_are_right(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A block with `data` is a whole config and is checked as one; so is one that extends a file that the page shows.
    Any other is marked as partial (in docs/), and only what it lacks is forgiven."""
    monkeypatch.chdir(tmp_path)
    registry = plugins().registry
    Path("mine.yaml").write_bytes(demo_config("image").read_bytes())
    for text in blocks(page, "python"):
        if "save_file(" in text:
            exec(text, {})  # writes the vectors that the page's configs name
    for number, text in enumerate(blocks(page, "yaml")):
        tree = yaml.safe_load(text)
        path = Path(f"{tree.get('name', f'block-{number}')}.yaml")
        path.write_text(text, "utf-8")
        if "data" in tree or "extends" in tree:
            load_experiment(path, registry)
            continue
        assert page.parent == ROOT or text.startswith("# partial"), f"{of(page)}: not a whole config:\n{text}"
        problems: list[Problem] = []
        check_pipeline(tree, registry, problems)
        assert [str(p) for p in problems if "is missing; it has no default" not in p.message] == []
