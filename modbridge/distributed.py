"""Several processes that train one model: what they say to each other.

All of them run the same program. Process 0 speaks, prints, writes, and does alone what is not trained (`World.first`);
the others wait meanwhile. A training step's rows are divided among them (`modbridge.training.train`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from modbridge.errors import ModbridgeError, SetupError
from modbridge.launched import launched

T = TypeVar("T")
# The others wait while process 0 embeds or generates; a process that died is found by its closed connection.
WAIT = timedelta(days=14)
BUCKET = 1 << 24  # elements summed at once, so that no second copy of all gradients is needed


class Elsewhere(ModbridgeError):
    """What another process raised, with its exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


@dataclass(frozen=True, slots=True)
class Share:
    """The loss of some rows of a batch as a sum, and the count (a scalar tensor) by which the sum over the whole batch
    is to be divided. For losses that are no mean over rows: over the tokens of captions, for instance."""

    total: torch.Tensor
    count: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """Over these rows alone; 0 where nothing is counted."""
        return self.total / self.count.clamp_min(1)


class World:
    """The processes of one launch; by default a single one, of which every method is then a plain call.

    `rank`: this process's number. `device`: the one that the launcher meant for it; None in a world of one.
    """

    def __init__(self, rank: int = 0, size: int = 1, device: torch.device | None = None) -> None:
        self.rank, self.device = rank, device
        self._size, self._solo = size, False

    @classmethod
    def of_launch(cls, device: str = "auto") -> World:
        """The world that `torchrun` or `accelerate launch` made: NCCL where it works on CUDA GPUs, else gloo.

        Raises SetupError for more processes than GPUs on this machine.
        """
        launch = launched()
        if launch.size == 1:
            return cls()
        from accelerate import PartialState

        told = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        cpu = device == "cpu" or told or not torch.cuda.is_available()
        if not cpu and launch.here > torch.cuda.device_count():
            raise SetupError(
                f"{launch.here} processes were started for {torch.cuda.device_count()} GPUs. Start one for each "
                f"(--nproc-per-node), or work on the CPU with --device cpu."
            )
        backend = "gloo" if cpu else "cpu:gloo,cuda:nccl"
        state: Any = PartialState(cpu=cpu, backend=backend, timeout=WAIT)
        return cls(state.process_index, state.num_processes, torch.device("cpu") if cpu else state.device)

    @property
    def size(self) -> int:
        """How many processes work together; 1 within `first`."""
        return 1 if self._solo else self._size

    @property
    def main(self) -> bool:
        """Whether this process speaks and writes."""
        return self.rank == 0

    @property
    def solo(self) -> bool:
        """Whether the others are waiting for what process 0 does alone."""
        return self._solo

    def first(self, make: Callable[[], T]) -> T:
        """What `make()` gives in process 0, in every process; it is called there alone, in a world of one meanwhile.

        Raises what `make` raised; elsewhere the same message.
        """
        if self.size == 1:
            return make()
        if not self.main:
            heard: T = _heard(self._broadcast(None))
            return heard
        self._solo = True
        try:
            found = make()
        except Exception as error:
            self._solo = False
            self._broadcast(_told(error))
            raise
        finally:
            self._solo = False
        self._broadcast(("done", found))
        return found

    def say(self, value: T | None = None) -> T:
        """The value of process 0, in every process; the others give none."""
        found: T = value if self.size == 1 else self._broadcast(value)  # type: ignore[assignment]
        return found

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            _sum(torch.zeros(1))

    def mine(self, rows: torch.Tensor) -> torch.Tensor:
        """This process's part of the rows of a batch (B,): B / size of them, one more or less; perhaps none."""
        count = len(rows)
        return rows[self.rank * count // self.size : (self.rank + 1) * count // self.size]

    def spread(self, tensors: Iterable[torch.Tensor]) -> None:
        """Fill tensors with what those of process 0 hold."""
        if self.size == 1:
            return
        with torch.no_grad():
            for tensor in tensors:
                if tensor.numel() == 0:
                    continue
                # As bytes: not every backend knows every type.
                flat = tensor.detach().reshape(-1).contiguous().view(torch.uint8)
                with _connected():
                    dist.broadcast(flat, 0)
                if not self.main:
                    tensor.copy_(flat.view(tensor.dtype).reshape(tensor.shape))

    def combined(
        self,
        parameters: Sequence[torch.nn.Parameter],
        step: Callable[[], tuple[torch.Tensor, torch.Tensor | int]] | None,
    ) -> torch.Tensor:
        """Give `parameters` the gradients of the whole batch's loss, and return that loss, float64 on the CPU.

        `step()` leaves the gradients of this process's mean loss, and gives that mean and the count that it is over;
        None where it has no rows. A parameter without a gradient counts as zero, and has none afterwards if it had
        none anywhere. Raises in every process where `step` raised in one.
        """
        error: Exception | None = None
        mean, own = torch.zeros(()), torch.zeros(())
        try:
            if step is not None:
                mean, count = step()
                own = torch.as_tensor(count)
        except Exception as found:
            error = found
        device = parameters[0].device
        there = [float(p.grad is not None) for p in parameters]
        head = torch.tensor([0.0, 0.0, float(error is not None), *there], dtype=torch.float64, device=device)
        own = own.to(head)
        head[0], head[1] = mean.to(head) * own, own
        _sum(head)
        total, whole, failed, *present = head.tolist()
        if failed:
            raise self._agreed(error)
        whole = max(whole, 1.0)
        for bucket in _buckets([p for p, number in zip(parameters, present, strict=True) if number]):
            flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in bucket])
            flat.mul_(own / whole)
            _sum(flat)
            for p, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                p.grad = part.view_as(p)
        return torch.tensor(total / whole, dtype=torch.float64)

    def close(self) -> None:
        """Part from the others."""
        if self._size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _broadcast(self, value: Any) -> Any:
        box = [value]
        with _connected():
            dist.broadcast_object_list(box, 0, device=torch.device("cpu"))
        return box[0]

    def _agreed(self, error: Exception | None) -> Exception:
        """One error for all: this process's own, or that of the first that has one."""
        told: list[Any] = [None] * self.size
        with _connected():
            dist.all_gather_object(told, None if error is None else _told(error))
        if error is not None:
            return error
        rank, answer = next((rank, answer) for rank, answer in enumerate(told) if answer is not None)
        return Elsewhere(f"process {rank}: {answer[1]}", answer[2])


