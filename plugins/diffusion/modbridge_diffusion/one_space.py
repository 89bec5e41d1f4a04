"""What the configs of both diffusion bridges say of ports: two modalities of one space, single raw vectors."""

from __future__ import annotations

from typing import Annotated

from pydantic import SerializeAsAny

from modbridge.config.component import Part
from modbridge.config.kinds import BridgeConfig, PriorConfig
from modbridge.errors import PortError
from modbridge.spaces import Frame, Port


class OneSpaceConfig(BridgeConfig):
    """A bridge between two modalities of one space, over a prior of its text vectors."""

    prior: Annotated[SerializeAsAny[PriorConfig], Part("prior")]
    """What knows where text vectors lie."""

    @property
    def frame_out(self) -> Frame:
        """The frame of bridged and of augmented vectors."""
        raise TypeError(f"{type(self).__name__} does not say its frame")

    def crosses(self, source: Port, text: Port) -> Port:
        """Bridged vectors: the source's port in the frame of `frame`. Raises PortError for sequences, for two different
        spaces and for vectors that are centred already."""
        self._check_text(text)
        text.require(
            source,
            what=f"the bridge {self.type!r} joins two modalities of one space",
            remedy="Let one encoder give both sides, as single raw vectors.",
        )
        return source.changed(frame=self.frame_out, bridge=self.type)

    def augments(self, text: Port) -> Port:
        """Augmented text vectors: in the same frame as the bridged ones."""
        self._check_text(text)
        return text.changed(frame=self.frame_out, bridge=self.type)

    def _check_text(self, text: Port) -> None:
        text.require_vectors(f"the bridge {self.type!r}")
        if text.frame != "raw":
            raise PortError(f"the bridge {self.type!r} centres vectors itself; expected raw ones, found {text}.")
        self.prior.check(text)
