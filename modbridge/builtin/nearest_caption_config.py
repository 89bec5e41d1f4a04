"""Config of the decoder that recalls captions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import DecoderConfig
from modbridge.errors import PortError
from modbridge.spaces import Port


class NearestCaptionDecoderConfig(DecoderConfig):
    """The decoder that recalls the nearest training caption."""

    decode_batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 64
    """How many vectors are compared with all captions at once."""

    def check(self, port: Port) -> None:
        if port.tokens is not None:
            raise PortError(
                f"the decoder {self.type!r} compares one vector an item; found sequences: {port}. Choose an encoder "
                f"that gives vectors."
            )
