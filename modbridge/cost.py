"""What crossing costs: parameters, multiply-adds, time, memory.

A multiply-add (MAC) is half a FLOP. Counted are matrix products and convolutions, as torch's counter sees them; norms,
activations and other elementwise work are not. (Diffusion Bridge's "+1.63 GFLOPs" are the multiply-adds of five calls
of its U-Net without those inside its attention: 5 x 325.8 M.)

Memory is what tensors take, the most at any one moment of a batch's crossing, above what was there before: not the
bridge's own weights and statistics, nor the batch. On CUDA the allocator says it, scratch space inside operations
included. Elsewhere tensors are followed from birth to end as operations give them out, so scratch space that one
operation takes and frees is not seen, nor are sparse tensors and arrays that are not torch's.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from modbridge.errors import DataError
from modbridge.interfaces.bridge import Bridge
from modbridge.interfaces.component import Component
from modbridge.noise import Draw
from modbridge.spaces import Embeddings

BATCH = {"cpu": 64}
BATCH_ON_A_GPU = 4096
REPEATS = 5
ENOUGH_SECONDS = 20.0


@dataclass(frozen=True)
class Cost:
    """What one crossing takes.

    `parameters`: of the bridge and its parts. `macs`: multiply-adds of one item. `item_seconds`: one item alone.
    `items_per_second`: in batches of `batch`. Both times are medians over some calls, after one that is not counted.
    `peak_bytes`: the most memory that such a batch's crossing holds in tensors, its result included.
    """

    parameters: int
    macs: int
    item_seconds: float
    items_per_second: float
    peak_bytes: int
    batch: int

    def columns(self) -> dict[str, float]:
        return asdict(self)


def parameters_of(component: Component[Any]) -> int:
    """The parameters of a component and of its parts."""
    return component.parameter_count() + sum(parameters_of(part) for part in component.context.parts.values())


def macs_of(bridge: Bridge[Any], item: Embeddings, seed: int = 0) -> int:
    """Multiply-adds of one item's `cross_vectors`; `item` holds one row."""
    if len(item) != 1:
        raise DataError(f"multiply-adds are counted of one item; found {len(item)}.")
    draw = Draw.of(item.keys, seed, device=bridge.device).named("cross")
    x = item.values.to(bridge.device, torch.float32)
    # no_grad rather than inference_mode, in which some operations reach the counter whole, as one it does not know.
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        bridge.cross_vectors(x.clone(), draw)
    return int(counter.get_total_flops()) // 2


def peak_bytes_of(call: Callable[[], object], device: torch.device) -> int:
    """The most bytes of tensors that a call holds at once on `device`, above what was there before."""
    if device.type == "cuda":
        _wait(device)
        before = int(torch.cuda.memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        call()
        _wait(device)
        return max(0, int(torch.cuda.max_memory_allocated(device)) - before)
    births = _Births(device.type)
    with births:
        call()
    return births.most


def cost_of(bridge: Bridge[Any], source: Embeddings, seed: int = 0, *, batch: int | None = None) -> Cost:
    """The cost of crossing, timed here and now on the bridge's device, with `source` rows repeated to fill a batch."""
    if len(source) == 0:
        raise DataError("the cost of crossing needs at least one source vector.")
    size = batch or BATCH.get(bridge.device.type, BATCH_ON_A_GPU)
    one = source.select([0])
    many = source.select([i % len(source) for i in range(size)])
    # On the device beforehand: the transfer is not what is asked for.
    one, many = one.to(bridge.device), many.to(bridge.device)
    return Cost(
        parameters=parameters_of(bridge),
        macs=macs_of(bridge, one, seed),
        item_seconds=_seconds(lambda: bridge.cross(one, seed), bridge.device),
        items_per_second=size / _seconds(lambda: bridge.cross(many, seed), bridge.device),
        peak_bytes=peak_bytes_of(lambda: bridge.cross(many, seed), bridge.device),
        batch=size,
    )


class _Births(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows the storages that operations bring forth on devices of one type, until they are freed.

    What is looked at is the storage behind a tensor, so views count nothing; what an operation was given is no news.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.kind = kind
        self.most = 0
        self._held: dict[int, int] = {}  # bytes, by the identity of a living storage

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        with self:  # in inference mode composite operations come whole; what they are made of has results of its own
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        given = {id(storage) for storage in self._storages([args, kwargs])}
        result = func(*args, **kwargs)
        for storage in self._storages(result):
            key = id(storage)  # torch keeps one Python object for a storage as long as that lives
            if key not in given and key not in self._held:
                weakref.finalize(storage, self._held.pop, key, None).atexit = False
            elif key not in self._held:
                continue
            self._held[key] = storage.nbytes()  # anew of those known: an operation may resize what it is given
        self.most = max(self.most, sum(self._held.values()))
        return result

    def _storages(self, values: Any) -> list[torch.UntypedStorage]:
        """Those behind the dense tensors among `values`."""
        return [
            leaf.untyped_storage()
            for leaf in tree_leaves(values)
            if isinstance(leaf, torch.Tensor) and leaf.device.type == self.kind and leaf.layout == torch.strided
        ]


def _seconds(call: Callable[[], object], device: torch.device) -> float:
    """The median time of a call: up to REPEATS, fewer once ENOUGH_SECONDS have gone."""
    _timed(call, device)
    times: list[float] = []
    while len(times) < REPEATS and (not times or sum(times) < ENOUGH_SECONDS):
        times.append(_timed(call, device))
    return max(median(times), 1e-9)


def _timed(call: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    begun = time.perf_counter()
    call()
    _wait(device)
    return time.perf_counter() - begun


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
