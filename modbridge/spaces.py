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

    `tokens`: None for vectors (B, D), n for sequences (B, n, D). `ragged`: sequences may be shorter than `tokens`, and
    come with a mask that says where a token is.
    `frame`: "raw" as the encoder gives them, "centred" after a mean has been taken away; "source" among the raw vectors
    of the source modality, where some bridges carry the text that a decoder is trained on.
    `bridge`: the bridge the vectors came through, for messages; it does not decide compatibility.
    """

    space: Space
    modality: str
    tokens: int | None = None
    frame: Frame = "raw"
    bridge: str | None = None
    ragged: bool = False

    def __post_init__(self) -> None:
        if self.ragged and self.tokens is None:
            raise PortError(f"{self.modality} vectors of {self.space.id} cannot be ragged: only sequences can.")

    def __str__(self) -> str:
        dim = self.space.dim or "?"
        shape = f"{dim}-d" if self.tokens is None else f"{'up to ' * self.ragged}{self.tokens} x {dim}"
        through = f", through {self.bridge}" if self.bridge else ""
        return f"{self.frame} {shape} {self.modality} vectors of {self.space.id}{through}"

    def conflict(self, other: Port) -> str | None:
        """Why vectors of `other` cannot stand where vectors of this port are expected; None if they can.

        The modality may differ: that is what bridges are for. Sequences of one length may stand among ragged ones that
        are as long at most (`Embeddings.at`).
        """
        if self.space.id != other.space.id:
            same = self.space.dim == other.space.dim
            return "another space" + (" (of the same size, but trained apart)" if same else "")
        if None not in (self.space.dim, other.space.dim) and self.space.dim != other.space.dim:
            return "another dimension"
        if self.tokens is None or other.tokens is None:
            if self.tokens != other.tokens:
                return (
                    "sequences where vectors are expected" if other.tokens else "vectors where sequences are expected"
                )
        elif other.ragged and not self.ragged:
            return f"sequences of different lengths where ones of {self.tokens} tokens are expected"
        elif other.tokens > self.tokens if self.ragged else other.tokens != self.tokens:
            most = "at most " * self.ragged
            return f"sequences of {other.tokens} tokens where ones of {most}{self.tokens} are expected"
        if self.frame != other.frame:
            return f"{other.frame} vectors where {self.frame} ones are expected"
        return None

    def holds(self, shape: tuple[int, ...], count: int) -> bool:
        """Whether a tensor of this shape can be the vectors of `count` items here: (count, D) or (count, n, D)."""
        known = (count, self.space.dim) if self.tokens is None else (count, self.tokens, self.space.dim)
        return len(shape) == len(known) and all(k in (None, n) for k, n in zip(known, shape, strict=True))

    def require_vectors(self, who: str) -> None:
        """Raise PortError, naming the part `who` that takes nothing else, unless this is a port of vectors (B, D)."""
        if self.tokens is not None:
            raise PortError(
                f"{who} works on single vectors, one an item; found sequences: {self}. Choose an encoder that gives "
                f"one vector an item, or a part that takes sequences."
            )

    def require_one_length(self, who: str) -> None:
        """Raise PortError, naming the part `who` that reads no mask, if sequences may be of different lengths."""
        if self.ragged:
            raise PortError(
                f"{who} takes no sequences of different lengths; found {self}. Choose an encoder that gives as many "
                f"tokens for every item, or a part that takes ragged sequences."
            )

    def require(self, other: Port, *, what: str, remedy: str = "") -> None:
        """Raise PortError, naming both sides, unless vectors of `other` may stand here."""
        reason = self.conflict(other)
        if reason:
            tail = f" {remedy}" if remedy else ""
            raise PortError(f"{what}: {reason}. Expected {self}; found {other}.{tail}")

    def to_json(self) -> dict[str, Any]:
        """As plain values. `ragged` is named only where it holds: earlier versions, and keys, know nothing of it."""
        found = asdict(self)
        if not self.ragged:
            del found["ragged"]
        return found

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Port:
        return cls(**{**data, "space": Space(**data["space"])})

    def changed(self, **changes: Any) -> Port:
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Vectors with their port and the ids of their items.

    `values`: float tensor (B, D), or (B, n, D) where `port.tokens` is n. `keys`: B item ids. `moments`: mean and
    covariance of the vectors at length 1, where they were taken as the vectors were made. `mask`: of ragged sequences,
    and of no others, bool (B, n), True where a token is; what `values` hold elsewhere means nothing.
    """

    values: torch.Tensor
    port: Port
    keys: tuple[str, ...]
    moments: Moments | None = field(default=None, compare=False)
    mask: torch.Tensor | None = field(default=None, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        shape = tuple(self.values.shape)
        if len(self.keys) != shape[0]:
            raise DataError(f"{shape[0]} vectors with {len(self.keys)} keys: each vector needs one key.")
        if len(shape) != (2 if self.port.tokens is None else 3) or self.port.tokens not in (None, shape[1]):
            raise DataError(f"a tensor of shape {shape} for {self.port}.")
        if (self.mask is not None) != self.port.ragged:
            raise DataError(
                f"{'no' if self.port.ragged else 'a'} mask for {self.port}: only ragged sequences have one."
            )
        if self.mask is not None:
            require_mask(self.mask, shape)

    def __len__(self) -> int:
        return len(self.keys)

    def select(self, index: Sequence[int]) -> Embeddings:
        """The rows `index`, in that order."""
        rows = list(index)
        mask = None if self.mask is None else self.mask[rows]
        return Embeddings(self.values[rows], self.port, tuple(self.keys[i] for i in rows), mask=mask)

    def to(self, device: torch.device | str) -> Embeddings:
        mask = None if self.mask is None else self.mask.to(device)
        return Embeddings(self.values.to(device), self.port, self.keys, self.moments, mask=mask)

    def at(self, port: Port) -> Embeddings:
        """These vectors as a part that stands at `port`, to which they fit, is given them: where it expects ragged
        sequences, with a mask, and as many places as it expects."""
        if not port.ragged or port.tokens is None or (self.port.ragged and self.port.tokens == port.tokens):
            return self
        mask = self.values.new_ones(self.values.shape[:2]).bool() if self.mask is None else self.mask
        values, mask = padded(self.values, mask, port.tokens)
        return Embeddings(values, self.port.changed(tokens=port.tokens, ragged=True), self.keys, mask=mask)


def padded(values: torch.Tensor, mask: torch.Tensor, tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sequences (B, m, D) and their mask (B, m) with `tokens` >= m places, the new ones empty."""
    count, length = values.shape[:2]
    if length == tokens:
        return values, mask
    longer, there = values.new_zeros(count, tokens, values.shape[2]), mask.new_zeros(count, tokens)
    longer[:, :length], there[:, :length] = values, mask
    return longer, there


def require_mask(mask: torch.Tensor, shape: tuple[int, ...]) -> None:
    """Raise DataError unless a mask can be that of sequences of this shape (B, n, D)."""
    if tuple(mask.shape) != shape[:2] or str(mask.dtype) != "torch.bool":
        raise DataError(f"a mask {tuple(mask.shape)} of {mask.dtype} for sequences {shape}; expected bool {shape[:2]}.")
