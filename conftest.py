"""Fixtures for every test of the workspace."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from modbridge.cli import main

TOY = Path(__file__).parent / "tests" / "toy_plugin.py"

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a hub call without network retries for 23 s; offline it answers at once


@pytest.fixture(scope="session")
def requires_data() -> Path:
    """The folder of real test data, or a skip: a user's clone has none and passes without."""
    folder = os.environ.get("MODBRIDGE_TEST_DATA")
    if not folder:
        pytest.skip("needs real data: set MODBRIDGE_TEST_DATA to the folder that holds it")
    return Path(folder)


@dataclass(frozen=True)
class Result:
    """What a call of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Call `modbridge ARGS` with the toy plugin and a cache of the test's own."""
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)  # a run without --out goes to runs/ here

    def run(*arguments: object, toy: bool = True) -> Result:
        capsys.readouterr()
        extra = ["--plugin", str(TOY)] if toy else []
        code = main([str(argument) for argument in arguments] + extra)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Result(code, captured.out, captured.err)

    return run


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Networks of a few thousand weights are slower on two threads than on one, by far where others use the machine."""
    import torch  # the laion_clap environment has its own; only who asks pays for it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
