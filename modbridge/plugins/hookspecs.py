"""The hooks a plugin may implement. Arguments are only ever added, never renamed or removed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    import click

    from modbridge.plugins.registry import ComponentSpec

PROJECT = "modbridge"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hooks:
    """What modbridge asks its plugins. Every hook is optional."""

    @hookspec
    def modbridge_components(self, register: Callable[[ComponentSpec], None]) -> None:
        """Announce components: call `register(ComponentSpec(...))` for each. Import nothing heavy here.

        versionadded: 0.1
        """

    @hookspec
    def modbridge_commands(self, cli: click.Group) -> None:
        """Add verbs to the command line: `cli.add_command(...)`.

        versionadded: 0.1
        """

    @hookspec
    def modbridge_event(self, event: Mapping[str, Any]) -> None:
        """Observe a run. `event["name"]` is "stage_started", "stage_finished", "stage_cached" or "log"; the other
        items depend on it. An observer that raises is logged once and never stops a run.

        versionadded: 0.1
        """

    @hookspec
    def modbridge_doctor(self) -> list[tuple[str, bool, str]]:
        """What this plugin needs of its environment: (what, whether it is there, what to do if not).

        versionadded: 0.1
        """
        return []
