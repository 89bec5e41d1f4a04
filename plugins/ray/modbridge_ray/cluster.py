"""Joining a cluster, and what room it has."""

from __future__ import annotations

import logging
import math
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modbridge.errors import SetupError
from modbridge_ray.config import RayConfig

PATIENCE = 5.0  # seconds until a head that does not answer is given up
STORE = 200 << 20  # bytes: what passes through the object store of a cluster of our own are tasks and notes


@dataclass(frozen=True)
class Share:
    """How many workers there will be, and what each of them gets."""

    workers: int
    cpus: float
    gpus: float


def join(config: RayConfig) -> None:
    """Become a driver of the cluster, unless this process is one already. Raises SetupError where there is none."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray announces a change that is none here
    import ray
    import ray.data

    for name in ("ray", "ray.data"):  # what matters of their news is told in our words
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if ray.is_initialized():
        return
    quiet: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    named = config.address or os.environ.get("RAY_ADDRESS")
    if named != "local":
        host, _, port = (named or "").rpartition(":")
        if host and port.isdecimal():
            _require_answer(host, int(port))
        try:
            ray.init(address=named or "auto", **quiet)
            return
        except Exception as error:  # of many classes, and each says at length that it could not be joined
            if named is not None:
                raise SetupError(
                    f"the Ray cluster {named} cannot be joined: {_first_line(error)} This machine must be one of its "
                    f"nodes: `ray start --address=HOST:PORT`, or `ray start --head` for a new cluster."
                ) from error
            if not isinstance(error, ConnectionError):
                raise SetupError(f"Ray cannot be started: {_first_line(error)}") from error
    try:
        ray.init(address="local", include_dashboard=False, object_store_memory=STORE, **quiet)
    except Exception as error:
        raise SetupError(f"Ray cannot be started on this machine: {_first_line(error)}") from error


def _require_answer(host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), timeout=PATIENCE).close()
    except OSError as error:
        raise SetupError(
            f"no Ray cluster answers at {host}:{port} ({error}). Start its head with `ray start --head --port={port}` "
            f"there, or correct the address (--engine-set address=HOST:PORT, or RAY_ADDRESS)."
        ) from error


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{(lines or [type(error).__name__])[0].rstrip('.')}."


def share_of(config: RayConfig, nodes: Sequence[Mapping[str, float]], tasks: int) -> Share:
    """How `tasks` are shared out over nodes, each given by its resources ("CPU", "GPU").

    Raises SetupError where not one worker finds room.
    """
    gpus = config.gpus_per_worker
    if gpus is None:
        gpus = 1.0 if any(node.get("GPU", 0) > 0 for node in nodes) else 0.0
    able = [node for node in nodes if node.get("CPU", 0) > 0 and node.get("GPU", 0) >= gpus]
    cpus = config.cpus_per_worker
    if cpus is None:
        among = [node["CPU"] / math.floor(node["GPU"] / gpus) if gpus else node["CPU"] for node in able]
        cpus = max(1.0, float(math.floor(min(among, default=1.0))))
    room = sum(math.floor(min(node["CPU"] / cpus, node["GPU"] / gpus if gpus else math.inf) + 1e-6) for node in able)
    if room == 0:
        have = "; ".join(f"{node.get('CPU', 0):g} cores, {node.get('GPU', 0):g} GPUs" for node in nodes) or "none"
        raise SetupError(
            f"no node of the Ray cluster has room for a worker of {cpus:g} cores and {gpus:g} GPUs. Nodes: {have}. "
            f"Give less (--engine-set cpus_per_worker=N, gpus_per_worker=N), or add nodes (`ray start "
            f"--address=HOST:PORT`)."
        )
    return Share(min(config.workers or room, room, tasks), cpus, gpus)
