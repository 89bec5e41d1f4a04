"""The command line. One file a verb; a verb's file is imported when it is called.

Exit codes: 0 done; 1 the user's mistake, with a message; 2 unknown verbs and options; 3 a plugin failed; 4 the
environment lacks something (network, disk, Java); 130 Ctrl-C.
"""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any

import click

from modbridge.cli.state import State, shared_options
from modbridge.errors import ConfigError, ModbridgeError, Problem
from modbridge.launched import launched

TOGETHER = "run"  # the verb that knows what to do where a launcher starts it several times
PATIENCE = 10.0  # seconds; the launcher ends the others much sooner once the first has told why

VERBS = {
    "cache": "Show what the cache holds, or empty it.",
    "caption": "Caption files with a finished run.",
    "check": "Check a config without loading weights.",
    "compare": "Compare a matrix of pipelines over seeds, with intervals and tests.",
    "components": "List every component that is installed.",
    "demo": "The whole job on a made-up world, from nothing.",
    "doctor": "Say what the environment lacks.",
    "embed": "Embed what a config names, and say where the vectors are.",
    "gap": "Measure the modality gap, before and after bridges.",
    "import-weights": "Take up the weights that a method's authors published.",
    "info": "Say what is installed and what it runs on, for issue reports.",
    "init": "Write a config to start from.",
    "new-plugin": "Write a package to begin a plugin with.",
    "plugins": "List the plugins that were found.",
    "run": "Run a config: embed, fit, generate, score, report.",
    "schema": "Write the JSON schema of configs, for editors.",
    "show": "Show one component: fields, ports, example, code.",
    "test-plugin": "Check that a plugin's components keep their promises.",
}


class Verbs(click.Group):
    """Verbs by name, imported when they are called; plugins may add their own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._ask_plugins(ctx)
        return sorted({*VERBS, *self.commands})

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in VERBS:
            verb: click.Command = import_module(f"modbridge.cli.{name.replace('-', '_')}").command
        else:
            self._ask_plugins(ctx)
            found = self.commands.get(name)
            if found is None:
                return None
            verb = found
        known = {option for param in verb.params for option in param.opts}
        verb.params += [option for option in shared_options() if not known & set(option.opts)]
        return verb

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self._ask_plugins(ctx)
        rows = dict(VERBS) | {name: command.get_short_help_str() for name, command in self.commands.items()}
        with formatter.section("Verbs"):
            formatter.write_dl(sorted(rows.items()))

    def _ask_plugins(self, ctx: click.Context) -> None:
        state: State = ctx.ensure_object(State)
        if not state.asked:
            state.asked = True
            state.plugins.commands(self, VERBS)


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="modbridge")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Bridges across the modality gap: encoders, bridges and decoders assembled from a config.

    Results go to stdout, talk to stderr.
    """
    ctx.ensure_object(State)
    verb = ctx.invoked_subcommand
    if launched().size > 1 and verb != TOGETHER:
        message = f"works in one process, and was started as one of {launched().size}"
        hint = f"start it without torchrun or accelerate launch; of all verbs only {TOGETHER} trains in several"
        raise ConfigError([Problem(f"modbridge {verb}", message, hint=hint)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; gives the exit code. One of several processes ends with it."""
    code = _called(arguments)
    if arguments is None and launched().size > 1:
        # What connected them has threads that an interpreter which takes itself apart may trip over, and be aborted.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    return code


def _called(arguments: Sequence[str] | None) -> int:
    state = State()
    if sys.stdout is None or launched().follows:  # it was closed (`>&-`), or another prints: results go nowhere
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    try:
        result: Any = cli.main(
            args=list(arguments) if arguments is not None else None,
            prog_name="modbridge",
            standalone_mode=False,
            obj=state,
        )
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except (KeyboardInterrupt, click.Abort):
        if not launched().follows:
            _tell("interrupted; run the same command again and it goes on where it was", state)
        return 130
    except SystemExit as error:  # a verb that leaves as a script does
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except click.BadParameter as error:
        _show(error)
        return 2 if isinstance(error, click.MissingParameter) else 1
    except click.ClickException as error:
        _show(error)
        return error.exit_code
    except ModbridgeError as error:
        _tell(str(error), state)
        return error.exit_code
    except BrokenPipeError:
        # The reader of our output went away (`modbridge ... | head`): nothing is left to say to it.
        sys.stderr.close()
        return 0
    except OSError as error:
        _tell(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), state)
        return 4 if error.errno in (errno.ENOSPC, errno.EROFS, errno.EDQUOT) else 1
    except Exception as error:
        full = "No space left on device" in str(error)
        plugin = state.plugins.culprit(error)
        bug = f"in the plugin {plugin!r}" if plugin else "this is a bug in modbridge"
        text = "no disk space left" if full else f"{bug}; --debug shows where"
        _tell(f"{type(error).__name__}: {error} ({text})", state)
        return 4 if full else 3


def _show(error: click.ClickException) -> None:
    if not launched().follows:
        error.show()


def _tell(message: str, state: State) -> None:
    launch = launched()
    if launch.follows:
        # Most errors are those of the first process too, which tells them; the launcher then ends this one.
        time.sleep(PATIENCE)
        message = f"process {launch.rank}: {message}"
    if state.debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr)
