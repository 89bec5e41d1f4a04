"""The `laion_clap` encoder: sounds and texts through the network that LAION's package builds."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from modbridge.audio import load_audio
from modbridge.clips import Clip, clip_vectors, stacked
from modbridge.errors import DataError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.pretrained import SPREAD_PROMPTS, check_spread, lower_precision
from modbridge_laion_clap.checkpoint import load_weights, read_checkpoint
from modbridge_laion_clap.config import LaionClapConfig
from modbridge_laion_clap.features import LaionFeatures
from modbridge_laion_clap.package import HOP, LENGTH, RATE, TEXT_LENGTH, VOCABULARY, draw_network, log_mel
from modbridge_laion_clap.text import RobertaTokens


class LaionClapEncoder(Encoder[LaionClapConfig]):
    """Vectors (B, 512), L2-normalised, float32. The checkpoint is not copied into artefacts."""

    def __init__(self, config: LaionClapConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        path = config.file()
        self._tokens = RobertaTokens(config.tokenizers, VOCABULARY, TEXT_LENGTH)
        state = read_checkpoint(path)
        network, settings = draw_network(config.audio_model, config.fusion)
        chosen = f"{config.audio_model} {'with' if config.fusion else 'without'} fusion"
        load_weights(network, state, path, chosen)
        self._network = network.to(self.device)
        self._features = LaionFeatures(
            LENGTH,
            HOP,
            partial(log_mel, settings=settings) if config.fusion else None,
            int16=config.int16,
            long_clips=config.long_clips or ("fusion" if config.fusion else "crop"),
            where=config.crop,
            seed=config.crop_seed,
        )
        check_spread(self.encode(SPREAD_PROMPTS, "text").values.cpu(), f"checkpoint {path}")

    @property
    def sample_rate(self) -> int:
        """The rate of the sounds it reads, in Hz."""
        return RATE

    def prepare(self, item: Any, modality: str) -> Clip | torch.Tensor:
        """A sound as its windows, a text as token ids (L,). Raises DataError for other items."""
        if modality == "audio":
            return self._features(load_audio(item, RATE))
        if not isinstance(item, str):
            raise DataError(f"a text was expected; found {type(item).__name__}.")
        return self._tokens(item)

    def collate(self, items: Sequence[Any], modality: str) -> dict[str, torch.Tensor]:
        return stacked(list(items)) if modality == "audio" else self._tokens.batch(items)

    def embed(self, batch: dict[str, torch.Tensor], modality: str) -> torch.Tensor:
        if modality == "text":
            with lower_precision(self.config.precision, self.device):
                found = self._network.encode_text(batch, device=self.device)
            return _unit(found)
        return clip_vectors(batch, self._sound, self.config.batch_size)

    def parameter_count(self) -> int:
        """All of the network's parameters, though none is trained here."""
        return sum(p.numel() for p in self._network.parameters())

    def _sound(self, windows: torch.Tensor, longer: torch.Tensor) -> torch.Tensor:
        """Unit vectors of windows: samples, or a fused network's log-mels."""
        name = "mel_fusion" if self.config.fusion else "waveform"
        with lower_precision(self.config.precision, self.device):
            found = self._network.encode_audio({name: windows, "longer": longer[:, None]}, device=self.device)
            found = self._network.audio_projection(found["embedding"])
        return _unit(found)


def _unit(values: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(values.float(), dim=-1)
