"""The config of the `query_encoder`. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from modbridge.config.component import Purpose
from modbridge.spaces import Port
from modbridge_vlv.layout import check_name, folder_of, identity
from modbridge_vlv.taught_config import TaughtEncoderConfig


class QueryEncoderConfig(TaughtEncoderConfig):
    """Images through a vision backbone, read by learned queries, into soft tokens (VLV's idea, over any backbone).

    The backbone's last states are what the queries' decoder layers attend to; a projector of two layers (VLV's) makes
    soft tokens of them.
    """

    type: Literal["query_encoder"] = "query_encoder"
    backbone: str | dict[str, Any] = Field(
        description="a vision model that transformers' AutoModel reads, or CLIP or SigLIP, of which the vision model "
        "is taken: an id on the hub, a local folder, or a small one's settings with its model_type ({model_type: vit, "
        "hidden_size: 64, ...})"
    )
    revision: str | None = Field(default=None, description="a commit, tag or branch of the backbone on the hub")
    freeze_backbone: bool = Field(
        default=False, description="train the queries' layers alone; of a pretrained backbone"
    )
    layers: int = Field(default=2, ge=1, description="decoder layers, through which queries look at the image")
    heads: int = Field(default=8, ge=1, description="attention heads of such a layer")

    @field_validator("backbone")
    @classmethod
    def _a_name_or_settings(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            return check_name(value)
        if "model_type" not in value or "image_size" not in value:
            raise ValueError("a small backbone's settings name its model_type (vit) and its image_size in pixels")
        return value

    @model_validator(mode="after")
    def _pretrained_or_not(self) -> QueryEncoderConfig:
        if isinstance(self.backbone, dict) and (self.freeze_backbone or self.revision is not None):
            raise ValueError(
                "freeze_backbone and revision are for pretrained backbones; this one is drawn at random and trained"
            )
        return self

    def emits(self, modality: str) -> Port:
        """As of every encoder that a teacher teaches. Raises DataError for a backbone's folder that is not there: a run
        asks this before anything is trained, and a finished one, whose artefact holds the trained backbone, does not.
        """
        if isinstance(self.backbone, str):
            folder_of(self.backbone)
        return super().emits(modality)

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its own name and its files, wherever it lies."""
        fields = super().key_fields(*purposes)
        return fields if isinstance(self.backbone, dict) else {**fields, "backbone": self.backbone_identity()}

    def backbone_identity(self) -> str:
        """Whose weights a pretrained backbone has."""
        assert isinstance(self.backbone, str)
        return identity(self.backbone, self.revision)
