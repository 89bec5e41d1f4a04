"""Room: what this process may use, and tensors where it is too little."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from modbridge import room
from modbridge.launched import launched


def test_the_limit_of_a_group_around_ours_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = tmp_path / "job" / "step"
    step.mkdir(parents=True)
    (step / "memory.max").write_text("max\n")
    (tmp_path / "job" / "memory.max").write_text("1000000\n")
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    monkeypatch.setattr(room, "_OWN_GROUPS", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/job/step\n")
    assert room.memory() == 1_000_000
    (step / "memory.max").write_text("5000\n")
    assert room.memory() == 5000


def test_processes_of_one_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "memory", lambda: 8000)
    assert room.fits(2000)
    for name, value in {"WORLD_SIZE": "4", "RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert room.fits(1000)
    assert not room.fits(1001)


@pytest.mark.parametrize("size", ["", "two"])
def test_a_variable_that_is_no_launcher_s_is_passed_over(size: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", size)
    monkeypatch.setenv("RANK", "0")
    assert launched().size == 1


def test_what_does_not_fit_is_filled_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.arange(60.0).view(20, 3)
    monkeypatch.setattr(room, "memory", lambda: 4)
    found = room.filled(20, lambda rows: 2 * x[rows], torch.device("cpu"), chunk=7)
    assert torch.equal(found, 2 * x)
    assert not found.untyped_storage().resizable()  # it belongs to a map, not to torch's memory


def test_rows_of_a_transpose_lie_as_they_are_stored() -> None:
    columns = torch.arange(6.0).view(2, 3)
    for chunk in (2, 8):
        found = room.filled(3, lambda rows: columns.T[rows], torch.device("cpu"), chunk)
        assert torch.equal(found, columns.T)
        assert found.is_contiguous()
