"""Joining a cluster, and sharing out its room."""

from __future__ import annotations

import time
from typing import Any

import pytest
from modbridge_ray.cluster import Share, join, share_of
from modbridge_ray.config import RayConfig
from modbridge_ray.worker import Failed, Surroundings
from pydantic import ValidationError

from modbridge.config.kinds import EngineConfig
from modbridge.errors import ConfigError, DataError, Problem, SetupError

GPUS = {"CPU": 32.0, "GPU": 4.0}
WIDE, NARROW = {"CPU": 16.0}, {"CPU": 8.0}


@pytest.mark.parametrize(
    ("fields", "nodes", "tasks", "expected"),
    [
        ({}, [GPUS, GPUS], 100, Share(8, 8, 1)),
        ({}, [GPUS, NARROW], 100, Share(4, 8, 1)),  # a node without GPUs gets no worker where others have some
        ({}, [GPUS, GPUS], 3, Share(3, 8, 1)),
        ({"gpus_per_worker": 0.5}, [GPUS], 100, Share(8, 4, 0.5)),
        ({"gpus_per_worker": 0}, [GPUS, NARROW], 100, Share(5, 8, 0)),
        ({}, [WIDE, NARROW], 100, Share(3, 8, 0)),
        ({}, [{"memory": 1.0}, NARROW], 100, Share(1, 8, 0)),  # a head that is to do no work
        ({"cpus_per_worker": 3}, [NARROW, NARROW], 100, Share(4, 3, 0)),
        ({"workers": 2}, [NARROW] * 5, 100, Share(2, 8, 0)),
        ({}, [{"CPU": 2.0, "GPU": 4.0}], 100, Share(2, 1, 1)),
    ],
)
def test_workers_for_the_room_there_is(fields: Any, nodes: Any, tasks: int, expected: Share) -> None:
    assert share_of(RayConfig(**fields), nodes, tasks) == expected


def test_no_room() -> None:
    with pytest.raises(SetupError, match=r"room for a worker of 16 cores and 0 GPUs\. Nodes: 8 cores, 0 GPUs"):
        share_of(RayConfig(cpus_per_worker=16), [NARROW], 10)


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "head:port", "http://head:8265"])
def test_addresses_that_are_none(address: str) -> None:
    with pytest.raises(ValidationError, match="expected HOST:PORT"):
        RayConfig(address=address)


def test_a_cluster_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    begun = time.monotonic()
    with pytest.raises(SetupError, match=r"no Ray cluster answers at 127.0.0.1:1 .*ray start --head --port=1"):
        join(RayConfig(address="127.0.0.1:1"))
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:2")
    with pytest.raises(SetupError, match=r"answers at 127.0.0.1:2"):
        join(RayConfig())
    assert time.monotonic() - begun < 5


def test_errors_travel() -> None:
    for error in (
        DataError("the item is broken"),
        ConfigError([Problem("a", "is missing"), Problem("b", "is wrong")]),
        OSError(28, "No space left on device", "/x"),
    ):
        again = Failed.of(error).again()
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert again.__notes__[0].startswith("on ")


def test_an_error_that_cannot_travel() -> None:
    class Odd(Exception):
        def __init__(self, one: str, two: str) -> None:
            super().__init__(one + two)

    again = Failed.of(Odd("a", "b")).again()
    assert (again.exit_code, str(again)) == (3, "Odd: ab")  # type: ignore[attr-defined]


def test_a_node_with_another_modbridge() -> None:
    with pytest.raises(SetupError, match=r"modbridge .*, not 0.0.9. Install the same on every node"):
        Surroundings(versions={**Surroundings().versions, "modbridge": "0.0.9"}).enter()


def test_it_is_an_engine_s_config() -> None:
    assert issubclass(RayConfig, EngineConfig)
