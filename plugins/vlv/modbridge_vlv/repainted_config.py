"""The config of the metric `repainted`. Loads neither torch nor diffusers."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from modbridge.config.component import Affects
from modbridge.errors import DataError
from modbridge.store.keys import file_digest, file_hash
from modbridge_vlv.clip_score_config import CLIP
from modbridge_vlv.fid_config import FrechetFields, Model, lacking
from modbridge_vlv.layout import folder_of, identity

INDEX = "model_index.json"
OWN = ("prompt", "num_inference_steps", "guidance_scale", "generator", "output_type", "latents", "return_dict")


def _several(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value]


class RepaintedConfig(FrechetFields):
    """Captions judged by what a text-to-image model paints of them (VLV, section 4): the FID of its pictures against
    the test items, and their CLIPScore against the items' captions, at each guidance.

    Defaults: the paper's, whose figures are of 30,000 images of COCO's val2014.
    """

    type: Literal["repainted"] = "repainted"
    model: Model = Field(
        default="stabilityai/stable-diffusion-3.5-medium",
        description="a text-to-image pipeline of diffusers, by hub id or folder",
    )
    revision: str | None = Field(default=None, description="commit, tag or branch of a pipeline on the hub")
    steps: int = Field(default=40, ge=1, description="calls of the denoiser a picture")
    guidance: Annotated[list[Annotated[float, Field(ge=0)]], Field(min_length=1), BeforeValidator(_several)] = Field(
        default=[1.0, 2.0, 3.0, 4.0], description="factor of classifier-free guidance, one or several; 1: none"
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="further arguments of the pipeline's call: height, max_sequence_length ..."
    )
    seed: int = Field(default=0, ge=0, description="decides the noise that each item's picture is painted from")
    precision: Literal["float32", "bfloat16", "float16"] = Field(
        default="float32", description="of the pipeline's weights"
    )
    paint_batch_size: Annotated[int, Affects("nothing")] = Field(
        default=8, ge=1, description="pictures painted at once"
    )
    keep: Annotated[str | None, Affects("nothing")] = Field(
        default=None,
        description="a folder that keeps what is painted, so that the same caption is never painted twice; null: kept "
        "until it is scored",
    )
    clip: Model | None = Field(default=CLIP, description="as `model` of clip_score; null: without CLIPScore")
    clip_revision: str | None = Field(default=None, description="commit, tag or branch of a CLIP on the hub")

    @field_validator("guidance")
    @classmethod
    def _different(cls, value: list[float]) -> list[float]:
        if len(set(value)) != len(value):
            raise ValueError("each guidance once")
        return value

    @field_validator("options")
    @classmethod
    def _not_our_own(cls, value: dict[str, Any]) -> dict[str, Any]:
        taken = sorted(set(value) & set(OWN))
        if taken:
            raise ValueError(f"{', '.join(taken)} are given by the metric's own fields, or drawn by item")
        return value

    @property
    def reads_media(self) -> bool:
        return True

    @property
    def columns(self) -> tuple[str, ...]:
        kinds = (self.distance, *(["clip_score"] if self.clip is not None else []))
        return tuple(self.column(kind, guidance) for guidance in self.guidance for kind in kinds)

    @staticmethod
    def column(kind: str, guidance: float) -> str:
        return f"repainted_{kind}_g{guidance:g}".replace(".", "_").replace("-", "_").replace("+", "")

    def missing(self) -> str | None:
        """Asks no server. Raises DataError for a folder that does not exist."""
        lacks = [super().missing(), lacking("the text-to-image pipeline", self.model, self.revision, INDEX)]
        if self.clip is not None:
            lacks.append(lacking("the CLIP", self.clip, self.clip_revision))
        return "; ".join(filter(None, lacks)) or None

    def key_fields(self, *purposes: Any) -> dict[str, Any]:
        """As for every component, but folders count by what they hold."""
        fields = {**super().key_fields(*purposes), "model": self.painter}
        if self.clip is not None:
            fields["clip"] = identity(self.clip, self.clip_revision)
        return fields

    @property
    def painter(self) -> str:
        """Whose pictures these are: the hub's id and revision, or a folder's name and a digest of what it holds. Raises
        DataError for a folder that holds no pipeline."""
        folder = folder_of(self.model)
        return (
            f"{self.model}@{self.revision or 'main'}"
            if folder is None
            else f"{folder.resolve().name}-{_digest(folder)}"
        )


def _digest(folder: Path) -> str:
    if not (folder / INDEX).is_file():
        raise DataError(
            f"the folder {folder} holds no pipeline: found no {INDEX}. Expected one that save_pretrained of diffusers "
            f"wrote."
        )
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json", ".txt", ".model") and path.is_file():
            told = file_digest(path) if path.suffix == ".safetensors" else file_hash(path)
            digest.update(f"{path.relative_to(folder)} {told}\n".encode())
    return digest.hexdigest()[:10]
