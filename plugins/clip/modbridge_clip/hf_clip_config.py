"""The config of the `hf_clip` encoder. Loads neither torch nor transformers."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import EncoderConfig
from modbridge.errors import DataError, PortError
from modbridge.hub import cached_file
from modbridge.spaces import Port, Space
from modbridge.store.keys import model_digest
from modbridge_clip.known import HUB_DIMENSIONS, SAME_WEIGHTS

MODALITIES = ("image", "text")
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class HfClipConfig(EncoderConfig):
    """Images and text through a CLIP, SigLIP or SigLIP 2 model in Hugging Face's format. Vectors are L2-normalised."""

    type: Literal["hf_clip"] = "hf_clip"
    model: str = Field(description="an id on the hub (openai/clip-vit-base-patch32), or a local folder")
    revision: str | None = Field(default=None, description="a commit, tag or branch on the hub")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the matrix products")
    batch_size: Annotated[int, Affects("nothing")] = Field(default=64, ge=1, description="items embedded at once")
    workers: Annotated[int, Affects("nothing")] = Field(
        default=0, ge=0, description="processes that read and prepare images; 0: none but the main one"
    )

    @field_validator("model")
    @classmethod
    def _id_or_folder(cls, value: str) -> str:
        if not _looks_local(value) and not _HUB_ID.fullmatch(value):
            raise ValueError("expected an id on the hub (owner/name) or a folder (/path, ./path)")
        return value

    @property
    def modalities(self) -> tuple[str, ...]:
        return MODALITIES

    def folder(self) -> Path | None:
        """The local folder that `model` names; None for an id on the hub. Raises DataError if it does not exist."""
        path = Path(self.model).expanduser()
        if path.is_dir():
            if not (path / "config.json").is_file():
                raise DataError(
                    f"model {self.model}: the folder has no config.json. Expected a model saved by transformers."
                )
            return path
        if _looks_local(self.model):
            raise DataError(
                f"model {self.model}: no such folder. Give a folder saved by transformers, or an id on the hub."
            )
        return None

    def emits(self, modality: str) -> Port:
        """The port of one modality; its dimension is None for a hub's model that is neither cached nor well known."""
        if modality not in MODALITIES:
            raise PortError(f"the encoder 'hf_clip' takes {', '.join(MODALITIES)}; found {modality!r}.")
        return Port(space=Space(id=self._space_id(), dim=self._dim()), modality=modality)

    def _space_id(self) -> str:
        folder = self.folder()
        if folder is not None:
            digest = model_digest(folder)
            if digest is None:
                raise DataError(f"model {self.model}: the folder has no weights (*.safetensors or *.bin).")
            return f"hf/{folder.resolve().name}-{digest}"
        if self.revision in (None, "main") and self.model in SAME_WEIGHTS:
            return SAME_WEIGHTS[self.model]
        return f"hf/{self.model}" + (f"@{self.revision}" if self.revision else "")

    def _dim(self) -> int | None:
        folder = self.folder()
        if folder is not None:
            return embedding_dim(json.loads((folder / "config.json").read_text("utf-8")))
        cached = cached_file(self.model, "config.json", self.revision)
        if cached is not None:
            return embedding_dim(json.loads(cached.read_text("utf-8")))
        return HUB_DIMENSIONS.get(self.model)


def embedding_dim(config: dict[str, Any]) -> int | None:
    """The dimension of a model's vectors, from its config.json; None for kinds of models that are not known here.

    Files on the hub leave out what equals the library's default: 512 for CLIP, 768 for SigLIP.
    """
    if config.get("model_type") == "clip":
        return int(config.get("projection_dim", 512))
    if config.get("model_type") in ("siglip", "siglip2"):
        text = config.get("text_config") or {}
        return int(text.get("projection_size") or text.get("hidden_size", 768))
    return None


def _looks_local(value: str) -> bool:
    return value.startswith(("/", "./", "../", "~")) or value in (".", "..")
