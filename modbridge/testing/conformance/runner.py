"""Which checks a plugin must pass, and what comes of each."""

from __future__ import annotations

import difflib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from modbridge.errors import ConfigError, PluginError, Problem
from modbridge.interfaces.metric import Reference
from modbridge.plugins.containment import off_stdout
from modbridge.plugins.manager import Plugins
from modbridge.testing.conformance import (
    bridge_checks,
    building_checks,
    config_checks,
    engine_checks,
    fitting_checks,
    keeping_checks,
    metric_checks,
    objective_checks,
    plugin_checks,
    prior_checks,
    source_checks,
    use_checks,
    vocabulary_checks,
)
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt, NotRun, Outcome, Status
from modbridge.testing.conformance.state import one_thread
from modbridge.testing.conformance.subject import Subject
from modbridge.testing.conformance.trial import Trial

CHECKS: tuple[Check, ...] = (
    *plugin_checks.CHECKS,
    *config_checks.CHECKS,
    *building_checks.CHECKS,
    *fitting_checks.CHECKS,
    *use_checks.CHECKS,
    *bridge_checks.CHECKS,
    *prior_checks.CHECKS,
    *vocabulary_checks.CHECKS,
    *keeping_checks.CHECKS,
    *source_checks.CHECKS,
    *metric_checks.CHECKS,
    *engine_checks.CHECKS,
    *objective_checks.CHECKS,
)
"""Every check, in the order in which they are made."""


@dataclass(frozen=True)
class Case:
    """One check of one component."""

    subject: Subject
    check: Check

    @property
    def id(self) -> str:
        return f"{self.subject.id}/{self.check.name}"

    def run(self, expected: Mapping[str, str] | None = None) -> Outcome:
        """What comes of it. `expected`: the failures that were announced, by id, with their reasons; one of them that
        does not fail is a failure."""
        reason = (expected or {}).get(self.id)
        outcome = self._run()
        if reason is None or outcome.status == "not run":
            return outcome
        if outcome.status == "failed":
            return replace(outcome, status="expected", reason=reason)
        return Outcome(
            self.subject.id,
            self.check.name,
            "failed",
            found=f"it is {outcome.status}, though a failure was expected ({reason})",
            expected="that expected failures fail",
            remedy="take it off the expected failures",
        )

    def _run(self) -> Outcome:
        about = self.subject.id, self.check.name
        try:
            with one_thread(), off_stdout(self.subject.trial.plugin):
                self.check.run(self.subject)
        except Failed as failure:
            return Outcome(*about, "failed", failure.found, failure.expected, failure.remedy)
        except NotRun as reason:
            status: Status = "not for it" if isinstance(reason, NotForIt) else "not run"
            return Outcome(*about, status, reason=str(reason))
        except Exception as error:  # a stranger's code may raise anything
            return Outcome(
                *about,
                "failed",
                found=f"{type(error).__name__}: {error}{_where(error)}",
                expected=f"that {self.check.summary}",
                remedy="mend what raised it",
            )
        return Outcome(*about, "ok")


def _where(error: Exception) -> str:
    """The last place outside modbridge's own checks where an error came up."""
    own = str(Path(__file__).parent)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(own)]
    return f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""


def find_trial(
    plugin: str,
    plugins: Plugins | None = None,
    items: Mapping[str, Sequence[Any]] | None = None,
    references: Sequence[Reference] = (),
) -> Trial:
    """The trial of a plugin: the name of its entry point, the name of its distribution, or the path of a single file.

    Raises ConfigError if there is none of that name, PluginError if it is broken or switched off.
    """
    is_file = plugin.endswith(".py")
    plugins = plugins or Plugins.discover([plugin] if is_file else [])
    # A file by its path: an installed plugin may have its name.
    home = str(Path(plugin)) if is_file else plugin
    by_distribution = [info for info in plugins.infos if info.distribution == home]
    info = next((info for info in plugins.infos if info.name == plugin), None)
    if info is None and by_distribution and (is_file or len(by_distribution) == 1):
        info = by_distribution[0]
    if info is None:
        names = [info.name for info in plugins.infos]
        close = difflib.get_close_matches(plugin, names, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        advice = (
            f"{hint}installed: {', '.join(names)}; install yours (pip install -e .), or give the path of a .py file"
        )
        raise ConfigError([Problem("", f"no plugin is called {plugin!r}", hint=advice)])
    if info.status != "loaded":
        off = "MODBRIDGE_DISABLE or MODBRIDGE_PLUGINS switches it off; change that variable."
        raise PluginError(f"the plugin {info.name!r} is {info.status}: {info.error or off}")
    file = info.distribution if info.version == "file" else None
    return Trial(plugins, info.name, file, dict(items or {}), references)


def cases(trial: Trial, only: str | None = None) -> list[Case]:
    """Every check of the plugin and of each of its components; those whose ids match the glob `only`."""
    specs = [spec for spec in trial.registry if spec.plugin == trial.plugin]
    subjects = [Subject(trial), *(Subject(trial, spec) for spec in specs)]
    found = [Case(subject, check) for subject in subjects for check in CHECKS if subject.kind in check.kinds]
    if only is None:
        return found
    matching = [case for case in found if fnmatchcase(case.id, only)]
    if not matching:
        raise ConfigError(
            [Problem("--only", f"{only!r} matches no check", hint=f"checks look like {found[0].id}; --list shows all")]
        )
    return matching


def require_known(expected: Mapping[str, str], known: Sequence[Case]) -> None:
    """Raise ConfigError for an expected failure that names no check, or gives no reason."""
    ids = [case.id for case in known]
    problems = []
    for name, reason in expected.items():
        if name not in ids:
            close = difflib.get_close_matches(name, ids, n=1)
            hint = f"did you mean {close[0]}?" if close else "`modbridge test-plugin NAME --list` shows all"
            problems.append(Problem("expected_failures", f"there is no check {name!r}", hint=hint))
        elif not reason.strip():
            problems.append(Problem("expected_failures", f"{name!r} has no reason", hint="say why it cannot hold"))
    if problems:
        raise ConfigError(problems)


def run(trial: Trial, only: str | None = None, expected: Mapping[str, str] | None = None) -> Iterator[Outcome]:
    """The outcomes of a plugin's checks, one after another."""
    require_known(expected or {}, cases(trial))
    for case in cases(trial, only):
        yield case.run(expected)
