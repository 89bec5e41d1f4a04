"""Whether `torchrun` or `accelerate launch` started this process as one of several; read from the environment alone."""

from __future__ import annotations

import os
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Launch:
    """This process's number among all (`rank`), how many there are (`size`), and how many on this machine (`here`)."""

    rank: int
    size: int
    here: int

    @property
    def follows(self) -> bool:
        """Whether another process speaks, prints and writes for this one."""
        return self.rank > 0


def launched() -> Launch:
    """What the launcher says; one process of one without a launcher."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size < 2 or "RANK" not in os.environ:
        return Launch(0, 1, 1)
    return Launch(int(os.environ["RANK"]), size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
