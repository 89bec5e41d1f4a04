"""Configs of the bridges that are a few statistics."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import Augmentation, BridgeConfig
from modbridge.errors import PortError
from modbridge.spaces import Frame, Port

BridgeFrame = Literal["centred", "text"]
Noise = Annotated[float, Field(ge=0.0, allow_inf_nan=False), Affects("augment")]

AUTHORS_STD = 0.016**0.5


def require_one_space(bridge: str, source: Port, text: Port) -> None:
    """Raise PortError unless both modalities live in one space."""
    what = f"the bridge {bridge!r} joins two modalities of one space"
    text.require(source, what=what, remedy="Encode both sides with one encoder.")


class VectorBridgeConfig(BridgeConfig):
    """A bridge between vectors (B, D) of two modalities of one space."""

    def crosses(self, source: Port, text: Port) -> Port:
        for port in (source, text):
            if port.tokens is not None or port.frame != "raw":
                raise PortError(
                    f"the bridge {self.type!r} works on raw vectors; found {port}. Choose an encoder that gives one "
                    f"vector an item, and put the bridge directly behind it."
                )
        require_one_space(self.type, source, text)
        return source.changed(bridge=self.type, frame=self.ends_in)

    def augments(self, text: Port) -> Port:
        if text.tokens is not None or (text.frame != "raw" and not self.keeps_frame):
            raise PortError(
                f"the bridge {self.type!r} prepares raw text vectors, one an item; found {text}. Among several "
                f"augmenters it must come first."
            )
        return text.changed(bridge=self.type, frame=text.frame if self.keeps_frame else self.ends_in)

    @property
    def ends_in(self) -> Frame:
        """The frame of the vectors it gives."""
        return "raw"

    @property
    def keeps_frame(self) -> bool:
        """Whether `augment` works in any frame and stays there, so that it may follow other augmenters."""
        return False


class IdentityConfig(BridgeConfig):
    """No bridge at all. Sequences pass too."""

    def crosses(self, source: Port, text: Port) -> Port:
        require_one_space(self.type, source, text)
        return source.changed(bridge=self.type)


class MeanShiftConfig(VectorBridgeConfig):
    """Mean shift. `frame`: "text" moves source vectors among raw text vectors; "centred" takes each modality's own mean
    away, from text vectors in training too (C3 without its noise)."""

    frame: Annotated[BridgeFrame, Affects("cross"), Affects("augment")] = "text"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})

    @property
    def ends_in(self) -> Frame:
        return "centred" if self.frame == "centred" else "raw"

    @property
    def keeps_frame(self) -> bool:
        return self.frame == "text"


class C3Config(VectorBridgeConfig):
    """C3. `noise_std`: per dimension, on the centred text vector before it is normalised again. The default is the
    authors' (variance 0.016). `frame`: "centred" as the authors; "text" puts the vectors back among raw text vectors,
    n(r z + mean), which is ours.
    """

    augmentation: ClassVar[Augmentation] = "noise"

    noise_std: Noise = AUTHORS_STD
    frame: Annotated[BridgeFrame, Affects("cross"), Affects("augment")] = "centred"

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})

    @property
    def ends_in(self) -> Frame:
        return "centred" if self.frame == "centred" else "raw"


class CapDecConfig(VectorBridgeConfig):
    """CapDec. `noise_std`: per dimension, on the unit text vector. The default is the README's variance 0.016."""

    augmentation: ClassVar[Augmentation] = "noise"

    noise_std: Noise = AUTHORS_STD

    @property
    def keeps_frame(self) -> bool:
        return True
