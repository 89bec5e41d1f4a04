"""A chain: several bridges, one after another.

v' = b_n(... b_1(b_0(v))), t' = a_n(... a_1(a_0(t))): what member k makes of a vector is what member k + 1 is given. It
is fitted so too: member k on source vectors that the members before it have carried, and on raw text vectors, which is
where its crossing is to lead. Each draws noise of its own.

Source: ours. C3's three steps are such a composition; the authors write it out as one formula.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import torch

from modbridge.builtin.bridges.chain_config import FIELD, ChainConfig
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.training import derived_seed


class ChainBridge(Bridge[ChainConfig]):
    """Passes vectors through its members in order; knows nothing itself."""

    def __init__(self, config: ChainConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.members = [cast("Bridge[Any]", context.parts[f"{FIELD}.{i}"]) for i in range(len(config.bridges))]

    def fit(self, data: FitData, fitting: Fitting) -> None:
        source = data.source
        for number, member in enumerate(self.members):
            fitting.fit_bridge(member, _share(data, source, member.config.needs))
            if source is not None and self.config.fitted_behind(number):
                source = self._carried(number, source, fitting.seed)

    def cross_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        for number in range(len(self.members)):
            x = self._cross(number, x, draw, mask)
        return x

    def augment_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        port = self.context.ports["text"]
        for number, member in enumerate(self.members):
            x = _given(member.augment_vectors, x, _own(draw, number), mask if port.ragged else None)
            port = member.config.augments(port)
        return x

    def chosen(self) -> dict[str, int | float | str]:
        return {
            f"{i}.{name}": value for i, member in enumerate(self.members) for name, value in member.chosen().items()
        }

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        """The encoded vectors, the stations of every member ("0 mean_shift: bridged" ...), the last of all "bridged".

        Behind a member that leaves the raw frame there are none: what follows it stays where it is.
        """
        stations = [("encoded", x)]
        for number, member in enumerate(self.members):
            if member.context.ports["source"].frame == "raw":
                found = member.trace_vectors(x, _own(draw, number))[1:]
                stations += [(f"{number} {member.config.type}: {name}", vectors) for name, vectors in found]
            x = self._cross(number, x, draw)
        return [*stations[:-1], ("bridged", stations[-1][1])]

    def _cross(self, number: int, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        member = self.members[number]
        ragged = mask is not None and member.context.ports["source"].ragged
        return _given(member.cross_vectors, x, _own(draw, number), mask if ragged else None)

    def _carried(self, number: int, source: Embeddings, seed: int) -> Embeddings:
        """The training source vectors behind a member, exactly as the chain will carry them."""
        member = self.members[number]
        draw = Draw.of(source.keys, seed, device=self.device).named("cross")
        port = member.config.crosses(source.port, self.context.ports["text"])
        found = member._carried_to(port, partial(self._cross, number), source, draw)
        # Cloned: autograd refuses the tensors of inference mode, and the next member may train on them.
        return replace(found, values=found.values.clone()).to(source.values.device)


def _given(
    function: Callable[..., torch.Tensor], x: torch.Tensor, draw: Draw, mask: torch.Tensor | None
) -> torch.Tensor:
    """What a member makes of vectors; only of ragged sequences it is given the mask."""
    return function(x, draw) if mask is None else function(x, draw, mask=mask)


def _own(draw: Draw, number: int) -> Draw:
    """The random numbers of one member. By the seed, which holds however a member names its draws; of nested chains
    every member has its own too."""
    return replace(draw, seed=derived_seed("chain", draw.seed, number))


def _share(data: FitData, source: Embeddings | None, needs: frozenset[str]) -> FitData:
    """What of the training data is a member's: what its needs name."""
    pairs = "pairs" in needs
    return FitData(
        data.text if pairs or "text" in needs else data.text.select([]),
        source if pairs or "source" in needs else None,
        data.pairs if pairs else None,
    )
