"""Bridge: embeddings across the modality gap."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch

from modbridge import room
from modbridge.config.kinds import BridgeConfig
from modbridge.errors import DataError, PluginError
from modbridge.geometry import finite, nothing
from modbridge.interfaces.component import Component, require_takes_mask
from modbridge.interfaces.fitting import Fitting
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port

BridgeConfigT = TypeVar("BridgeConfigT", bound=BridgeConfig)


@dataclass(frozen=True)
class FitData:
    """What a bridge is fitted on. Vectors are as the encoder gives them.

    `text`: (N, D). `source`: (M, D), unpaired, or None where `needs` does not ask. `pairs`: for bridges whose needs say
    "pairs", the row of `source` that each text belongs to, int64 (N,); None otherwise, so that no bridge can peek.
    """

    text: Embeddings
    source: Embeddings | None = None
    pairs: torch.Tensor | None = None

    def require_source(self, who: str) -> Embeddings:
        if self.source is None or len(self.source) == 0:
            raise DataError(f"{who} needs source vectors to be fitted; the training data gave none.")
        return self.source


class Bridge(Component[BridgeConfigT]):
    """Carries source vectors to the text side. Authors write `fit`, `cross_vectors` and, if it differs from doing
    nothing, `augment_vectors`; the core chunks, labels and checks.

    A bridge owns its whole chain (normalise, centre, scale, refine, de-centre) with the statistics it was fitted on.

    Of sequences the vectors are (B, n, D). A bridge whose config takes ragged ones is given their mask, bool (B, n),
    True where a token is, as `mask=` beside them, and only then; what it gives has the same mask, if it is ragged too.
    """

    @abstractmethod
    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Learn from `data`, of which only what `config.needs` names is there."""
        ...

    @abstractmethod
    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Source vectors (B, D) carried to the text side."""
        ...

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Text vectors (B, D) as the decoder is to see them in training."""
        return x

    def chosen(self) -> dict[str, int | float | str]:
        """What fitting chose where the config left it open (`start_step: auto`), by field, for tables and logs."""
        return {}

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        """The stations of one crossing, (name, vectors (B, D) in the text frame), for `caption --explain`."""
        return [("encoded", x), ("bridged", self.cross_vectors(x, draw))]

    def cross(self, source: Embeddings, seed: int = 0) -> Embeddings:
        """Source embeddings carried to the text side; `seed` matters only to bridges that draw noise."""
        expected = self.context.ports["source"]
        expected.require(source.port, what=f"the bridge {self.config.type!r} was given foreign vectors")
        source = source.at(expected)
        port = self.config.crosses(source.port, self.context.ports["text"])
        draw = Draw.of(source.keys, seed, device=self.device).named("cross")
        return self._carried_to(port, self.cross_vectors, source, draw)

    def augment(self, text: Embeddings, seed: int = 0, epoch: int = 0, *, noise: bool = True) -> Embeddings:
        """Text embeddings as a decoder is trained on them; noise is drawn by (seed, epoch, key). Without `noise`, where
        they lie but for it: what measures look at."""
        expected = self.context.ports["text"]
        expected.require(text.port, what=f"the bridge {self.config.type!r} was given foreign vectors")
        text = text.at(expected)
        draw = replace(Draw.of(text.keys, seed, epoch, device=self.device).named("augment"), silent=not noise)
        return self._carried_to(self.config.augments(text.port), self.augment_vectors, text, draw)

    def _carried_to(self, port: Port, function: Callable[..., torch.Tensor], x: Embeddings, draw: Draw) -> Embeddings:
        """What `function` makes of vectors, at `port`: where that is still ragged, with their mask, and zero where no
        token is."""
        kept = x.mask if port.ragged else None
        if port.ragged and (kept is None or port.tokens != x.port.tokens):
            raise PluginError(
                f"the bridge {self.config.type!r} says that it makes {port} of {x.port}. Only a mask that was given is "
                f"kept, with its number of tokens: let the config give sequences of one length."
            )
        if len(x) == 0:
            return nothing(port, self.device)
        if x.mask is not None:
            require_takes_mask(function, f"the bridge {self.config.type!r}")

        def part(rows: slice) -> torch.Tensor:
            given = x.values[rows].to(self.device, torch.float32)
            if x.mask is None:
                return function(given, draw.select(rows))
            mask = x.mask[rows].to(self.device)
            found = function(given, draw.select(rows), mask=mask)
            # Of another shape it is refused below.
            return found if kept is None or found.shape[:2] != mask.shape else found.masked_fill(~mask[..., None], 0.0)

        with torch.inference_mode():
            values = self._checked(room.filled(len(x), part, self.device), port, x.keys)
        return Embeddings(values, port, x.keys, mask=None if kept is None else kept.to(values.device))

    def _checked(self, values: torch.Tensor, port: Port, keys: tuple[str, ...]) -> torch.Tensor:
        """The vectors, or a PluginError if their shape is not that of `port`, or a DataError that names the items whose
        vectors are no numbers any more."""
        if not port.holds(tuple(values.shape), len(keys)):
            raise PluginError(
                f"the bridge {self.config.type!r} gave a tensor {tuple(values.shape)} for {len(keys)} items; expected "
                f"{port}."
            )
        whole = finite(values)
        if not bool(whole.all()):
            bad = [key for key, ok in zip(keys, whole.tolist(), strict=True) if not ok]
            raise DataError(
                f"the bridge {self.config.type!r} gave NaN or infinity for {', '.join(bad[:3])} ({len(bad)} of "
                f"{len(keys)} items). Was it fitted, and on finite vectors?"
            )
        return values
