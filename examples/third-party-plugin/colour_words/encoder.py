"""Images and texts in one space, learnt from pairs in closed form: canonical correlation analysis.

Source: Hardoon, Szedmak and Shawe-Taylor, "Canonical correlation analysis: an overview with application to learning
methods" (2004); the weights by powers of the correlations: Gong et al., "A multi-view embedding space" (IJCV 2014).
"""

from __future__ import annotations

from typing import Any

import torch
from modbridge.errors import ArtefactError
from modbridge.interfaces import Encoder, Fitting, Source
from torch.nn.functional import normalize

from colour_words.cca import canonical_maps
from colour_words.config import ColourWordsConfig
from colour_words.features import histograms, words


class ColourWords(Encoder[ColourWordsConfig]):
    """For each modality the mean of its features and a matrix into the common space."""

    fitted: dict[str, torch.Tensor] | None = None

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        config = self.config
        return words(item, config.buckets) if modality == "text" else histograms(item, config.grid, config.bins)

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        kept = self.tensors()
        x = batch.to(self.device) - kept[f"{modality}.mean"]
        return normalize(x @ kept[f"{modality}.map"], dim=1)

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        pairs = [(row, text) for row in range(len(source)) for text in source.texts(row)]
        images = [self.prepare(source.media(row), "image") for row in range(len(source))]
        x = torch.stack([images[row] for row, _ in pairs]).to(self.device, torch.float64)
        y = torch.stack([self.prepare(text, "text") for _, text in pairs]).to(self.device, torch.float64)
        maps, strengths = canonical_maps(x, y, self.config.dim, self.config.ridge)
        self.fitted = {}
        for modality, side, matrix in (("image", x, maps[0]), ("text", y, maps[1])):
            self.fitted |= {f"{modality}.mean": side.mean(dim=0).float()}
            self.fitted |= {f"{modality}.map": (matrix * strengths**self.config.power).float()}
        fitting.log(fit="colour_words", pairs=len(pairs), strongest=float(strengths[0]), weakest=float(strengths[-1]))

    def tensors(self) -> dict[str, torch.Tensor]:
        if self.fitted is None:
            raise ArtefactError("the encoder 'colour_words' has not been fitted; run it in a pipeline, or call `fit`.")
        return self.fitted

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.fitted = {name: value.to(self.device) for name, value in tensors.items()}
