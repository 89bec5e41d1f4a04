"""The demos: made-up worlds of pictures and of sounds, and the configs that run the whole job on them."""

from __future__ import annotations

from pathlib import Path

from modbridge.errors import ConfigError, Problem

MODALITIES = ("image", "audio", "vlv")


def demo_config(modality: str) -> Path:
    """The config file of a demo: a modality, or "vlv"."""
    if modality not in MODALITIES:
        raise ConfigError(
            [Problem("--modality", f"no such demo: {modality!r}", hint=f"there are: {', '.join(MODALITIES)}")]
        )
    return Path(__file__).parent / f"{modality}.yaml"
