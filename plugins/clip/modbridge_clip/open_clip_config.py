"""The config of the `open_clip` encoder. Loads neither torch nor open_clip."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from modbridge.config.component import Affects
from modbridge.config.contrastive import TrainConfig, WordsConfig
from modbridge.config.kinds import EncoderConfig
from modbridge.errors import DataError, PortError, SetupError
from modbridge.spaces import Port, Space
from modbridge.store.keys import file_digest

MODALITIES = ("image", "text")
RANDOM = "random"
CLIP_VOCABULARY = 49408
_WEIGHT_FILES = (".pt", ".pth", ".bin", ".safetensors", ".npz")


class OpenClipConfig(EncoderConfig):
    """Images and text through one of open_clip's models.

    Weights come from `pretrained` (a tag of open_clip, a local checkpoint, or the word "random") or the run trains them
    (`train`); one of the two must be given. Vectors are L2-normalised.
    """

    type: Literal["open_clip"] = "open_clip"
    model: str | dict[str, Any] = Field(
        description="a name of open_clip's model configs, or such a config inline: {embed_dim, vision_cfg, text_cfg}"
    )
    pretrained: str | None = Field(
        default=None,
        description="a tag (openai, laion2b_s34b_b79k), a checkpoint file, or 'random' (for tests). A file of "
        "OpenAI's, MetaCLIP's or DFN's weights wants the model name that ends in -quickgelu; for tags that is seen to",
    )
    train: TrainConfig | None = None
    tokenizer: Literal["clip"] | WordsConfig = Field(
        default="clip", description="for inline models: CLIP's byte pairs, or {type: words}"
    )
    image_size: int | None = Field(default=None, ge=1, description="pixels a side, if not the model's own")
    precision: Literal["fp32", "bf16", "fp16"] = Field(default="fp32", description="of the matrix products")
    batch_size: Annotated[int, Affects("nothing")] = Field(default=64, ge=1, description="items embedded at once")
    workers: Annotated[int, Affects("nothing")] = Field(
        default=0, ge=0, description="processes that read and prepare images; 0: none but the main one"
    )

    @field_validator("model")
    @classmethod
    def _known_model(cls, value: str | dict[str, Any]) -> str | dict[str, Any]:
        if isinstance(value, str):
            if value not in model_configs():
                close = difflib.get_close_matches(value.replace("/", "-"), list(model_configs()), n=3, cutoff=0.5)
                advice = (
                    f"did you mean {' or '.join(map(repr, close))}?" if close else "open_clip.list_models() names them"
                )
                raise ValueError(f"open_clip has no model of this name; {advice}")
            return value
        dim = value.get("embed_dim")
        if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
            raise ValueError("an inline model needs `embed_dim`, a whole number above 0")
        for part in ("vision_cfg", "text_cfg"):
            if not isinstance(value.get(part), dict):
                raise ValueError(f"an inline model needs `{part}`, a block of open_clip's settings")
        outside = sorted(key for key in value["text_cfg"] if key.startswith("hf_"))
        if outside:
            raise ValueError(f"an inline model's text tower must be open_clip's own; remove {', '.join(outside)}")
        return value

    @model_validator(mode="after")
    def _one_origin_of_weights(self) -> OpenClipConfig:
        if (self.pretrained is None) == (self.train is None):
            found = "neither" if self.train is None else "both"
            raise ValueError(
                f"weights come from `pretrained` or from `train`: exactly one must be given, {found} was. "
                f"`pretrained: openai` takes published weights; `train: {{}}` trains them in this run"
            )
        words = isinstance(self.tokenizer, WordsConfig)
        if words and self.train is None:
            raise ValueError("`tokenizer: {type: words}` learns its words from the training captions: it needs `train`")
        if isinstance(self.model, str):
            if words:
                raise ValueError("`tokenizer: {type: words}` is for inline models; a named one has its own tokenizer")
            return self
        text = self.model["text_cfg"]
        if words and "vocab_size" in text:
            raise ValueError("`vocab_size` is given by the learned words: remove it from the model's text_cfg")
        if not words and text.get("vocab_size", CLIP_VOCABULARY) < CLIP_VOCABULARY:
            raise ValueError(
                f"CLIP's tokenizer has {CLIP_VOCABULARY} tokens, the model's text_cfg has room for "
                f"{text['vocab_size']}: raise `vocab_size`, or train with `tokenizer: {{type: words}}`"
            )
        if self.pretrained not in (None, RANDOM) and self.checkpoint() is None:
            raise ValueError(
                "an inline model has no published weights: `pretrained` must be a checkpoint file, or 'random'"
            )
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

    def architecture(self) -> dict[str, Any]:
        """open_clip's config of the model, with the image size that is wanted; a copy of its own."""
        source = (
            model_configs()[self.model].read_text("utf-8") if isinstance(self.model, str) else json.dumps(self.model)
        )
        found: dict[str, Any] = json.loads(source)
        if self.image_size is not None:
            found["vision_cfg"]["image_size"] = self.image_size
        return found

    def checkpoint(self) -> Path | None:
        """The local file that `pretrained` names; None if it is a tag or the word "random"."""
        given = self.pretrained
        if given is None or given == RANDOM:
            return None
        path = Path(given).expanduser()
        return path if path.suffix in _WEIGHT_FILES or "/" in given or path.is_file() else None

    def emits(self, modality: str) -> Port:
        """The port of one modality. Raises DataError if the checkpoint file does not exist."""
        if modality not in MODALITIES:
            raise PortError(f"the encoder 'open_clip' takes {', '.join(MODALITIES)}; found {modality!r}.")
        return Port(space=Space(id=self._space_id(), dim=self.architecture()["embed_dim"]), modality=modality)

    def _space_id(self) -> str:
        if self.train is not None:
            return f"open_clip/{_digest(self.key_fields())}/trained"
        size = f"@{self.image_size}px" if self.image_size is not None else ""
        path, model = self.checkpoint(), self.model
        if not isinstance(model, str):
            model = f"inline-{_digest(model)}"
        elif path is None and self.pretrained != RANDOM and model.removesuffix("-quickgelu") in model_configs():
            model = model.removesuffix("-quickgelu")  # the tag decides on the activation, under either name
        if path is None:
            assert self.pretrained is not None
            return f"open_clip/{model}/{clean_tag(self.pretrained)}{size}"
        if not path.is_file():
            raise DataError(
                f"pretrained {self.pretrained!r}: no such file. Give an existing checkpoint, or a tag of open_clip."
            )
        return f"open_clip/{model}/{path.name}-{file_digest(path)}{size}"


def clean_tag(tag: str) -> str:
    """A tag as open_clip compares it."""
    return tag.lower().replace("-", "_")


@lru_cache(maxsize=1)
def model_configs() -> dict[str, Path]:
    """open_clip's model config files by name, found without importing it. Raises SetupError if it is not installed."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise SetupError("open_clip is not installed, or damaged: pip install open-clip-torch")
    folder = Path(spec.submodule_search_locations[0]) / "model_configs"
    return {path.stem: path for path in sorted(folder.glob("*.json"))}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]
