"""Pictures and texts in the space of a CLIP of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoModel, AutoTokenizer

from modbridge.errors import ArtefactError, ConfigError, Problem
from modbridge.media import load_image
from modbridge_vlv.pretrained import Named


class Clip:
    """A CLIP, by hub id or folder. `longest`: the tokens that it reads of a text. `cut`: how many of the texts that it
    was given were longer, and were cut there.

    Raises ConfigError for a model that is no CLIP, ArtefactError for a damaged folder, SetupError for one that cannot
    be had.
    """

    def __init__(self, model: str, revision: str | None, device: torch.device) -> None:
        named = Named(model, revision)
        self._network = named.network(AutoModel).to(device)
        if not hasattr(self._network, "get_text_features"):
            told = f"{model} is a {type(self._network).__name__}, which has no vectors of texts"
            raise ConfigError([Problem("model", told, hint="name a CLIP or SigLIP")])
        self._processor = named.processor()
        self._tokenizer = named.part(AutoTokenizer, "tokenizer_config.json")
        settings = self._network.config
        if len(self._tokenizer) < 8 or len(self._tokenizer) > settings.text_config.vocab_size:
            raise ArtefactError(
                f"the tokenizer of {model} has {len(self._tokenizer)} tokens, and its text model "
                f"{settings.text_config.vocab_size}; expected one of the other."
            )
        self.longest, self.cut, self._device = int(settings.text_config.max_position_embeddings), 0, device
        # SigLIP learnt from texts that were filled up to the end, without a mask.
        self._filled = str(settings.model_type).startswith("siglip")

    def pictures(self, items: Sequence[Any]) -> torch.Tensor:
        """Unit vectors (B, D) of paths, arrays or PIL images. Raises DataError for an item that is no picture."""
        pixels = self._processor(images=[load_image(item) for item in items], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return _unit(self._network.get_image_features(pixel_values=pixels.to(self._device)))

    def texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Unit vectors (B, D). One that is too long is cut before its end token, not behind it: CLIP reads a text out
        at that token."""
        ask = self._tokenizer
        self.cut += sum(len(ids) > self.longest for ids in ask(list(texts), verbose=False)["input_ids"])
        padding = "max_length" if self._filled else True
        read = ask(list(texts), padding=padding, truncation=True, max_length=self.longest, return_tensors="pt")
        given = {"input_ids": read["input_ids"].to(self._device)}
        if not self._filled:
            given["attention_mask"] = read["attention_mask"].to(self._device)
        with torch.inference_mode():
            return _unit(self._network.get_text_features(**given))

    def note(self) -> str:
        """What a reader must know of the texts; "" if nothing."""
        return f"{self.cut} texts are longer than the {self.longest} tokens that CLIP reads, and were cut" * (
            self.cut > 0
        )


def _unit(found: Any) -> torch.Tensor:
    """transformers 5 gives an object, 4 the vectors themselves."""
    vectors = found if isinstance(found, torch.Tensor) else found.pooler_output
    return normalize(vectors.double(), dim=-1)
