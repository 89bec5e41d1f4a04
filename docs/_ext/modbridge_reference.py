"""Writes the reference from the code: config fields, components, verbs, hooks, public classes.

A Sphinx extension: the pages are made anew in docs/reference/generated before a build reads any source. Only this
repository's own plugins are described, whatever else is installed: those of the workspace as they are loaded, those
outside it from their folders, since they are installed in environments of their own. Tests call `write_reference` by
itself.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
import sys
import textwrap
import tomllib
from abc import ABC
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

import click
from pydantic import BaseModel

from modbridge.cli import VERBS, cli
from modbridge.cli.state import State, shared_options
from modbridge.config.pipeline import PipelineConfig
from modbridge.config.reading import flow_text
from modbridge.config.template import field_table
from modbridge.plugins.hookspecs import Hooks
from modbridge.plugins.manager import Plugins
from modbridge.plugins.registry import KINDS, ComponentSpec, Registry

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
SHARED = {name for option in shared_options() for name in option.opts}
# What authors may build on; docs/explanation/compatibility.md says what that promises.
PUBLIC = (
    "modbridge",
    "modbridge.plugins",
    "modbridge.config.component",
    "modbridge.config.kinds",
    "modbridge.interfaces",
    "modbridge.spaces",
    "modbridge.noise",
    "modbridge.training",
    "modbridge.media",
    "modbridge.errors",
    "modbridge.testing",
)
COLUMNS = ("field", "type", "default", "changes", "meaning")

# Fields are told apart by what they change; in a table one word is enough.
CHANGES = {"everything": "the fit", "cross": "crossing", "augment": "augmenting", "decode": "decoding", "nothing": "-"}


def _pyproject(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def outside() -> list[Path]:
    """The folders of the distributions that are not of the workspace."""
    return [ROOT / name for name in _pyproject(ROOT)["tool"]["uv"]["workspace"].get("exclude", [])]


def first_party() -> set[str]:
    """The distributions of this repository's workspace."""
    members = {path.parent for path in ROOT.glob("plugins/*/pyproject.toml")} - set(outside())
    return {str(_pyproject(folder)["project"]["name"]) for folder in {ROOT, *members}}


def own_plugins() -> Plugins:
    """The first-party plugins, whatever the environment allows or denies.

    Raises RuntimeError if one is missing or broken: the reference would leave it out without a word.
    """
    plugins = Plugins.discover(environ={})
    states = {info.distribution: info for info in plugins.infos}
    for name in sorted(first_party()):
        info = states.get(name)
        if info is None or info.status != "loaded":
            reason = info.error if info else "it is not installed"
            raise RuntimeError(f"the reference cannot be written: {name}: {reason}")
    return plugins


def own_components(plugins: Plugins) -> list[ComponentSpec]:
    """The components of the first-party plugins, in the order of their kinds."""
    ours = {info.name for info in plugins.infos if info.distribution in first_party()}
    return [spec for spec in plugins.registry if spec.plugin in ours]


def outside_components() -> list[tuple[ComponentSpec, Path]]:
    """The components of the distributions outside the workspace, and their folders. Configs import nothing heavy, so
    they can be read without what the components need."""
    found: list[tuple[ComponentSpec, Path]] = []
    for folder in outside():
        specs: list[ComponentSpec] = []
        sys.path.insert(0, str(folder))
        try:
            for module in _pyproject(folder)["project"]["entry-points"]["modbridge"].values():
                importlib.import_module(module).modbridge_components(specs.append)
            for spec in specs:
                spec.load_config()
        finally:
            sys.path.remove(str(folder))
        found += [(spec, folder) for spec in specs]
    return found


