"""Config of the encoder that knows colours by name."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import EncoderConfig
from modbridge.spaces import Port, Space

COLOURS = {
    "black": (18, 18, 22),
    "brown": (110, 75, 45),
    "grey": (125, 125, 130),
    "cyan": (110, 200, 205),
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (235, 215, 50),
    "purple": (150, 60, 190),
}


class NamedColoursConfig(EncoderConfig):
    """Colours by name: nothing is trained and nothing is downloaded, so it can stand in while another part is tried."""

    batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 64
    """How many items are encoded at once."""

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    def emits(self, modality: str) -> Port:
        return Port(space=Space(id="named_colours/1", dim=len(COLOURS)), modality=modality)
