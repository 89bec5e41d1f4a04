"""What engines promise: every task done, each once, by workers that are opened first; errors arrive as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from modbridge.errors import ConfigError, DataError, ModbridgeError, Problem, SetupError
from modbridge.interfaces.engine import Work
from modbridge.testing.conformance.outcome import Check, Failed
from modbridge.testing.conformance.subject import Subject

TASKS = 7
TROUBLES: tuple[ModbridgeError, ...] = (
    DataError("the item 'a' cannot be read."),
    SetupError("the disk is full."),
    ConfigError([Problem("a.b", "is missing", where="x.yaml:3", hint="give it"), Problem("c", "is no number")]),
)


def doubled(plus: int) -> Work:
    """A worker: numbers doubled, and `plus` added."""

    def work(tasks: Sequence[int]) -> Iterator[dict[str, Any]]:
        for task in tasks:
            yield {"task": task, "result": 2 * task + plus}

    return work


def troubled(number: int) -> Work:
    """A worker that finds a mistake in the user's data, the environment or a config."""

    def work(tasks: Sequence[int]) -> Iterator[int]:
        for task in tasks:
            if task == 1:
                raise TROUBLES[number]
            yield task

    return work


def every_task_once(subject: Subject) -> None:
    found = list(subject.component.map(doubled, (5,), list(range(TASKS))))
    numbers = sorted(number for number, _ in found)
    if numbers != list(range(TASKS)):
        raise Failed(
            f"of {TASKS} tasks it gave results of {numbers}",
            "the number and the result of every task, each once",
            "keep account of what came back, and do again what did not",
        )
    for number, result in found:
        if result != {"task": number, "result": 2 * number + 5}:
            raise Failed(
                f"the result of task {number} is {result!r}",
                "what `opened(*about)` gave of the task of that number",
                "hand results on with the numbers of their tasks",
            )
    if list(subject.component.map(doubled, (5,), [])):
        raise Failed("without tasks it gave results", "nothing", "give none")


def errors_arrive(subject: Subject) -> None:
    for number, error in enumerate(TROUBLES):
        name = type(error).__name__
        try:
            for _ in subject.component.map(troubled, (number,), [0, 1]):
                pass
        except Exception as found:
            if type(found) is not type(error) or str(found) != str(error):
                raise Failed(
                    f"of a {name} in a worker came {type(found).__name__}: {str(found)[:80]!r}",
                    "the same class with the same message, which decide what the user is told and the exit code",
                    "pickle the error in the worker and raise it where the work was asked for",
                ) from found
        else:
            raise Failed(f"a {name} in a worker did not arrive", "that it is raised", "raise it where `map` was called")


CHECKS = (
    Check("every_task_once", ("engine",), "it gives the result of every task, each once", every_task_once),
    Check("errors_arrive", ("engine",), "what a worker raises arrives with its class and message", errors_arrive),
)
