"""A decoder that writes nothing of its own: it recalls the training caption whose vector is nearest by cosine.

The vectors are compared as the augmenter gives them in the first epoch. Of equally near captions the first.

Source: the baseline "CLIPRe" (caption retrieval) of Li et al., "DeCap" (ICLR 2023).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.nn.functional import normalize

from modbridge.builtin.nearest_caption_config import NearestCaptionDecoderConfig
from modbridge.errors import ArtefactError
from modbridge.interfaces import BuildContext, Decoded, Decoder, Fitting, TextVectors

CAPTIONS = "captions.json"
CHUNK = 4096


class NearestCaptionDecoder(Decoder[NearestCaptionDecoderConfig]):
    """Remembers the training captions (N texts) and their unit vectors (N, D), float32. Nothing is trained."""

    def __init__(self, config: NearestCaptionDecoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.captions: list[str] = []
        self.vectors = torch.zeros(0, context.dim(), device=self.device)

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        starts = range(0, len(vectors), CHUNK)
        parts = [vectors.batch(range(i, min(i + CHUNK, len(vectors))), 0) for i in starts]
        self.captions, self.vectors = list(targets), normalize(torch.cat(parts).to(self.device, torch.float32), dim=1)

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        if not self.captions:
            raise ArtefactError(f"the decoder {self.config.type!r} knows no captions; call `fit`, or load an artefact.")
        cosines, rows = (normalize(bridged, dim=1) @ self.vectors.T).max(dim=1)
        found = zip(keys, rows.tolist(), cosines.tolist(), strict=True)
        return [Decoded(key, self.captions[row], score) for key, row, score in found]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"vectors": self.vectors}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        found = tensors.get("vectors")
        wanted = (len(self.captions), self.context.dim())
        if found is None or tuple(found.shape) != wanted:
            shape = None if found is None else tuple(found.shape)
            raise ArtefactError(f"the captions' vectors are {shape}; expected {wanted}. Fit the decoder anew.")
        self.vectors = found.to(self.device, torch.float32)

    def save_extra(self, folder: Path) -> None:
        (folder / CAPTIONS).write_text(json.dumps(self.captions, ensure_ascii=False), encoding="utf-8")

    def load_extra(self, folder: Path) -> None:
        try:
            self.captions = list(map(str, json.loads((folder / CAPTIONS).read_text(encoding="utf-8"))))
        except (OSError, ValueError) as error:
            raise ArtefactError(f"{folder / CAPTIONS} cannot be read ({error}); fit the decoder anew.") from error
