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
    size, rank = _number("WORLD_SIZE", 1), _number("RANK", -1)
    if size < 2 or rank < 0:
        return Launch(0, 1, 1)
    return Launch(rank, size, _number("LOCAL_WORLD_SIZE", size))


def _number(name: str, otherwise: int) -> int:
    """What a launcher set; a variable that is no number is not a launcher's."""
    found = os.environ.get(name, "")
    return int(found) if found.isdecimal() else otherwise
