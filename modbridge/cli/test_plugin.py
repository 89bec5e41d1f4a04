"""modbridge test-plugin: what every component promises, checked of one plugin."""

from __future__ import annotations

import shutil
import sys
from collections import Counter
from dataclasses import asdict
from typing import Any

import click

from modbridge.cli.state import State, json_option, print_json, print_rows
from modbridge.errors import ConfigError, Problem

WIDEST_CHECK = 23  # columns of a terminal


@click.command("test-plugin")
@click.argument("name", required=False)
@click.option("--only", metavar="GLOB", help="Only checks whose ids match, such as 'bridge:*/seeded'.")
@click.option(
    "--expect", "expected", multiple=True, metavar="ID=REASON", help="A failure that is known. May be repeated."
)
@click.option("--list", "listing", is_flag=True, help="Only list the checks.")
@json_option
@click.pass_obj
def command(
    state: State, name: str | None, only: str | None, expected: tuple[str, ...], listing: bool, as_json: bool
) -> None:
    """Check that the plugin NAME and its components keep what modbridge relies on.

    NAME is a plugin's name as `modbridge plugins` lists it, or the path of a .py file. Exits with 3 if a check fails.

    \b
    Examples:
      modbridge test-plugin clip
      modbridge test-plugin ./my_bridge.py --only 'bridge:*'
      modbridge test-plugin --list
    """
    if name is None:
        if not listing:
            raise ConfigError([Problem("NAME", "no plugin was named", hint="`modbridge plugins` lists them")])
        _list_checks(as_json)
        return
    from modbridge.testing.conformance import cases, find_trial
    from modbridge.testing.conformance.runner import require_known

    if name.endswith(".py") and name not in state.files:
        state.files.append(name)
        state.__dict__.pop("plugins", None)
    trial = find_trial(name, state.plugins)
    chosen = cases(trial, only)
    if listing:
        rows = [{"id": case.id, "summary": case.check.summary} for case in chosen]
        if as_json:
            print_json({"rows": rows})
        else:
            print_rows(("check", "what must hold"), [(row["id"], row["summary"]) for row in rows])
        return
    known = _expected(expected)
    require_known(known, cases(trial))
    from modbridge.talk import Talk

    talk = Talk(quiet=state.quiet or as_json)
    outcomes = []
    with talk.progress(f"checks of {trial.plugin}", len(chosen)) as progress:
        for case in chosen:
            outcomes.append(case.run(known))
            progress.advance(note=case.id)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    counts = Counter(outcome.status for outcome in outcomes)
    if as_json:
        rows = [{**asdict(outcome), "id": outcome.id} for outcome in outcomes]
        print_json({"plugin": trial.plugin, "counts": dict(counts), "rows": rows})
    else:
        _print_table(outcomes)
        for outcome in failed:
            click.echo(f"\n{outcome}")
        click.echo("\n" + ", ".join(f"{count} {status}" for status, count in counts.items()))
    if failed:
        raise SystemExit(3)


def _expected(given: tuple[str, ...]) -> dict[str, str]:
    """The known failures, by check, with their reasons."""
    found = {}
    for text in given:
        name, equals, reason = text.partition("=")
        if not equals or not reason.strip():
            hint = "like --expect 'bridge:my_bridge/batch_invariance=it ranks the whole batch'"
            raise ConfigError([Problem("--expect", f"expected ID=REASON, found {text!r}", hint=hint)])
        found[name.strip()] = reason.strip()
    return found


def _list_checks(as_json: bool) -> None:
    """Every check there is, and the kinds of component it is for."""
    from modbridge.testing.conformance import CHECKS

    if as_json:
        print_json({"rows": [{"check": c.name, "kinds": list(c.kinds), "summary": c.summary} for c in CHECKS]})
        return
    print_rows(("check", "for", "what must hold"), [(c.name, _kinds(c.kinds), c.summary) for c in CHECKS])


def _kinds(kinds: tuple[str, ...]) -> str:
    from modbridge.plugins.registry import KINDS

    return "all" if kinds == KINDS else ", ".join(kinds)


def _print_table(outcomes: list[Any]) -> None:
    """For each kind a table, checks down and components across; then the reasons of what was not run or is expected."""
    components = dict.fromkeys(outcome.component for outcome in outcomes)
    checks = list(dict.fromkeys(outcome.check for outcome in outcomes))
    at = {(outcome.component, outcome.check): outcome for outcome in outcomes}
    by_kind: dict[str, list[str]] = {}
    for component in components:
        by_kind.setdefault(component.partition(":")[0], []).append(component)
    for kind, names in by_kind.items():
        for some in _side_by_side(names):
            rows = []
            for check in checks:
                found = [at.get((name, check)) for name in some]
                if any(found):
                    rows.append((check, *("" if outcome is None else _cell(outcome) for outcome in found)))
            print_rows((kind, *(name.partition(":")[2] for name in some)), rows)
            click.echo()
    by_reason: dict[tuple[str, str, str], list[str]] = {}
    for outcome in outcomes:
        if outcome.reason and outcome.status != "not for it":
            by_reason.setdefault((outcome.component, outcome.status, outcome.reason), []).append(outcome.check)
    said: dict[str, list[str]] = {}
    for (component, status, reason), names in by_reason.items():
        said.setdefault(f"{status}: {', '.join(names)}: {reason}", []).append(component)
    for text, who in said.items():
        click.echo(f"{', '.join(who)}: {text}")


def _side_by_side(names: list[str]) -> list[list[str]]:
    """The components in groups that a terminal has room for; elsewhere all together."""
    if not sys.stdout.isatty():
        return [names]
    width = 2 + max(len(name.partition(":")[2]) for name in names)
    most = max(1, (shutil.get_terminal_size().columns - WIDEST_CHECK) // max(width, 9))
    return [names[i : i + most] for i in range(0, len(names), most)]


def _cell(outcome: Any) -> str:
    return {"failed": "FAILED", "not for it": "-"}.get(outcome.status, str(outcome.status))
