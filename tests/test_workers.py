"""Cells spread over processes: every one is done once, failures and deaths are told, and the others go on."""

from __future__ import annotations

import time
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest

from modbridge.assembly.workers import Failure, in_turn, spread
from modbridge.errors import SetupError


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What processes do, where they find it by its name."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    return import_module("spread_cells")


def test_one_after_the_other_each_cell_is_told() -> None:
    done: list[int] = []

    def job(index: int) -> None:
        if index == 1:
            raise SetupError("no disk")
        done.append(index)

    assert list(in_turn(range(3), job)) == [(0, None), (1, Failure("no disk", 4)), (2, None)]
    assert done == [0, 2]


@pytest.mark.parametrize("jobs", [1, 2])
def test_processes_do_every_cell_once_and_survive_one_that_dies(tmp_path: Path, jobs: int, cells: ModuleType) -> None:
    found = dict(spread(range(8), jobs, cells.opened, str(tmp_path)))
    assert sorted(found) == list(range(8))
    assert {index for index, failure in found.items() if failure is None} == {0, 1, 2, 6, 7}
    assert found[3] == Failure("found nothing", 1)
    assert found[4] is not None
    assert found[4].exit_code == 3
    assert found[4].message.startswith("ZeroDivisionError: division by zero (this is a bug")
    assert "raise ZeroDivisionError" in found[4].traceback
    assert found[5] is not None
    assert "SIGKILL" in found[5].message
    assert "fewer --jobs" in found[5].message
    assert sorted(path.name for path in tmp_path.glob("done-*")) == [f"done-{i}" for i in (0, 1, 2, 6, 7)]
    # The one that died was replaced, unless the other had done all that was left by then.
    assert len(list(tmp_path.glob("opened-*"))) in ([2] if jobs == 1 else [2, 3])


def test_stopping_early_ends_the_processes(cells: ModuleType) -> None:
    begun = time.monotonic()
    work = spread(range(3), 2, cells.sleepy)
    assert next(work) == (0, None)
    work.close()  # type: ignore[attr-defined]
    assert time.monotonic() - begun < 30
