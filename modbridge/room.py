"""Room for large sets of vectors: in memory where they fit, else in a file that is mapped into it.

What is mapped is a tensor like any other. The system reads of it what is asked for and drops what it needs the memory
for, so statistics, batches and bridges go through sets larger than memory. Source: ours.
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import torch

from modbridge.errors import SetupError
from modbridge.launched import launched

CHUNK = 4096
SHARE = 4  # one set may take a quarter of the memory; a run holds several
_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def memory() -> int:
    """Bytes of memory that this process may use: the machine's, or what its control group allows."""
    try:
        found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    except (AttributeError, ValueError, OSError):  # a system that does not tell
        found = [sys.maxsize]
    for file in _limits():
        try:
            found.append(int(file.read_text(encoding="ascii")))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found)


def _limits() -> list[Path]:
    """The files that may hold a limit for this process: those of its own group, of the groups around it, and of the
    container's root."""
    try:
        groups = [line.split(":", 2) for line in _OWN_GROUPS.read_text(encoding="utf-8").splitlines()]
    except OSError:
        return []
    files = [_CGROUPS / "memory.max", _CGROUPS / "memory" / "memory.limit_in_bytes"]
    for _, controllers, path in groups:
        own = Path(path.strip("/"))
        for group in (own, *own.parents):  # a limit of a job holds for its steps
            if not controllers:
                files.append(_CGROUPS / group / "memory.max")
            elif "memory" in controllers.split(","):
                files.append(_CGROUPS / "memory" / group / "memory.limit_in_bytes")
    return files


def fits(count: int) -> bool:
    """Whether a set of `count` bytes is held in memory, by each of the processes that were launched here together."""
    return count <= memory() // SHARE // launched().here


def on_device(count: int, device: torch.device) -> bool:
    """Whether a set of `count` bytes is held on the device: at most half of what is free there."""
    if device.type == "cuda":
        return count <= torch.cuda.mem_get_info(device)[0] // 2
    return device.type != "cpu" or fits(count)


def filled(count: int, part: Callable[[slice], torch.Tensor], device: torch.device, chunk: int = CHUNK) -> torch.Tensor:
    """`count` > 0 rows, `chunk` at a time as `part(rows)` (B, ...) gives them, kept where `empty` finds room."""
    first = part(slice(0, min(chunk, count)))
    if count <= chunk:
        return first.contiguous()  # it is saved as it is, and may be the transpose of something
    found = empty((count, *first.shape[1:]), device, first.dtype)
    found[: len(first)] = first
    for start in range(len(first), count, chunk):
        rows = slice(start, min(start + chunk, count))
        found[rows] = part(rows)
    return found


def empty(shape: Sequence[int], device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """A tensor to be filled: on the device if it fits there, else in memory, else in a file in the folder for
    temporary files (TMPDIR) that is gone when the tensor is.

    Raises SetupError if the disk has no room for it.
    """
    count, device = dtype.itemsize * math.prod(shape), torch.device(device)
    if device.type != "cpu" and on_device(count, device):
        return torch.empty(*shape, device=device, dtype=dtype)
    if fits(count):
        return torch.empty(*shape, dtype=dtype)
    with tempfile.TemporaryFile(prefix="modbridge-") as file:
        reserve(file, count, tempfile.gettempdir())
        return _mapped(file.fileno(), shape, mmap.MAP_SHARED, dtype)


def reserve(file: IO[bytes], count: int, where: Path | str) -> None:
    """Let a file have `count` bytes on the disk, now: a mapped file that finds it full ends the process.

    Raises SetupError if the disk is full.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, count)
        else:
            file.truncate(count)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise
        raise SetupError(
            f"{count / 1e9:.1f} GB of vectors are too many for the memory ({memory() / 1e9:.1f} GB), and {where} has "
            f"no room for them. Free some, or point TMPDIR and the cache to a larger disk."
        ) from error


def mapped(
    path: Path, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, shared: bool = False
) -> torch.Tensor:
    """The tensor that a file holds. What is written to it reaches the file only if it is `shared`."""
    with path.open("r+b" if shared else "rb") as file:
        return _mapped(file.fileno(), shape, mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE, dtype)


def _mapped(number: int, shape: Sequence[int], kind: int, dtype: torch.dtype) -> torch.Tensor:
    count = dtype.itemsize * math.prod(shape)
    pages = mmap.mmap(number, count, flags=kind | _NO_RESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    return torch.frombuffer(pages, dtype=dtype).view(*shape)
