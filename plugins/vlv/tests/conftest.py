"""Tiny text-to-image models on disk, laid out as Stable Diffusion's repositories are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from modbridge_vlv.examples import SIDE, write_model


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
