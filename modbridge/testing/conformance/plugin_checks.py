"""What a plugin as a whole promises: a light import, a quiet one, hooks of the known form."""

from __future__ import annotations

import inspect
from typing import Any

import click

from modbridge.cli import VERBS
from modbridge.plugins.hookspecs import PROJECT
from modbridge.plugins.manager import HOOKS
from modbridge.testing.conformance.fresh import Seen, looked_at
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt
from modbridge.testing.conformance.subject import Subject


def seen_fresh(subject: Subject) -> Seen:
    """What a fresh process sees of the plugin; one process serves all checks."""
    trial = subject.trial

    def look() -> Seen:
        examples = {}
        for spec in trial.registry:
            one = Subject(trial, spec)
            if spec.plugin == trial.plugin and one.trouble is None:
                examples[one.id] = one.example
        return looked_at(trial.plugin, trial.file, examples, trial.folder)

    found: Seen = trial.remember("seen", look)
    return found


def require_package(subject: Subject) -> None:
    """NotRun for a single file, which is loaded only where it is named, and holds configs and implementations alike."""
    if subject.trial.file:
        raise NotForIt("a single file may import what it likes; in a package, configs stand in modules of their own")


def light_import(subject: Subject) -> None:
    require_package(subject)
    seen = seen_fresh(subject)
    if seen.error:
        raise Failed(
            f"loaded in a fresh process, {seen.error}",
            "that the plugin can be imported by itself",
            "import nothing at module level that needs other modules to be loaded before, and start nothing there",
        )
    step = seen.steps["import"]
    if step["error"]:
        raise Failed(
            f"importing the plugin in a fresh process raised {step['error']}",
            "that it can be imported by itself, and registers its components",
            "mend the import; packages that may be missing belong into the implementation's module",
        )
    if step["heavy"]:
        raise Failed(
            f"importing the plugin loads {', '.join(step['heavy'])}",
            "that listing plugins loads no heavy package, so that every verb of modbridge starts at once",
            "name configs and implementations by strings in ComponentSpec and keep them in modules of their own, which "
            "the plugin's module does not import",
        )


def quiet_import(subject: Subject) -> None:
    printed = seen_fresh(subject).printed.strip()
    if printed:
        raise Failed(
            f"the plugin wrote to stdout while it and its configs were imported: {printed.splitlines()[0][:100]!r}",
            "nothing: stdout is for results, and `--json` must stay JSON",
            "remove the print, or write to sys.stderr",
        )


def hooks(subject: Subject) -> None:
    module = subject.trial.plugins.manager.get_plugin(subject.trial.plugin)
    named = {name: value for name, value in inspect.getmembers(module, callable) if name.startswith("modbridge_")}
    for name, function in named.items():
        marked = hasattr(function, f"{PROJECT}_impl")
        if name not in HOOKS and (marked or inspect.isfunction(function)):
            raise Failed(
                f"the plugin defines {name}, which is no hook",
                f"one of {', '.join(HOOKS)}",
                "correct the name, or call the function something that does not begin with modbridge_",
            )
        if name in HOOKS and not marked:
            raise Failed(
                f"{name} is not marked as a hook, so that it is never called",
                "the decorator @hookimpl on every hook",
                "put `@hookimpl` (from modbridge.plugins import hookimpl) before it",
            )
    if not named:
        raise Failed(
            "the plugin implements no hook",
            "at least one, for instance modbridge_components",
            "let the entry point name the module that holds the hooks",
        )
    _doctor(named.get("modbridge_doctor"))
    _commands(named.get("modbridge_commands"))


def _doctor(hook: Any) -> None:
    if hook is None:
        return
    rows = hook()
    for row in rows:
        good = isinstance(row, tuple | list) and len(row) == 3
        if not good or not (isinstance(row[0], str) and isinstance(row[1], bool) and isinstance(row[2], str)):
            raise Failed(
                f"modbridge_doctor gave {row!r}",
                "rows (what, whether it is there, what to do if not): (str, bool, str)",
                "give one such row for each thing that the plugin needs",
            )
        if not row[1] and not row[2].strip():
            raise Failed(
                f"modbridge_doctor says that {row[0]!r} is missing, and not what to do",
                "advice for everything that is not there",
                "say in the third place how to get it",
            )


def _commands(hook: Any) -> None:
    if hook is None:
        return
    group = click.Group()
    hook(cli=group)
    for name, command in group.commands.items():
        if name in VERBS:
            raise Failed(
                f"modbridge_commands adds the verb {name!r}, which modbridge has already",
                "verbs of other names",
                "rename it",
            )
        if not command.get_short_help_str().strip():
            raise Failed(
                f"the verb {name!r} has no help text",
                "a line that `modbridge --help` can show",
                "give its function a docstring",
            )


CHECKS = (
    Check("light_import", ("plugin",), "listing plugins loads no heavy package", light_import),
    Check("quiet_import", ("plugin",), "importing it and its configs writes nothing to stdout", quiet_import),
    Check("hooks", ("plugin",), "its hooks are marked, known and of the right form", hooks),
)
