"""One set of weights for the tests, written by the workspace's environment. Without laion_clap nothing is collected, so
that the workspace's own `pytest` passes by."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

if importlib.util.find_spec("laion_clap") is None:
    collect_ignore = ["tests"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass(frozen=True)
class Reference:
    """What parity/write_reference.py wrote, and the checkpoint made of it."""

    folder: Path
    checkpoint: Path
    sounds: list[Path]
    texts: list[str]
    vectors: dict[str, Any]

    def config(self, **options: Any) -> dict[str, Any]:
        tokenizers = str(self.folder / "tokenizers")
        return {"type": "laion_clap", "checkpoint": str(self.checkpoint), "tokenizers": tokenizers} | options


def _reference(folder: Path, *, fusion: bool) -> Reference:
    import numpy as np

    if shutil.which("uv") is None:
        pytest.skip("needs `uv`, to run the other half in the workspace's environment")
    if not (ROOT / ".venv").is_dir():
        pytest.skip(f"needs the workspace's environment: run `uv sync` in {ROOT}")
    data = os.environ.get("MODBRIDGE_TEST_DATA")
    command = ["uv", "run", "--no-sync", "--project", str(ROOT), "python", str(HERE / "parity" / "write_reference.py")]
    command += [str(folder)] + (["--data", data] if data else []) + (["--fusion"] if fusion else [])
    environment = {name: value for name, value in os.environ.items() if name not in ("VIRTUAL_ENV", "PYTHONPATH")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    inputs = json.loads((folder / "inputs.json").read_text())
    with np.load(folder / "vectors.npz") as vectors:
        return Reference(
            folder,
            _checkpoint(folder, fusion=fusion),
            [Path(path) for path in inputs["sounds"]],
            inputs["texts"],
            dict(vectors),
        )


def _checkpoint(folder: Path, *, fusion: bool) -> Path:
    """learned.pt as the authors publish theirs: with the fixed filters and unused heads, and the training's state."""
    import numpy as np
    import torch
    from modbridge_laion_clap.package import draw_network

    learned = torch.load(folder / "learned.pt", weights_only=True)
    whole = draw_network("HTSAT-tiny", fusion)[0].state_dict()
    fixed = ("spectrogram_extractor", "logmel_extractor", "relative_position_index", ".attn_mask")
    unused = ("tscam_conv", "audio_branch.head", "audio_transform", "text_transform")
    missing = [name for name in whole.keys() - learned.keys() if not any(part in name for part in fixed + unused)]
    assert not missing, missing
    assert learned.keys() <= whole.keys(), learned.keys() - whole.keys()
    state = {f"module.{name}": value for name, value in (whole | learned).items()}
    state["module.text_branch.embeddings.position_ids"] = torch.arange(514)[None]
    path = folder / "toy-630k.pt"
    torch.save({"epoch": 45, "name": "toy", "best": np.float64(0.5), "state_dict": state, "optimizer": {}}, path)
    (folder / "learned.pt").unlink()
    return path


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    folder = tmp_path_factory.mktemp("parity")
    yield _reference(folder, fusion=False)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def fused(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    folder = tmp_path_factory.mktemp("parity_fused")
    yield _reference(folder, fusion=True)
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def encoder(reference: Reference) -> Any:
    """An encoder of the checkpoint, as it is by default but for the 16 bits."""
    from modbridge.testing import build

    return build("encoder", reference.config(int16=False))


@pytest.fixture(scope="session")
def fused_encoder(fused: Reference) -> Any:
    from modbridge.testing import build

    return build("encoder", fused.config(int16=False, fusion=True))


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """Offline, with nothing in the hub's cache."""

    def empty() -> Path:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        return tmp_path / "hub"

    return empty
