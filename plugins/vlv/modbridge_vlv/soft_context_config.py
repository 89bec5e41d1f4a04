"""The config of the `soft_context` bridge. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from modbridge.config.kinds import Augmentation, BridgeConfig
from modbridge.errors import PortError
from modbridge.spaces import Port, Space
from modbridge_vlv.teacher_config import DiffusionTeacherConfig, TeacherPart


class SoftContextConfig(BridgeConfig):
    """Soft tokens through the teacher's frozen text encoder: z -> c (VLV). Texts go the same way.

    What comes out is of another space: what the teacher's U-Net looks at.
    """

    augmentation: ClassVar[Augmentation] = "shift"

    type: Literal["soft_context"] = "soft_context"
    teacher: TeacherPart = Field(description="the diffusion_teacher of the encoder (a YAML anchor names it once)")

    @property
    def port(self) -> Port:
        """What it takes: sequences of soft tokens, at most as many as these."""
        assert isinstance(self.teacher, DiffusionTeacherConfig)
        return self.teacher.takes

    def crosses(self, source: Port, text: Port) -> Port:
        return self._behind(source)

    def augments(self, text: Port) -> Port:
        return self._behind(text)

    def _behind(self, port: Port) -> Port:
        """The port behind the text encoder. Raises PortError for vectors, for sequences of another space, and for
        those that are too long."""
        assert isinstance(self.teacher, DiffusionTeacherConfig)
        if port.tokens is None:
            raise PortError(
                f"the bridge 'soft_context' takes sequences of soft tokens; found {port}. Choose an encoder that gives "
                f"them (query_encoder)."
            )
        port.require_one_length("the bridge 'soft_context'")
        found, width = self.teacher.behind("tokens", port), self.teacher.width
        if found is None:
            expected = self.teacher.port("tokens", port.modality, port.tokens)
            raise PortError(
                f"the bridge 'soft_context' takes soft tokens of its own teacher ({expected}); found {port}. Give the "
                f"encoder's objective and the bridge the same teacher."
            )
        if None not in (width, port.space.dim) and width != port.space.dim:
            raise PortError(f"soft tokens of {width} numbers are expected; found {port}.")
        behind = self.teacher.port("context", port.modality, port.tokens).space
        space = Space(id=f"{behind.id}{found}", dim=behind.dim, normalised=False)
        return port.changed(space=space, bridge=self.type)
