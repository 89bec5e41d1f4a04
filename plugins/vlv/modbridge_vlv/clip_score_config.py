"""The config of the metric `clip_score`. Loads neither torch nor transformers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from modbridge.config.component import Affects
from modbridge.config.kinds import MetricConfig
from modbridge_vlv.fid_config import Model, lacking
from modbridge_vlv.layout import identity

CLIP = "openai/clip-vit-large-patch14"  # torchmetrics' default


class ClipScoreConfig(MetricConfig):
    """CLIPScore (Hessel et al. 2021) as torchmetrics has it: 100 times the cosine of a picture's and a text's CLIP
    vectors. `of: text`: captions against the items; `of: image`: a decoder's pictures against the items' captions."""

    type: Literal["clip_score"] = "clip_score"
    of: Literal["text", "image"] = Field(
        default="text",
        description="text: what `decoder` wrote against the item; image: what decoders painted against the mean of the "
        "item's captions",
    )
    model: Model = Field(default=CLIP, description="a CLIP of transformers, by hub id or folder")
    revision: str | None = Field(default=None, description="commit, tag or branch of a model on the hub")
    batch_size: Annotated[int, Affects("nothing")] = Field(default=32, ge=1, description="items seen at once")

    @property
    def judges(self) -> Literal["text", "image"]:
        return self.of

    @property
    def reads_media(self) -> bool:
        return self.of == "text"

    def missing(self) -> str | None:
        """Asks no server. Raises DataError for a folder that does not exist."""
        return lacking("the CLIP", self.model, self.revision)

    def key_fields(self, *purposes: Any) -> dict[str, Any]:
        """As for every component, but a folder counts by what it holds."""
        return {**super().key_fields(*purposes), "model": identity(self.model, self.revision)}
