"""The `hf_clip` encoder: CLIP, SigLIP and SigLIP 2 through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoTokenizer

from modbridge.errors import ArtefactError, DataError, ModbridgeError
from modbridge.hub import from_hub
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.media import load_image
from modbridge.pretrained import check_vocabulary, lower_precision
from modbridge_clip.hf_clip_config import HfClipConfig

KINDS = ("clip", "siglip", "siglip2")


class HfClipEncoder(Encoder[HfClipConfig]):
    """Vectors (B, D), L2-normalised, float32.

    Images go through the PIL processor, as the weights were trained with PIL's resizing. SigLIP's texts are padded to
    the full length and read without a mask, as in its training; SigLIP 2's are lower-cased.
    """

    def __init__(self, config: HfClipConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        settings = self._load(AutoConfig)
        self.kind = str(settings.model_type)
        if self.kind not in KINDS:
            raise DataError(
                f"model {config.model} is of the kind {self.kind!r}; this encoder reads {', '.join(KINDS)}."
            )
        self._tokenizer = self._load(AutoTokenizer, "tokenizer_config.json")
        check_vocabulary(len(self._tokenizer), settings.text_config.vocab_size, config.model)
        self._lower = self.kind == "siglip2" or "gemma" in type(self._tokenizer).__name__.lower()
        self._length = int(settings.text_config.max_position_embeddings)
        pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
        self._images = self._load(AutoImageProcessor, "preprocessor_config.json", **pil)
        self._model = self._load(AutoModel, dtype=torch.float32).to(self.device).eval()

    def prepare(self, item: Any, modality: str) -> dict[str, torch.Tensor]:
        """An image as what its processor gives, a text as token ids (L,), cut if too long.

        Raises DataError for an item that is no image or no text.
        """
        if modality == "image":
            found = self._images(images=load_image(item), return_tensors="pt")
        elif isinstance(item, str):
            text = item.lower() if self._lower else item
            found = self._tokenizer(
                text, padding="max_length", truncation=True, max_length=self._length, return_tensors="pt"
            )
            if self.kind != "clip":
                found = {"input_ids": found["input_ids"]}
        else:
            raise DataError(f"a text was expected; found {type(item).__name__}.")
        return {name: value[0] for name, value in found.items()}

    def collate(self, items: Sequence[dict[str, torch.Tensor]], modality: str) -> dict[str, torch.Tensor]:
        """Stacked. CLIP's texts are cut to the longest of the batch, since its causal tower reads the vector at the end
        token; SigLIP's tower reads padding too, as in training."""
        batch = {name: torch.stack([item[name] for item in items]) for name in items[0]}
        if modality == "text" and self.kind == "clip":
            longest = int(batch["attention_mask"].sum(dim=1).max())
            batch = {name: value[:, :longest] for name, value in batch.items()}
        return batch

    def embed(self, batch: dict[str, torch.Tensor], modality: str) -> torch.Tensor:
        inputs = {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
        with lower_precision(self.config.precision, self.device):
            features = self._model.get_image_features if modality == "image" else self._model.get_text_features
            found: Any = features(**inputs)
        values = found if isinstance(found, torch.Tensor) else found.pooler_output  # transformers 4, 5
        return torch.nn.functional.normalize(values.float(), dim=-1)

    def parameter_count(self) -> int:
        """All of the model's parameters; none is trained here."""
        return int(sum(p.numel() for p in self._model.parameters()))

    def _load(self, part: Any, probe: str = "config.json", **options: Any) -> Any:
        """One part of the model, from its folder or the hub. Raises ArtefactError for a damaged folder."""
        folder = self.config.folder()
        if folder is None:
            return from_hub(part.from_pretrained, self.config.model, probe, self.config.revision, **options)
        try:
            return part.from_pretrained(folder, local_files_only=True, **options)
        except ModbridgeError:
            raise
        except (
            Exception
        ) as error:  # transformers raises OSError, ValueError, KeyError ... for missing and damaged files
            raise ArtefactError(f"model {self.config.model}: {part.__name__} cannot load it: {error}") from error
