"""What the verbs share: options that every verb takes, plugins found once, output."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modbridge.launched import launched
from modbridge.plugins.containment import off_stdout
from modbridge.plugins.manager import Plugins

if TYPE_CHECKING:
    from modbridge.assembly.experiment import Experiment
    from modbridge.assembly.session import Session
    from modbridge.interfaces.engine import Engine
    from modbridge.plugins.registry import Registry
    from modbridge.stages.run import Result


@dataclass
class State:
    """One call of the command line."""

    files: list[str] = field(default_factory=list)
    debug: bool = False
    quiet: bool = False
    asked: bool = False
    hushed: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def plugins(self) -> Plugins:
        return Plugins.discover(self.files)


def shared_options() -> list[click.Option]:
    """--plugin, --debug and --quiet, which every verb takes."""

    def keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
        state: State = ctx.ensure_object(State)
        if param.name == "plugin_files":
            if value:
                state.files += value
                state.__dict__.pop("plugins", None)
        elif value:
            setattr(state, str(param.name), True)

    def option(names: list[str], text: str, **more: Any) -> click.Option:
        return click.Option(names, help=text, expose_value=False, callback=keep, is_eager=True, **more)

    return [
        option(["--plugin", "plugin_files"], "Also load this .py file.", multiple=True, metavar="FILE"),
        option(["--debug", "debug"], "Show tracebacks.", is_flag=True),
        option(["--quiet", "quiet"], "No talk, no progress.", is_flag=True),
    ]


@dataclass(frozen=True)
class Asked:
    """The config file that a verb was given, and what changes it."""

    config: str
    sets: tuple[str, ...] = ()
    vary: tuple[str, ...] = ()
    profile: str | None = None

    def load(self, registry: Registry, *, allow_misfits: bool = False) -> Experiment:
        """Every cell of it, checked; see `load_experiment`."""
        from modbridge.assembly.experiment import load_experiment

        how: dict[str, Any] = {"sets": self.sets, "vary": self.vary, "profile": self.profile}
        return load_experiment(self.config, registry, **how, allow_misfits=allow_misfits)


@dataclass(frozen=True)
class Work:
    """Where and how work is done; none of it changes a result."""

    cache: str | None = None
    device: str = "auto"
    on_error: str = "raise"
    checkpoint_seconds: float = 20.0
    engine: str = "local"
    engine_sets: tuple[str, ...] = ()


def config_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The config file and what changes it, given to the verb as `asked`."""

    @wraps(function)
    def verb(*args: Any, config: str, sets: Any, vary: Any, profile: str | None, **more: Any) -> Any:
        return function(*args, asked=Asked(config, sets, vary, profile), **more)

    return _with_options(
        verb,
        click.argument("config"),
        click.option("--set", "sets", multiple=True, metavar="A.B=VALUE", help="Set a field. May be repeated."),
        click.option("--vary", "vary", multiple=True, metavar="A.B=X,Y", help="One cell for each value."),
        click.option(
            "--profile",
            metavar="NAME[,NAME]",
            help="Apply the config's profile NAME, such as smoke; of several the later over the earlier.",
        ),
    )


def work_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Where and how work is done, given to the verb as `work`."""

    @wraps(function)
    def verb(*args: Any, **more: Any) -> Any:
        return function(*args, work=Work(**{field.name: more.pop(field.name) for field in fields(Work)}), **more)

    return _with_options(
        verb,
        click.option(
            "--cache", metavar="DIR", help="Where results are kept. [default: MODBRIDGE_CACHE, or the user's]"
        ),
        click.option("--device", default="auto", show_default=True, help="cpu, cuda, mps; auto: as the config says."),
        click.option(
            "--on-error",
            type=click.Choice(["raise", "skip"]),
            default="raise",
            show_default=True,
            help="What to do with items that cannot be read.",
        ),
        click.option(
            "--checkpoint-seconds",
            type=click.FloatRange(0),
            default=20.0,
            show_default=True,
            help="How often long fits save their state.",
        ),
        click.option("--engine", default="local", show_default=True, help="Where to embed and generate, such as ray."),
        click.option(
            "--engine-set", "engine_sets", multiple=True, metavar="FIELD=VALUE", help="Set a field of the engine."
        ),
    )


def _with_options(verb: Callable[..., Any], *options: Callable[[Any], Any]) -> Callable[..., Any]:
    for option in reversed(options):
        verb = option(verb)
    return verb


def _hush(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    """With --json nothing but the JSON reaches stdout, whatever the code of plugins prints until then."""
    if value:
        state: State = ctx.ensure_object(State)
        state.hushed.enter_context(off_stdout())
        ctx.call_on_close(state.hushed.close)
    return value


json_option = click.option("--json", "as_json", is_flag=True, callback=_hush, help="JSON on stdout instead of a table.")


def make_session(state: State, work: Work) -> Session:
    """The session of a verb that works. Of several processes only the first talks."""
    from modbridge.assembly.session import Session
    from modbridge.distributed import World
    from modbridge.store.cache import Cache
    from modbridge.talk import Talk

    return Session(
        plugins=state.plugins,
        cache=Cache(cache_folder(work.cache)),
        talk=Talk(quiet=state.quiet or launched().follows),
        device=work.device,
        on_error=work.on_error,
        checkpoint_seconds=work.checkpoint_seconds,
        engine=_engine(state, work),
        world=World.of_launch(work.device),
    )


def _engine(state: State, work: Work) -> Engine[Any]:
    """The engine that was asked for. Raises ConfigError where there is none of that name, or a field is wrong."""
    from modbridge.assembly.build import build_component
    from modbridge.config.blocks import validate_block
    from modbridge.config.overrides import apply_sets
    from modbridge.errors import ConfigError, Problem
    from modbridge.interfaces.component import BuildContext

    registry, problems = state.plugins.registry, list[Problem]()
    block, _ = apply_sets({"type": work.engine}, {}, work.engine_sets, problems, said_by="--engine-set")
    if problems:
        raise ConfigError(problems)
    try:
        config = validate_block("engine", block, registry)
    except ConfigError as error:
        told = [replace(p, path="--engine" if p.path == "type" else f"--engine-set {p.path}") for p in error.problems]
        raise ConfigError(told) from error
    found: Engine[Any] = build_component(config, "engine", registry, BuildContext())
    return found


def cache_folder(given: str | None) -> Path:
    """The cache: as given, else MODBRIDGE_CACHE, else the user's cache folder."""
    from modbridge.store.place import cache_root

    return cache_root(given)


def print_json(value: Any) -> None:
    """The result of a verb, as JSON on stdout."""
    ctx = click.get_current_context(silent=True)
    if ctx is not None:
        ctx.ensure_object(State).hushed.close()
    json.dump(value, sys.stdout, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    sys.stdout.write("\n")


def print_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table on stdout; as wide as it needs where stdout is no terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, markup=False)
    if console.is_terminal:
        console.print(table)
        return
    console.width = 400
    with console.capture() as text:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in text.get().splitlines()))


def print_table(rows: Sequence[dict[str, Any]], notes: Sequence[str] = ()) -> None:
    """A result table with its own notes and `notes`."""
    from modbridge.tables import grid, notes_of

    print_rows(*grid(rows))
    for note in [*notes_of(rows), *notes]:
        click.echo(note)


def print_conditioning(result: Result) -> None:
    """What the embeddings of encoders tell the objectives that teach them, where there are any."""
    for label, found in result.conditioning.items():
        table = found.table(f"what the embeddings tell: {label}")
        click.echo()
        print_rows(table.headings, table.cells, title=table.title)
        for note in table.notes:
            click.echo(note)
