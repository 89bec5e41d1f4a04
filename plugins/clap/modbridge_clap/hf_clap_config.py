"""The config of the `hf_clap` encoder. Loads neither torch nor transformers."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from modbridge.config.clips import ClipEncoderConfig
from modbridge.config.contrastive import TrainConfig, WordsConfig
from modbridge.errors import DataError, PortError
from modbridge.hub import cached_file
from modbridge.spaces import Port, Space
from modbridge.store.keys import model_digest
from modbridge_clap.hf_clap_shapes import filled, inline_problem, shape_problem

MODALITIES = ("audio", "text")
HUB_DIMENSIONS = {
    "laion/clap-htsat-unfused": 512,
    "laion/clap-htsat-fused": 512,
    "laion/larger_clap_general": 512,
    "laion/larger_clap_music": 512,
    "laion/larger_clap_music_and_speech": 512,
}
_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")


class BytesConfig(BaseModel):
    """Texts as their UTF-8 bytes: a tokenizer that needs neither files nor training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["bytes"]


class HfClapConfig(ClipEncoderConfig):
    """Sounds and texts through a CLAP model (Wu et al. 2023) in Hugging Face's format. Vectors are L2-normalised.

    Sample rate, window length and dimension are the model's.
    """

    type: Literal["hf_clap"] = "hf_clap"
    model: str | dict[str, Any] = Field(
        description="an id on the hub (laion/clap-htsat-unfused), a local folder, or a model inline: {projection_dim, "
        "audio_config, text_config: transformers' settings of a ClapModel; features: those of ClapFeatureExtractor}"
    )
    revision: str | None = Field(default=None, description="a commit, tag or branch on the hub")
    pretrained: Literal["random"] | None = Field(
        default=None, description="of an inline model: 'random' leaves its weights as drawn (for tests)"
    )
    train: TrainConfig | None = Field(
        default=None, description="of an inline model: the run trains it on the sounds and captions of data.train"
    )
    tokenizer: Annotated[WordsConfig | BytesConfig, Field(discriminator="type")] | None = Field(
        default=None,
        description="of an inline model: {type: words} learns its words from the training captions, {type: bytes} "
        "reads bytes. Other models bring their own",
    )

    @field_validator("model")
    @classmethod
    def _one_of_three(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            if not _looks_local(value) and not _HUB_ID.fullmatch(value):
                raise ValueError("expected an id on the hub (owner/name), a folder (/path, ./path), or a model inline")
            return value
        problem = inline_problem(value)
        if problem is None:
            whole = filled(value)
            problem = shape_problem(whole["audio_config"], whole["features"])
        if problem is not None:
            raise ValueError(problem)
        return value

    @model_validator(mode="after")
    def _one_origin_of_weights(self) -> HfClapConfig:
        if isinstance(self.model, str):
            given = [name for name in ("pretrained", "train", "tokenizer") if getattr(self, name) is not None]
            if given:
                raise ValueError(f"{', '.join(given)}: for inline models; {self.model} has weights and tokenizer")
            return self
        if self.revision is not None:
            raise ValueError("`revision` is for models on the hub; an inline model has none")
        if (self.pretrained is None) == (self.train is None):
            found = "neither" if self.train is None else "both"
            raise ValueError(
                f"an inline model's weights come from `train: {{}}` (trained in this run) or `pretrained: random` (for "
                f"tests): exactly one must be given, {found} was"
            )
        if self.tokenizer is None:
            raise ValueError("an inline model needs `tokenizer: {type: words}`, or {type: bytes}")
        if self.train is None and isinstance(self.tokenizer, WordsConfig):
            raise ValueError("`tokenizer: {type: words}` learns its words from the training captions: it needs `train`")
        if "vocab_size" in self.model["text_config"]:
            raise ValueError("`vocab_size` is given by the tokenizer: remove it from the model's text_config")
        fused = bool(self.model["audio_config"].get("enable_fusion"))
        if fused and self.train is not None:
            raise ValueError("only models without fusion can be trained here: remove `enable_fusion`")
        if self.long_clips == "fusion" and not fused:
            raise ValueError("`long_clips: fusion` is for fused models (enable_fusion): take crop or mean")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        return MODALITIES

    @property
    def needs_fit(self) -> bool:
        return self.train is not None

    @property
    def fit_seed(self) -> int | None:
        return None if self.train is None else self.train.seed

    def folder(self) -> Path | None:
        """The local folder that `model` names; None for the others. Raises DataError if it does not exist."""
        if not isinstance(self.model, str):
            return None
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
            raise PortError(f"the encoder 'hf_clap' takes {', '.join(MODALITIES)}; found {modality!r}.")
        return Port(space=Space(id=self._space_id(), dim=self._dim()), modality=modality)

    def _space_id(self) -> str:
        if not isinstance(self.model, str):
            if self.train is not None:
                return f"hf_clap/{_digest(self.key_fields())}/trained"
            assert self.tokenizer is not None
            return f"hf_clap/inline-{_digest([self.model, self.tokenizer.type])}/random"
        folder = self.folder()
        if folder is None:
            return f"hf/{self.model}" + (f"@{self.revision}" if self.revision else "")
        digest = model_digest(folder)
        if digest is None:
            raise DataError(f"model {self.model}: the folder has no weights (*.safetensors or *.bin).")
        return f"hf/{folder.resolve().name}-{digest}"

    def _dim(self) -> int | None:
        if not isinstance(self.model, str):
            return int(self.model["projection_dim"])
        folder = self.folder()
        if folder is not None:
            return _projection_dim(folder / "config.json")
        cached = cached_file(self.model, "config.json", self.revision)
        return _projection_dim(cached) if cached is not None else HUB_DIMENSIONS.get(self.model)


def _projection_dim(path: Path) -> int | None:
    """A CLAP model's dimension from its config.json, which may leave out the library's default; None for others."""
    try:
        content = json.loads(path.read_text("utf-8"))
        return int(content.get("projection_dim", 512)) if content.get("model_type") == "clap" else None
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} cannot be read as a model's config: {error}") from error


def _looks_local(value: str) -> bool:
    return value.startswith(("/", "./", "../", "~")) or value in (".", "..")


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
