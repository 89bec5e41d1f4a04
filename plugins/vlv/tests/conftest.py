"""Tiny text-to-image models on disk, laid out as Stable Diffusion's repositories are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_vlv.examples import SIDE, write_model
from modbridge_vlv.plugin import TINY_VIT
from transformers import ViTConfig, ViTModel
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model that predicts what is asked for, not to be changed."""
    made: dict[str, Path] = {}

    def find(prediction: str = "epsilon") -> Path:
        if prediction not in made:
            made[prediction] = write_model(tmp_path_factory.mktemp(prediction), prediction)
        return made[prediction]

    return find


@pytest.fixture(scope="session")
def write() -> Callable[..., Path]:
    """Writes a tiny model into a folder of the test's own."""
    return write_model


@pytest.fixture(scope="session")
def images() -> list[Any]:
    """Pictures of noise, uint8 (SIDE, SIDE, 3)."""
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(6)]


@pytest.fixture(scope="session")
def write_vit() -> Callable[[Path], Path]:
    """Writes a tiny pretrained vision backbone, with its image processor, into a folder of the test's own."""

    def write(folder: Path) -> Path:
        settings = {name: value for name, value in TINY_VIT.items() if name != "model_type"}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            ViTModel(ViTConfig(**settings)).save_pretrained(folder)
        ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
        return folder

    return write