def write_reference(folder: Path, plugins: Plugins | None = None) -> list[Path]:
    """Write every generated page into `folder`; a file that would not change is left alone, for quick builds."""
    plugins = plugins or own_plugins()
    pages = {
        "config.md": config_page(plugins.registry),
        "components.md": components_page(plugins),
        "cli.md": cli_page(),
        "hooks.md": hooks_page(),
        "python.md": python_page(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages.items():
        path = folder / name
        if not path.is_file() or path.read_text("utf-8") != text:
            path.write_text(text, "utf-8")
    return [folder / name for name in pages]


def config_page(registry: Registry) -> str:
    """The fields of a pipeline."""
    return "## Pipeline\n\n" + inspect.cleandoc(PipelineConfig.__doc__ or "") + "\n\n" + fields(PipelineConfig)


def components_page(plugins: Plugins) -> str:
    """Every component of every kind: a heading, what it is, its fields, its example."""
    specs, apart = own_components(plugins), outside_components()
    parts = []
    for kind in KINDS:
        members = [spec for spec in specs if spec.kind == kind]
        if not members:
            continue
        parts.append(f"## {kind.capitalize()}s\n" if kind != "vocabulary" else "## Vocabularies\n")
        parts += [_component(spec, plugins) for spec in members]
        parts += [_outside_component(spec, folder) for spec, folder in apart if spec.kind == kind]
    return "\n".join(parts)


def _component(spec: ComponentSpec, plugins: Plugins) -> str:
    info = next(info for info in plugins.infos if info.name == spec.plugin)
    return (
        f"### {spec.kind} `{spec.name}`\n\n"
        f"From `{info.distribution}`: {spec.summary.rstrip('.')}. Code: `{spec.impl}`.\n\n"
        f"{_docstrings(spec.impl)}\n\n{fields(spec.load_config())}"
    )


def _outside_component(spec: ComponentSpec, folder: Path) -> str:
    name = _pyproject(folder)["project"]["name"]
    place = folder.relative_to(ROOT)
    return (
        f"### {spec.kind} `{spec.name}`, in an environment of its own\n\n"
        f"From `{name}`: {spec.summary.rstrip('.')}. Code: `{spec.impl}`. It is not installed with the workspace; "
        f"`uv sync --project {place}` makes its environment, and `{place}/README.md` tells the rest.\n\n"
        f"{_docstrings(spec.impl)}\n\n{fields(spec.load_config())}"
    )


def _docstrings(target: str) -> str:
    """What "module:Class" says of itself, the module first; read from its source, since importing it takes long."""
    module, _, name = target.partition(":")
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse(Path(spec.origin).read_text("utf-8"))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return "\n\n".join(text for text in (ast.get_docstring(tree), ast.get_docstring(found)) if text)


def fields(config: type[Any]) -> str:
    """The fields of a config class as a table."""
    rows = [
        (
            f"`{row['name']}`",
            row["type"],
            "required" if row["required"] else f"`{flow_text(row['default'])}`",
            ", ".join(CHANGES.get(word, word) for word in row["affects"].split(", ")),
            row["description"],
        )
        for row in field_table(config)
    ]
    if not rows:
        return "It has no fields but `type`.\n"
    if config is PipelineConfig:
        return table([c for c in COLUMNS if c != "changes"], [(*row[:3], row[4]) for row in rows])
    return table(COLUMNS, rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(headings) + " |", "|" + "---|" * len(headings)]
    lines += ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def cli_page() -> str:
    """Every verb: what it does, arguments, options, examples."""
    parent = click.Context(cli, info_name="modbridge", obj=State())
    parts = []
    for verb in sorted(VERBS):
        command = cli.get_command(parent, verb)
        assert command is not None
        with click.Context(command, info_name=verb, parent=parent) as ctx:
            parts.append(_verb(verb, command, ctx))
    shared = [_option(option) for option in shared_options()]
    parts.append("## Options of every verb\n\n" + table(("option", "default", "meaning"), shared))
    return "\n".join(parts)


def _verb(verb: str, command: click.Command, ctx: click.Context) -> str:
    prose, examples = _help(command)
    lines = [f"## modbridge {verb}", "", "```text", *command.get_usage(ctx).removeprefix("Usage: ").splitlines()]
    lines += ["```", "", prose, ""]
    options = [p for p in command.params if isinstance(p, click.Option) and not SHARED & set(p.opts)]
    if options:
        lines += [table(("option", "default", "meaning"), [_option(option) for option in options])]
    if examples:
        lines += ["```bash", *examples, "```", ""]
    return "\n".join(lines)


def _option(option: click.Option) -> tuple[str, str, str]:
    takes = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    if isinstance(option.type, click.Choice):
        takes = " " + "/".join(map(str, option.type.choices))
    names = ", ".join(f"`{name}{takes}`" for name in option.opts)
    told = re.search(r"\s*\[default: (.*)\]$", option.help or "")
    shown = option.default if option.show_default and not option.is_flag else None
    default = told.group(1) if told else "required" if option.required else "" if shown is None else f"`{shown}`"
    return names, default, (option.help or "")[: told.start() if told else None]


def _help(command: click.Command) -> tuple[str, list[str]]:
    """The prose of a help text, and its examples."""
    prose, _, rest = inspect.cleandoc(command.help or "").partition("\b\n")
    examples = [line.strip() for line in rest.splitlines()[1:]]
    return prose.strip(), [line for line in examples if line]


def hooks_page() -> str:
    """Every hook: its signature and its contract."""
    parts = []
    for name, hook in _hooks():
        signature = inspect.signature(hook)
        given = ", ".join(f"{p.name}: {p.annotation}" for p in signature.parameters.values() if p.name != "self")
        prose, _, version = inspect.cleandoc(hook.__doc__ or "").partition("versionadded:")
        parts.append(
            f"## {name}\n\n```python\ndef {name}({given}) -> {signature.return_annotation}\n```\n\n"
            f"{prose.strip()}\n\nSince {version.strip()}.\n"
        )
    return "\n".join(parts)


def _hooks() -> Iterator[tuple[str, Any]]:
    return ((name, hook) for name, hook in vars(Hooks).items() if name.startswith("modbridge_"))


def public_names(module: str) -> list[str]:
    """The public names of a module: its `__all__`, or what is defined in it."""
    found = importlib.import_module(module)
    if hasattr(found, "__all__"):
        return [name for name in found.__all__ if name != "__version__"]
    return [
        name
        for name, value in vars(found).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module and callable(value)
    ]


def python_page() -> str:
    """Every public class and function, by module; one that several modules give is described under the first."""
    parts, homes = [], dict[int, str]()
    for module in PUBLIC:
        found = importlib.import_module(module)
        parts.append(f"## Module `{module}`\n\n{inspect.cleandoc(found.__doc__ or '')}\n")
        elsewhere = []
        for name in public_names(module):
            value = getattr(found, name)
            home = homes.setdefault(id(value), module)
            if home == module:
                parts.append(_described(module, name, value))
            else:
                elsewhere.append(f"`{name}` (of `{home}`)")
        if elsewhere:
            parts.append(f"Also here: {', '.join(elsewhere)}.\n")
    return "\n".join(parts)


def _described(module: str, name: str, value: Any) -> str:
    """A class with its own public methods, a function, or a constant."""
    title = f"### `{module}.{name}`\n"
    if inspect.isclass(value):
        told = inspect.cleandoc(value.__doc__ or "")
        fields = "" if issubclass(value, BaseModel) else _signature(value)
        parents = ", ".join(base.__name__ for base in value.__bases__ if base not in (object, ABC, Generic))
        head = f"```text\nclass {name}{fields}\n```\n" if fields else ""
        lines = [title, head, f"A `{parents}`.\n" if parents else "", told + "\n"]
        methods = list(_methods(value))
        lines += [f"`{method}`\n: {text}\n" for method, text in methods if text]
        bare = [f"`{method}`" for method, text in methods if not text]
        lines += [f"Also {', '.join(bare)}.\n"] if bare else []
        return "\n".join(line for line in lines if line)
    if not type(value).__module__.startswith(("builtins", "modbridge")) and callable(value):
        return (
            f"{title}\nMarks a function as the implementation of the [hook](hooks.md) that has its name (by pluggy).\n"
        )
    if callable(value):
        return f"{title}\n```text\n{name}{_signature(value)}\n```\n\n{inspect.cleandoc(value.__doc__ or '')}\n"
    return f"{title}\n`{value!r}`\n"


def _methods(value: type[Any]) -> Iterator[tuple[str, str]]:
    """The public methods and properties that a class defines itself, with their docstrings."""
    for name, member in vars(value).items():
        plain = member.__func__ if isinstance(member, classmethod | staticmethod) else member
        if name.startswith("_") or not (inspect.isfunction(plain) or isinstance(plain, property)):
            continue
        bound = getattr(value, name)
        text = textwrap.indent(inspect.getdoc(bound) or "", "  ").strip()
        yield (name if isinstance(plain, property) else f"{name}{_signature(bound)}"), text


def _signature(value: Any) -> str:
    """What it takes and gives, without `self` and without the modules of types."""
    try:
        told = str(inspect.signature(value))
    except ValueError:
        return ""
    told = re.sub(r"\(self(, )?", "(", told)
    told = re.sub(r"(: |-> )'([^']*)'", r"\1\2", told)
    told = re.sub(r"<factory>", "...", told)
    return re.sub(r"\b(?:[a-z_]+\.)+(?=[A-Za-z])", "", told)


def _before_build(app: Sphinx) -> None:
    write_reference(Path(app.srcdir) / "reference" / "generated")


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", _before_build)
    return {"version": "1", "parallel_read_safe": True}
