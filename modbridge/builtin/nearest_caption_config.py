"""Config of the decoder that recalls captions."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import DecoderConfig
from modbridge.spaces import Port


class NearestCaptionDecoderConfig(DecoderConfig):
    """The decoder that recalls the nearest training caption."""

    decode_batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 64
    """How many vectors are compared with all captions at once."""

    def check(self, port: Port) -> None:
        port.require_vectors(f"the decoder {self.type!r}")
