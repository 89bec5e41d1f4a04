"""The public names of this repository, compared with tests/golden/components.json; --write makes that file anew.

Components with their fields, types and defaults; hooks with their arguments; verbs with their options; public classes
and functions with what they take. A change there is one that plugins, configs or scripts may notice, and that the
changelog names.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
FILE = ROOT / "tests" / "golden" / "components.json"
sys.path.insert(0, str(ROOT / "docs" / "_ext"))  # the reference decides what is public, and what is ours

from modbridge_reference import PUBLIC, outside_components, own_components, own_plugins, public_names  # noqa: E402
from pydantic import BaseModel  # noqa: E402

from modbridge.cli import VERBS, cli  # noqa: E402
from modbridge.cli.state import State  # noqa: E402
from modbridge.config.fields import field_table  # noqa: E402
from modbridge.config.pipeline import PipelineConfig  # noqa: E402
from modbridge.plugins.hookspecs import Hooks  # noqa: E402
from modbridge.plugins.registry import KINDS, ComponentSpec  # noqa: E402


def found() -> dict[str, Any]:
    """The public names, as the code has them now."""
    specs = own_components(own_plugins())
    specs += [replace(spec, plugin=folder.name) for spec, folder in outside_components()]
    specs.sort(key=lambda spec: (KINDS.index(spec.kind), spec.name))
    return {
        "pipeline": fields(PipelineConfig),
        "components": {f"{spec.kind}:{spec.name}": component(spec) for spec in specs},
        "hooks": {name: parameters(hook) for name, hook in vars(Hooks).items() if name.startswith("modbridge_")},
        "verbs": {verb: options(verb) for verb in sorted(VERBS)},
        "api": {module: {name: member(module, name) for name in sorted(public_names(module))} for module in PUBLIC},
    }


def component(spec: ComponentSpec) -> dict[str, Any]:
    return {"plugin": spec.plugin, "fields": fields(spec.load_config())}


def fields(config: type[Any]) -> dict[str, str]:
    """Each field's type and default: "integer >= 1 = 64"; "required" where there is none."""
    return {
        row["name"]: f"{row['type']}, required" if row["required"] else f"{row['type']} = {json.dumps(row['default'])}"
        for row in field_table(config)
    }


def options(verb: str) -> list[str]:
    """The arguments and options of a verb, in upper case and with their dashes."""
    command = cli.get_command(
        cli.make_context("modbridge", [verb, "--help"], obj=State(), resilient_parsing=True), verb
    )
    assert command is not None
    return sorted("/".join(p.opts) if p.param_type_name == "option" else str(p.name).upper() for p in command.params)


def member(module: str, name: str) -> Any:
    """A class with its public methods and what they take, a function with what it takes, or a word."""
    value = getattr(importlib.import_module(module), name)
    if not inspect.isclass(value):
        return parameters(value) if inspect.isroutine(value) else type(value).__name__
    if not value.__module__.startswith("modbridge"):
        return value.__name__
    methods = {
        key: parameters(getattr(value, key)) if callable(getattr(value, key)) else "property"
        for key, inner in vars(value).items()
        if not key.startswith("_") and (callable(inner) or isinstance(inner, property | classmethod | staticmethod))
    }
    if issubclass(value, BaseModel):
        return {"fields": list(value.model_fields), **dict(sorted(methods.items()))}
    built = {"()": parameters(value)} if "__init__" in vars(value) else {}
    return built | dict(sorted(methods.items()))


def parameters(function: Callable[..., Any]) -> str:
    """What a function takes: "(source, seed=)"; what has a default is followed by "="."""
    taken = []
    for one in inspect.signature(function).parameters.values():
        star = "*" if one.kind is one.VAR_POSITIONAL else "**" if one.kind is one.VAR_KEYWORD else ""
        if one.name == "self":
            continue
        if one.kind is one.KEYWORD_ONLY and not any(name.startswith("*") for name in taken):
            taken.append("*")
        taken.append(f"{star}{one.name}" + ("" if one.default is one.empty else "="))
    return f"({', '.join(taken)})"


def text() -> str:
    return json.dumps(found(), indent=1, ensure_ascii=False) + "\n"


def main(arguments: list[str]) -> int:
    now = text()
    if "--write" in arguments:
        FILE.parent.mkdir(parents=True, exist_ok=True)
        FILE.write_text(now, encoding="utf-8")
        return 0
    kept = FILE.read_text(encoding="utf-8") if FILE.is_file() else ""
    changed = list(difflib.unified_diff(kept.splitlines(), now.splitlines(), "kept", "now", lineterm="", n=2))
    if changed:
        print("\n".join(changed))
        print(
            "\npublic names changed. If that is meant, name it in CHANGELOG.md and run: python tools/golden.py --write",
            file=sys.stderr,
        )
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