def _heard(answer: tuple[Any, ...]) -> Any:
    if answer[0] == "failed":
        raise Elsewhere(*answer[1:])
    return answer[1]


def _told(error: Exception) -> tuple[str, str, int]:
    if isinstance(error, ModbridgeError):
        return "failed", str(error), error.exit_code
    return "failed", f"{type(error).__name__}: {error}", 3


def _sum(tensor: torch.Tensor) -> None:
    """Replace a tensor by its sum over all processes."""
    with _connected():
        dist.all_reduce(tensor)


@contextmanager
def _connected() -> Iterator[None]:
    """Say in words that another process is gone."""
    try:
        yield
    except (RuntimeError, ConnectionError) as error:
        raise SetupError(
            f"another process of this launch ended, or cannot be reached; what it had to say stands above. Run the "
            f"same command again; it goes on where it was. ({type(error).__name__}: {str(error).splitlines()[0][:200]})"
        ) from error


def _buckets(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """Parameters in runs of one type and device, of BUCKET elements or little more."""
    bucket: list[torch.nn.Parameter] = []
    for p in parameters:
        full = sum(other.numel() for other in bucket) >= BUCKET
        if bucket and (full or (p.dtype, p.device) != (bucket[0].dtype, bucket[0].device)):
            yield bucket
            bucket = []
        bucket.append(p)
    if bucket:
        yield bucket
