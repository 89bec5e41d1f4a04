"""Config of the engine `ray`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from modbridge.config.kinds import EngineConfig


def _an_address(text: str | None) -> str | None:
    if text is None or text in ("auto", "local") or re.fullmatch(r"[^\s:/]+:\d+", text):
        return text
    hint = "; a driver is a node of its cluster here, and Ray's client (ray://) is none" if "://" in text else ""
    raise ValueError(f"expected HOST:PORT of the cluster's head, auto or local{hint}")


class RayConfig(EngineConfig):
    """Shards and chunks handed out to the workers of a Ray cluster by Ray Data."""

    type: Literal["ray"] = "ray"
    address: Annotated[str | None, AfterValidator(_an_address)] = None
    """HOST:PORT of the cluster's head; "auto": the cluster that this machine is a node of; "local": one on this machine
    for this run. By default RAY_ADDRESS, or else "auto", or, where there is none, "local"."""
    workers: Annotated[int, Field(ge=1)] | None = None
    """At most so many workers; by default as many as the nodes have room for."""
    gpus_per_worker: Annotated[float, Field(ge=0)] | None = None
    """By default 1 where any node has GPUs, else 0. Below 1 several workers share one."""
    cpus_per_worker: Annotated[float, Field(gt=0)] | None = None
    """Cores of a worker, which are its encoder's threads as well. By default a node's cores are shared out among its
    GPUs' workers; without GPUs a worker is as many cores wide as the smallest node has, and larger ones have more."""
    tasks_per_call: Annotated[int, Field(ge=1)] = 4
    """Shards or chunks handed to a worker at a time. With more it reads ahead over more of them; fewer are begun again
    when it is lost."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often in a row workers may be lost before anything more is done; then the run ends with an error."""
