"""The benchmark of the denoisers, at toy size: it runs, and what it counts is right."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "prior.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    if not SCRIPT.is_file():
        pytest.skip(f"needs the repository: {SCRIPT} is not there")
    spec = importlib.util.spec_from_file_location("prior_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_smoke(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert benchmark.main(["--profile", "smoke", "--share", "0.3", "--json", str(tmp_path / "out.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    printed = capsys.readouterr().out
    for title in ("cost", "time to cosine", "bridging", "matrix rate"):
        assert f"## {title}" in printed
        assert found[title]
    # The residual MLP of width 32 with one block at D = 32, by hand: layers with weights, a multiply-add for each.
    mlp = 32 * 32 + (32 * 32 + 32 * 32) + (32 * 32 + 32 * 32 + 32 * 32) + 32 * 32
    assert found["cost"][0]["residual_mlp"] == pytest.approx(mlp / 1e6, abs=5e-4)
    race = {row["denoiser"]: row for row in found["time to cosine"]}
    assert race["residual MLP"]["cosine"] >= race["residual MLP"]["goal"]
    assert all(row["largest difference"] < 1e-4 for row in found["bridging"])


def test_the_authors_sizes(benchmark: ModuleType) -> None:
    import torch

    cpu = torch.device("cpu")
    unet, mlp = (benchmark.build(word, 512, cpu) for word in ("unet1d", "residual_mlp"))
    counted = [benchmark.multiply_adds(prior.network, 512, cpu) for prior in (unet, mlp)]
    assert counted[0] / 1e6 == pytest.approx(342.6, abs=0.05)
    assert counted[0] / counted[1] > 30
