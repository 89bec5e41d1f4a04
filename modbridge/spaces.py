"""Spaces, ports and embeddings: the one place where it is decided whether two parts fit together.

Importing this module loads neither torch nor numpy, so configs can speak of ports without weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from modbridge.errors import DataError, PortError

if TYPE_CHECKING:
    import torch

    from modbridge.moments import Moments

Frame = Literal["raw", "centred", "source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """An embedding space. Two vectors may be compared only inside one space.

    The id includes the weights ("open_clip/ViT-B-32/openai"). `dim` is None only in a check made before the data
    that fix it are given.
    """

    id: str
    dim: int | None
    normalised: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """One modality's side of a space, and what has been done to the vectors there.

    `tokens`: None for vectors (B, D), n for sequences (B, n, D).
    `frame`: "raw" as the encoder gives them, "centred" after a mean has been taken away; "source" among the raw vectors
    of the source modality, where some bridges carry the text that a decoder is trained on.
    `bridge`: the bridge the vectors came through, for messages; it does not decide compatibility.
    """

    space: Space
    modality: str
    tokens: int | None = None
    frame: Frame = "raw"
    bridge: str | None = None

    def __str__(self) -> str:
        dim = self.space.dim or "?"
        shape = f"{dim}-d" if self.tokens is None else f"{self.tokens} x {dim}"
        through = f", through {self.bridge}" if self.bridge else ""
        return f"{self.frame} {shape} {self.modality} vectors of {self.space.id}{through}"

    def conflict(self, other: Port) -> str | None:
        """Why vectors of `other` cannot stand where vectors of this port are expected; None if they can.

        The modality may differ: that is what bridges are for.
        """
        if self.space.id != other.space.id:
            same = self.space.dim == other.space.dim
            return "another space" + (" (of the same size, but trained apart)" if same else "")
        if None not in (self.space.dim, other.space.dim) and self.space.dim != other.space.dim:
            return "another dimension"
        if self.tokens != other.tokens:
            return "vectors where sequences are expected" if self.tokens else "sequences where vectors are expected"
        if self.frame != other.frame:
            return f"{other.frame} vectors where {self.frame} ones are expected"
        return None

    def holds(self, shape: tuple[int, ...], count: int) -> bool:
        """Whether a tensor of this shape can be the vectors of `count` items here: (count, D) or (count, n, D)."""
        known = (count, self.space.dim) if self.tokens is None else (count, self.tokens, self.space.dim)
        return len(shape) == len(known) and all(k in (None, n) for k, n in zip(known, shape, strict=True))

    def require(self, other: Port, *, what: str, remedy: str = "") -> None:
        """Raise PortError, naming both sides, unless vectors of `other` may stand here."""
        reason = self.conflict(other)
        if reason:
            tail = f" {remedy}" if remedy else ""
            raise PortError(f"{what}: {reason}. Expected {self}; found {other}.{tail}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Port:
        return cls(**{**data, "space": Space(**data["space"])})

    def changed(self, **changes: Any) -> Port:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with their port and the ids of their items.

    `values`: float tensor (B, D), or (B, n, D) where `port.tokens` is n. `keys`: B item ids. `moments`: mean and
    covariance of the vectors at length 1, where they were taken as the vectors were made.
    """

    values: torch.Tensor
    port: Port
    keys: tuple[str, ...]
    moments: Moments | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.keys) != self.values.shape[0]:
            raise DataError(f"{self.values.shape[0]} vectors with {len(self.keys)} keys: each vector needs one key.")
        if self.values.ndim != (2 if self.port.tokens is None else 3):
            raise DataError(f"a tensor of shape {tuple(self.values.shape)} for {self.port}.")

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, index: Sequence[int]) -> Embeddings:
        """The rows `index`, in that order."""
        rows = list(index)
        return Embeddings(self.values[rows], self.port, tuple(self.keys[i] for i in rows))

    def to(self, device: torch.device | str) -> Embeddings:
        return Embeddings(self.values.to(device), self.port, self.keys, self.moments)
