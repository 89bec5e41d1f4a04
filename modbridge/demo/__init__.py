"""The demo: made-up worlds of drawn scenes and of synthesised sounds, and the config that runs the whole job on it."""

from __future__ import annotations

from pathlib import Path

from modbridge.errors import ConfigError, Problem

MODALITIES = ("image", "audio")


def demo_config(modality: str) -> Path:
    """The demo's config file for a modality."""
    if modality not in MODALITIES:
        raise ConfigError(
            [Problem("--modality", f"no such demo: {modality!r}", hint=f"there are: {', '.join(MODALITIES)}")]
        )
    return Path(__file__).parent / f"{modality}.yaml"
