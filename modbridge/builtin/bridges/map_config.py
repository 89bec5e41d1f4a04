"""Configs of the linear maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from modbridge.builtin.bridges.config import BridgeFrame, VectorBridgeConfig
from modbridge.config.component import Affects
from modbridge.spaces import Frame


class FramedConfig(VectorBridgeConfig):
    """A bridge that moves source vectors at test and leaves text vectors where they are."""

    frame: Annotated[BridgeFrame, Affects("cross"), Affects("augment")] = "text"
    """Where it ends: "text" among raw text vectors, with texts left as they are; "centred" with the text mean taken
    away, from text vectors in training too."""

    @property
    def ends_in(self) -> Frame:
        return "centred" if self.frame == "centred" else "raw"

    @property
    def keeps_frame(self) -> bool:
        return self.frame == "text"


class CoralConfig(FramedConfig):
    """CORAL: whitening and colouring."""

    shrinkage: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] | Literal["auto"] = "auto"
    """How far each covariance is drawn towards a multiple of the identity with the same trace: (1 - s) cov + s tr/D I.
    "auto" (ours) takes the value of Ledoit and Wolf (2004) for each side, from that side's vectors alone. 0 is the
    plain method, which takes more vectors than dimensions; 1 is a mean shift with a change of scale."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})


class PairedConfig(FramedConfig):
    """A map learnt from pairs."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source", "pairs"})


class ProcrustesConfig(PairedConfig):
    """Orthogonal Procrustes: the best rotation (reflections included)."""


class RidgeConfig(PairedConfig):
    """Ridge regression of text on source vectors."""

    ridge: float = Field(default=0.3, ge=0.0, allow_inf_nan=False)
    """What is added to the diagonal of V'V, a sum over pairs: its weight falls as pairs grow. The default is ours, for
    hundreds of pairs; 0 is ordinary least squares, which takes more pairs than dimensions."""


class PlsSvdConfig(PairedConfig):
    """PLS-SVD: the few axes along which both modalities vary together."""

    num_axes: int = Field(default=32, ge=1)
    """How many pairs of axes are kept, the strongest first. The default is ours, for hundreds of pairs."""
