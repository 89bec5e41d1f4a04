"""Several inputs in one sequence: their tokens, one input after another. Nothing is trained for it.

Source: VLV (arXiv 2507.07104) composes images so: trailing tokens of each embedding are cut off and what is left is
concatenated. That ragged sequences are joined without gaps, and what a composed item is called, are ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modbridge.errors import DataError, PortError
from modbridge.spaces import Embeddings, Port


def compose(parts: Sequence[Embeddings], take: Sequence[int] | None = None) -> Embeddings:
    """Item i of every part in one sequence: of part k its first `take[k]` tokens (all of them by default), then those
    of part k + 1.

    Each part holds B sequences of one space. Gives (B, n, D), n the sum of what is taken, whose port says what came;
    ragged if a part is, with no gap between the parts of an item. Keys are those of the parts, joined by "+" where they
    differ. Raises PortError for vectors and for parts of another space or frame, DataError for parts of different
    length and for more tokens than there are.
    """
    if not parts:
        raise DataError("there is nothing to compose: found no parts, expected at least one.")
    first = parts[0].port
    if first.tokens is None:
        raise PortError(
            f"only sequences can be composed, by their tokens; found {first}. Choose an encoder of sequences."
        )
    counts = list(take) if take is not None else [part.port.tokens or 0 for part in parts]
    _require(parts, counts, given=take is not None)
    pieces = [_cut(part, count) for part, count in zip(parts, counts, strict=True)]
    device = parts[0].values.device
    values = torch.cat([piece.to(device) for piece, _ in pieces], dim=1)
    mask = torch.cat([there.to(device) for _, there in pieces], dim=1)
    ragged = any(part.port.ragged for part in parts)
    port = first.changed(tokens=sum(counts), ragged=ragged, modality=_joined([part.port.modality for part in parts]))
    keys = tuple(_joined(names) for names in zip(*(part.keys for part in parts), strict=True))
    if not ragged:
        return Embeddings(values, port, keys)
    values, mask = _without_gaps(values, mask)
    return Embeddings(values, port, keys, mask=mask)


def _require(parts: Sequence[Embeddings], counts: Sequence[int], *, given: bool) -> None:
    first = parts[0]
    for number, part in enumerate(parts):
        if part.port.tokens is None or _kind(part.port) != _kind(first.port):
            raise PortError(
                f"part {number} cannot be composed with part 0: expected sequences like {first.port}; found "
                f"{part.port}."
            )
        if len(part) != len(first):
            raise DataError(
                f"part {number} holds {len(part)} items and part 0 {len(first)}; expected one each to join."
            )
    if len(counts) != len(parts):
        raise DataError(f"`take` names {len(counts)} numbers of tokens for {len(parts)} parts; expected one for each.")
    for number, (part, count) in enumerate(zip(parts, counts, strict=True)):
        if given and not 1 <= count <= (part.port.tokens or 0):
            raise DataError(f"`take` asks for {count} tokens of part {number}; expected 1 to {part.port.tokens}.")


def _kind(port: Port) -> tuple[object, ...]:
    return port.space.id, port.space.dim, port.frame


def _cut(part: Embeddings, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` tokens of each sequence, (B, count, D), and which of them are there, (B, count)."""
    if part.mask is None:
        return part.values[:, :count], part.values.new_ones(len(part), count).bool()
    values, mask = _without_gaps(part.values, part.mask)
    return values[:, :count], mask[:, :count]


def _without_gaps(values: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The tokens of each sequence at its start, in their order; zero behind them."""
    order = mask.logical_not().byte().argsort(dim=1, stable=True)
    moved, there = values.take_along_dim(order[..., None], dim=1), mask.take_along_dim(order, dim=1)
    return moved.masked_fill(~there[..., None], 0.0), there


def _joined(names: Sequence[str]) -> str:
    return names[0] if len(set(names)) == 1 else "+".join(names)
