"""Configs of the bridges that are a few statistics."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import Augmentation, BridgeConfig
from modbridge.errors import PortError
from modbridge.spaces import Frame, Port

BridgeFrame = Literal["centred", "text"]
Direction = Literal["to_text", "to_source"]
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
            port.require_vectors(f"the bridge {self.type!r}")
            if port.frame != "raw" and not self.cross_keeps_frame:
                raise PortError(
                    f"the bridge {self.type!r} works on raw vectors; found {port}. Put it first, or let the bridge "
                    f"before it end among raw vectors (`frame: text`)."
                )
        frame = source.frame if self.cross_keeps_frame else self.ends_in
        require_one_space(self.type, source.changed(frame=text.frame) if self.cross_keeps_frame else source, text)
        return source.changed(bridge=self.type, frame=frame)

    def augments(self, text: Port) -> Port:
        text.require_vectors(f"the bridge {self.type!r}")
        if text.frame != "raw" and not self.keeps_frame:
            raise PortError(
                f"the bridge {self.type!r} prepares raw text vectors; found {text}. Among several augmenters it must "
                f"come first."
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

    @property
    def cross_keeps_frame(self) -> bool:
        """Whether `cross` works in any frame and stays there, so that in a chain it may follow any bridge of vectors:
        of those that only bring source vectors to length 1."""
        return False


class IdentityConfig(BridgeConfig):
    """No bridge at all. Sequences pass too."""

    def crosses(self, source: Port, text: Port) -> Port:
        require_one_space(self.type, source, text)
        return source.changed(bridge=self.type)

    def augments(self, text: Port) -> Port:
        return text


class DirectedConfig(VectorBridgeConfig):
    """A bridge that carries one modality's vectors to the other's: source vectors at test, or texts in training."""

    direction: Annotated[Direction, Affects("cross"), Affects("augment")] = "to_text"
    """"to_text" carries source vectors to the text vectors at test, and leaves texts as they are. "to_source" carries
    texts to the source vectors in decoder training, and at test only brings source vectors to length 1."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})

    @property
    def ends_in(self) -> Frame:
        return "source" if self.direction == "to_source" else "raw"

    @property
    def keeps_frame(self) -> bool:
        return self.direction == "to_text"

    @property
    def augments_by(self) -> Augmentation:
        return "shift" if self.direction == "to_source" else "none"


class MeanShiftConfig(DirectedConfig):
    """Mean shift."""

    frame: Annotated[BridgeFrame, Affects("cross"), Affects("augment")] = "text"
    """"text" moves vectors of one modality among raw vectors of the other; "centred" takes each modality's own mean
    away, from text vectors in training too (C3 without its noise), and has no direction."""

    @model_validator(mode="after")
    def _a_centre_has_no_direction(self) -> MeanShiftConfig:
        if self.frame == "centred" and self.direction == "to_source":
            raise ValueError(
                "frame: centred takes each modality's own mean away, so direction: to_source means nothing there; "
                "leave one of the two out"
            )
        return self

    @property
    def ends_in(self) -> Frame:
        return "centred" if self.frame == "centred" else super().ends_in

    @property
    def keeps_frame(self) -> bool:
        return self.frame == "text" and super().keeps_frame


class StandardiseConfig(DirectedConfig):
    """Per-dimension standardisation. `direction: to_source` is TOMCap's."""


class RealignConfig(DirectedConfig):
    """ReAlign."""

    direction: Direction = "to_source"
    """"to_source" (authors) carries texts to the source vectors in decoder training, and at test only brings source
    vectors to length 1. "to_text", the mirror (ours), carries source vectors to the text vectors at test, and leaves
    texts as they are."""


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

    @property
    def augments_by(self) -> Augmentation:
        return "noise" if self.noise_std > 0 else "none"


class CapDecConfig(VectorBridgeConfig):
    """CapDec: noise on texts in training."""

    augmentation: ClassVar[Augmentation] = "noise"

    noise_std: Noise = AUTHORS_STD
    """Of `noise: gaussian`, per dimension, on the unit text vector; of `noise: uniform_ball`, the ball's radius. The
    default is the README's variance 0.016. 0 adds no noise."""
    noise: Annotated[Literal["gaussian", "uniform_ball"], Affects("augment")] = "gaussian"
    """"gaussian" (authors' default) in every dimension; "uniform_ball" (authors' --uniform_noise) uniform in a ball."""
    modality_offset: bool = False
    """Move noisy texts by the way from the text mean to the source mean as well (authors' --add_modality_offset)."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"}) if self.modality_offset else frozenset()

    @property
    def ends_in(self) -> Frame:
        return "source" if self.modality_offset else "raw"

    @property
    def keeps_frame(self) -> bool:
        return not self.modality_offset

    @property
    def cross_keeps_frame(self) -> bool:
        return not self.modality_offset

    @property
    def augments_by(self) -> Augmentation:
        if self.noise_std > 0:
            return "noise"
        return "shift" if self.modality_offset else "none"
