"""Discovery: our own loader loop, since pluggy's stops at the first broken plugin.

A plugin is loaded whole or not at all; a broken one is listed with its error and every other still works. A plugin is
broken that raises, takes a name that is taken, asks for another version of modbridge, or does not come back from a
hook.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from inspect import signature
from pathlib import Path
from typing import Any

import pluggy

from modbridge import __version__
from modbridge.errors import DataError, PluginError
from modbridge.plugins.containment import DEFAULT_SECONDS, contained, seconds_allowed
from modbridge.plugins.hookspecs import PROJECT, Hooks
from modbridge.plugins.registry import ComponentSpec, Registry

ENTRY_POINTS = "modbridge"
HOOKS = {name: hook for name, hook in vars(Hooks).items() if name.startswith("modbridge_")}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin that could be loaded: its name, what provides it, and how to get its module.

    `requires`: what its distribution says it needs, as in its metadata ("modbridge>=0.1,<0.2").
    `code`: the hash of a plugin that is a single file, so that results of another state of it are not taken as its own.
    """

    name: str
    distribution: str
    version: str
    load: Callable[[], Any]
    requires: tuple[str, ...] = ()
    code: str = ""


@dataclass(slots=True)
class PluginInfo:
    """What became of one plugin. `status`: "loaded", "broken" or "disabled"."""

    name: str
    distribution: str
    version: str
    status: str
    error: str = ""
    components: list[str] = field(default_factory=list)


class Plugins:
    """The plugins of one session, their registry and their hooks. `seconds`: how long a hook may take; 0: any time."""

    def __init__(self, seconds: float = DEFAULT_SECONDS) -> None:
        self.seconds = seconds
        self.manager = pluggy.PluginManager(PROJECT)
        self.manager.add_hookspecs(Hooks)
        self.registry = Registry()
        self.infos: list[PluginInfo] = []
        self.doctors_failed: list[str] = []
        self._silenced: set[str] = set()

    @classmethod
    def discover(cls, files: Iterable[str | Path] = (), environ: Mapping[str, str] | None = None) -> Plugins:
        """All installed plugins that the environment allows, and the given single-file ones.

        MODBRIDGE_PLUGINS: comma-separated allow-list of names; MODBRIDGE_DISABLE: deny-list. MODBRIDGE_PLUGIN_SECONDS:
        how long each hook may take.
        """
        env = os.environ if environ is None else environ
        allowed, denied = _names(env.get("MODBRIDGE_PLUGINS")), _names(env.get("MODBRIDGE_DISABLE")) or set()
        plugins = cls(seconds_allowed(env))
        for candidate in installed():
            off = candidate.name in denied or (allowed is not None and candidate.name not in allowed)
            plugins.load(candidate, disabled=off)
        for file in files:
            plugins.load(from_file(Path(file)))
        return plugins

    def load(self, candidate: Candidate, *, disabled: bool = False) -> PluginInfo:
        """Load one plugin whole, or note why not."""
        info = PluginInfo(candidate.name, candidate.distribution, candidate.version, "loaded")
        self.infos.append(info)
        if disabled:
            info.status = "disabled"
            return info
        specs: list[ComponentSpec] = []
        module: Any = None
        try:
            if self.manager.has_plugin(candidate.name):
                raise PluginError(f"a plugin named {candidate.name!r} is loaded already.")
            require_this_version(candidate.requires)
            with contained(candidate.name, self.seconds):
                module = candidate.load()
                self.manager.register(module, name=candidate.name)
                self.manager.check_pending()
                others = [plugin for plugin in self.manager.get_plugins() if plugin is not module]
                announce = self.manager.subset_hook_caller("modbridge_components", others)
                announce(register=self.registry.registrar(candidate.name, specs, candidate.code))
            self.registry.take(specs)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a stranger's code may raise anything; it is told by name
            info.status = "broken"
            info.error = str(error) if isinstance(error, PluginError) else _told(error)
            self.registry.broken[candidate.name] = info.error
            if module is not None and self.manager.get_plugin(candidate.name) is module:
                self.manager.unregister(name=candidate.name)
            return info
        info.components = [f"{spec.kind}:{spec.name}" for spec in specs]
        return info

    @property
    def files(self) -> list[str]:
        """The single-file plugins that were loaded."""
        return [info.distribution for info in self.infos if info.version == "file" and info.status == "loaded"]

    def commands(self, cli: Any, taken: Iterable[str] = ()) -> None:
        """Let the plugins add verbs, whole or not at all. One that fails is named, and the others go on; so is one that
        claims a verb of another plugin or one of `taken`."""
        for label, hook in self._each("modbridge_commands"):
            before = dict(cli.commands)
            try:
                with contained(label, self.seconds):
                    hook(cli=cli)
                claimed = [verb for verb, command in cli.commands.items() if command is not before.get(verb)]
                double = sorted({*taken, *before} & set(claimed))
                if double:
                    raise PluginError(f"{', '.join(map(repr, double))} is there already.")
            except (Exception, SystemExit) as error:
                cli.commands.clear()
                cli.commands.update(before)
                print(f"modbridge: the plugin {label!r} failed to add its verbs: {error}", file=sys.stderr)

    def doctor(self) -> list[tuple[str, bool, str]]:
        """What the plugins need of their environment. One that fails to say so is told as missing, and is one of
        `doctors_failed`."""
        found: list[tuple[str, bool, str]] = []
        for label, hook in self._each("modbridge_doctor"):
            try:
                with contained(label, self.seconds):
                    found += [(str(what), bool(there), str(advice)) for what, there, advice in hook()]
            except (Exception, SystemExit) as error:
                self.doctors_failed.append(label)
                found.append((f"plugin {label}", False, f"its doctor failed: {error}"))
        return found

    def event(self, name: str, **values: Any) -> None:
        """Tell the observers. One that raises is logged once and never stops a run."""
        for label, observe in self._each("modbridge_event"):
            if label in self._silenced:
                continue
            try:
                with contained(label, self.seconds):
                    observe(event={"name": name, **values})
            except (Exception, SystemExit) as error:  # observers are isolated by contract
                self._silenced.add(label)
                print(f"modbridge: the observer {label!r} failed and is left out: {error}", file=sys.stderr)

    def culprit(self, error: BaseException) -> str | None:
        """The plugin in whose code an error was raised, directly or by what that code called; None if in none."""
        homes = {spec.impl.partition(":")[0]: spec.plugin for spec in self.registry}
        homes |= {getattr(module, "__name__", "?"): name for name, module in self.manager.list_name_plugin()}
        names = {module.partition(".")[0]: plugin for module, plugin in homes.items()}
        names.pop(PROJECT, None)
        modules = [frame.f_globals.get("__name__") or "" for frame, _ in traceback.walk_tb(error.__traceback__)]
        return next((names[home] for home in (m.partition(".")[0] for m in reversed(modules)) if home in names), None)

    def _each(self, hook: str) -> list[tuple[str, Callable[..., Any]]]:
        """The plugins that implement a hook, in the order in which they were loaded, with their names."""
        return [
            (name, getattr(plugin, hook))
            for name, plugin in self.manager.list_name_plugin()
            if callable(getattr(plugin, hook, None))
        ]


