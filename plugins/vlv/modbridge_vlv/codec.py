"""Codecs: pictures into what a diffusion model denoises, and back."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from modbridge.noise import Draw

UNSHUFFLE = "PixelUnshuffle"


class Codec(ABC):
    """Pictures (B, 3, H, W) in -1..1 to latents (B, `channels`, H / `factor`, W / `factor`) times `scale`, and back."""

    channels: int
    factor: int
    scale: float
    network: torch.nn.Module | None = None

    @abstractmethod
    def encode(self, pictures: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The scaled latents; those of a variational codec are drawn."""
        ...

    @abstractmethod
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Pictures of scaled latents."""
        ...

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write it as the `vae` of a model."""
        ...


class PixelUnshuffle(Codec):
    """No learnt codec: blocks of `factor` x `factor` pixels become channels, and nothing is lost (ours, for small
    pictures)."""

    def __init__(self, factor: int, scale: float) -> None:
        self.factor, self.scale, self.channels = factor, scale, 3 * factor**2

    def encode(self, pictures: torch.Tensor, draw: Draw) -> torch.Tensor:
        return functional.pixel_unshuffle(pictures, self.factor) * self.scale

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(latents / self.scale, self.factor)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"_class_name": UNSHUFFLE, "factor": self.factor, "scaling_factor": self.scale}
        (folder / "config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


class Variational(Codec):
    """diffusers' AutoencoderKL, always in float32."""

    def __init__(self, network: Any, scale: float | None) -> None:
        self.network = network
        if scale is not None:
            network.register_to_config(scaling_factor=scale)
        self.scale = float(network.config.scaling_factor)
        self.channels = int(network.config.latent_channels)
        self.factor = 2 ** (len(network.config.block_out_channels) - 1)

    def encode(self, pictures: torch.Tensor, draw: Draw) -> torch.Tensor:
        found = self._network.encode(pictures).latent_dist
        noise = draw.named("latent").normal(found.mean[0].numel()).view_as(found.mean)
        latents: torch.Tensor = (found.mean + found.std * noise) * self.scale
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        pictures: torch.Tensor = self._network.decode(latents / self.scale).sample
        return pictures

    def save(self, folder: Path) -> None:
        self._network.save_pretrained(folder, safe_serialization=True)

    @property
    def _network(self) -> Any:
        return self.network
