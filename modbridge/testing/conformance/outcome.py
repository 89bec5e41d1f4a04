"""What a check is, and what may come of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from modbridge.testing.conformance.subject import Subject

Status = Literal["ok", "failed", "expected", "not run", "not for it"]


class Failed(Exception):
    """A check does not hold. Three sentences: what was found, what was expected, what to do about it."""

    def __init__(self, found: str, expected: str, remedy: str) -> None:
        self.found, self.expected, self.remedy = found, expected, remedy
        super().__init__(f"found: {found}\nexpected: {expected}\nwhat to do: {remedy}")


class NotRun(Exception):
    """A check could not be made here, and why: no GPU, no Java, an example that does not build."""


class NotForIt(NotRun):
    """A check does not concern the component, and why: nothing to train, nothing to keep."""


@dataclass(frozen=True)
class Check:
    """One promise that components make, and the function that looks whether it is kept.

    `kinds`: of the components that it is for; ("plugin",) for what concerns the plugin as a whole. `run` gives nothing
    where the promise is kept, raises Failed where it is not, NotRun where it cannot be told, and
    NotForIt where nothing was promised.
    """

    name: str
    kinds: tuple[str, ...]
    summary: str
    run: Callable[[Subject], None]


@dataclass(frozen=True)
class Outcome:
    """What came of one check of one component.

    `status`: "ok"; "failed", with `found`, `expected` and `remedy`; "expected", a failure that was announced, with its
    `reason`; "not run" or "not for it", with the `reason`.
    """

    component: str
    check: str
    status: Status
    found: str = ""
    expected: str = ""
    remedy: str = ""
    reason: str = ""

    @property
    def id(self) -> str:
        return f"{self.component}/{self.check}"

    def __str__(self) -> str:
        if self.status == "failed":
            return f"{self.id}\n  found: {self.found}\n  expected: {self.expected}\n  what to do: {self.remedy}"
        return f"{self.id}: {self.status}" + (f" ({self.reason})" if self.reason else "")