def require_this_version(requires: Iterable[str]) -> None:
    """Raise PluginError unless this modbridge is one of those that a distribution's requirements name."""
    from packaging.requirements import InvalidRequirement, Requirement

    for line in requires:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue  # of another package, or else the installer would have refused it
        counts = wanted.marker is None or wanted.marker.evaluate({"extra": ""})
        if wanted.name.lower() == PROJECT and counts and not wanted.specifier.contains(__version__, prereleases=True):
            raise PluginError(
                f"it needs modbridge{wanted.specifier}, and this is modbridge {__version__}. Install one that suits "
                f"both, or another version of the plugin."
            )


def installed() -> list[Candidate]:
    """Every plugin that an installed distribution announces, by name."""
    found = []
    for point in metadata.entry_points(group=ENTRY_POINTS):
        dist = point.dist
        name, version = (dist.name, dist.version) if dist else ("?", "?")
        requires = tuple((dist.requires if dist and name != PROJECT else None) or ())
        found.append(Candidate(point.name, name, version, point.load, requires))
    return sorted(found, key=lambda c: (c.distribution != PROJECT, c.name))


def from_file(path: Path) -> Candidate:
    """An unpackaged plugin: one Python file with hook implementations."""

    def load() -> Any:
        spec = importlib.util.spec_from_file_location(f"modbridge_file_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module

    if not path.is_file() or path.suffix != ".py":
        raise DataError(f"--plugin {path}: expected an existing .py file.")
    return Candidate(path.stem, str(path), "file", load, code=hashlib.sha256(path.read_bytes()).hexdigest()[:20])


def _told(error: BaseException) -> str:
    """What a plugin's own code raised, and the last line of it where that happened."""
    if isinstance(error, pluggy.PluginValidationError):  # its words hold the module's path, which helps nobody
        said = re.sub(" in plugin <.*>", "", " ".join(str(error).split()))
        known = [f"{name}({', '.join([*signature(hook).parameters][1:])})" for name, hook in HOOKS.items()]
        return f"{said}; the hooks are {', '.join(known)}"
    ours = (str(Path(__file__).parents[1]), str(Path(pluggy.__file__).parent), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def _names(value: str | None) -> set[str] | None:
    return None if not value else {name.strip() for name in value.split(",") if name.strip()}
