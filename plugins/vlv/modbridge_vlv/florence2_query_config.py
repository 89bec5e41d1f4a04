"""The config of the `florence2_query` encoder. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from modbridge.config.component import Purpose
from modbridge_vlv.layout import check_name, folder_of, identity
from modbridge_vlv.taught_config import TaughtEncoderConfig

MORE_DETAILED_CAPTION = "Describe with a paragraph what is shown in the image."


class Florence2QueryConfig(TaughtEncoderConfig):
    """VLV's own encoder: Florence-2, whose decoder is given learned queries in the place of words, and a projector.

    The vision tower of a pretrained model stays frozen (the authors' script); its language model is trained. A small
    model is trained whole.
    """

    type: Literal["florence2_query"] = "florence2_query"
    model: str | dict[str, Any] = Field(
        default="florence-community/Florence-2-large",
        description="an id on the hub, a local folder, or a small model's settings: {vision_config: {...}, "
        "text_config: {...}, image_size: 32}, as transformers' Florence2Config has them, and the side of its images",
    )
    revision: str | None = Field(default=None, description="a commit, tag or branch on the hub")
    prompt: str = Field(
        default=MORE_DETAILED_CAPTION,
        description="what the model is asked beside the image, in its own words; the default is what its task "
        "<MORE_DETAILED_CAPTION> stands for. Small models have no words and are asked nothing",
    )

    @field_validator("model")
    @classmethod
    def _a_name_or_settings(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            return check_name(value)
        lacking = [name for name in ("vision_config", "text_config", "image_size") if name not in value]
        if lacking:
            raise ValueError(f"a small model's settings lack {', '.join(lacking)}")
        return value

    @model_validator(mode="after")
    def _pretrained_or_not(self) -> Florence2QueryConfig:
        if isinstance(self.model, str):
            folder_of(self.model)
        elif self.revision is not None:
            raise ValueError("`revision` is for models on the hub; a small model has none")
        return self

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its own name and its files, wherever it lies."""
        fields = super().key_fields(*purposes)
        return fields if isinstance(self.model, dict) else {**fields, "model": self.model_identity()}

    def model_identity(self) -> str:
        """Whose weights a pretrained model has."""
        assert isinstance(self.model, str)
        return identity(self.model, self.revision)
