"""modbridge import-weights diffusion-bridge, on files made as the authors' trainer makes them, at a small size."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.checkpoint import mean_of, read_checkpoint
from modbridge_diffusion.schedule import NoiseSchedule
from modbridge_diffusion.unet1d import UNet1D

from modbridge.cli import main
from modbridge.errors import DataError
from modbridge.store.artefact import read_manifest, read_tensors

SHAPE: dict[str, Any] = {"init_dim": 4, "dim_mults": (1, 2), "time_dim": 16}


def authors_file(path: Path, *, seed: int = 0, schedule: str = "cosine", **changes: Any) -> dict[str, torch.Tensor]:
    """A checkpoint with the entries of the authors' `Trainer1D.save`; gives the raw network's state."""
    torch.manual_seed(seed)
    network = UNet1D(**SHAPE).state_dict()
    process = NoiseSchedule.named(schedule, 1000)
    buffers = {"alphas_cumprod": process.alpha_bar, "loss_weight": process.snr}
    model = {f"model.{name}": value for name, value in network.items()} | buffers
    ema = {"initted": torch.tensor(True), "step": torch.tensor(300)}
    ema |= {f"online_model.{name}": value for name, value in model.items()}
    ema |= {f"ema_model.{name}": value * 0.5 if "model." in name else value for name, value in model.items()}
    content = {"step": 3_000_000, "model": model, "opt": {"state": {}}, "ema": ema, "scaler": None, "version": "2.0.17"}
    torch.save({**content, **changes}, path)
    return network


def mean_file(path: Path, dim: int = 16, length: float = 0.7) -> torch.Tensor:
    mean = torch.nn.functional.normalize(torch.arange(1.0, dim + 1)[None], dim=1) * length
    torch.save(mean, path)
    return mean


def run(*arguments: object) -> int:
    return main([str(argument) for argument in ("import-weights", "diffusion-bridge", *arguments)])


def test_raw_weights_become_a_prior(tmp_path: Path) -> None:
    network = authors_file(tmp_path / "model-300.pt")
    assert run(tmp_path / "model-300.pt", "--out", tmp_path / "prior", "--space", "toy/space") == 0
    manifest = read_manifest(tmp_path / "prior")
    assert (manifest["kind"], manifest["type"]) == ("prior", "ddpm")
    assert manifest["imported"]["weights"] == "raw"
    assert manifest["imported"]["step"] == manifest["config"]["steps"] == 3_000_000
    assert manifest["config"]["schedule"] == "cosine"
    assert manifest["config"]["radius"] == 5.0
    assert manifest["config"]["denoiser"]["dim_mults"] == [1, 2]
    assert manifest["ports"]["text"]["space"] == {"id": "toy/space", "dim": 16, "normalised": True}
    tensors = read_tensors(tmp_path / "prior" / "model.safetensors")
    assert tensors.keys() == {f"network.{name}" for name in network}
    assert all(torch.equal(tensors[f"network.{name}"], value) for name, value in network.items())


def test_the_moving_average_is_taken_on_request(tmp_path: Path) -> None:
    network = authors_file(tmp_path / "model.pt")
    assert run(tmp_path / "model.pt", "--out", tmp_path / "prior", "--ema") == 0
    tensors = read_tensors(tmp_path / "prior" / "model.safetensors")
    assert torch.equal(tensors["network.init_conv.weight"], network["init_conv.weight"] * 0.5)
    assert read_manifest(tmp_path / "prior")["imported"]["weights"] == "ema"


def test_with_means_it_is_a_whole_bridge(tmp_path: Path) -> None:
    authors_file(tmp_path / "model.pt")
    text, image = mean_file(tmp_path / "text.pt"), mean_file(tmp_path / "image.pt", length=0.6)
    given = ("--text-mean", tmp_path / "text.pt", "--image-mean", tmp_path / "image.pt")
    assert run(tmp_path / "model.pt", *given, "--out", tmp_path / "bridge") == 0
    assert read_manifest(tmp_path / "bridge")["type"] == "diffusion_bridge"
    tensors = read_tensors(tmp_path / "bridge" / "model.safetensors")
    assert torch.equal(tensors["statistics.text_mean"], text[0])
    assert torch.equal(tensors["statistics.source_mean"], image[0])
    # Unit vectors around a mean m are sqrt(1 - |m|^2) away from it in the root mean square.
    assert float(tensors["statistics.text_radius"]) == pytest.approx((1 - 0.49) ** 0.5)
    assert (tmp_path / "bridge" / "prior" / "model.safetensors").is_file()


def test_schedule_and_sizes_are_read_off_the_file(tmp_path: Path) -> None:
    authors_file(tmp_path / "model.pt", schedule="linear")
    found = read_checkpoint(tmp_path / "model.pt", radius=20)
    assert (found.config.schedule, found.config.timesteps, found.config.radius) == ("linear", 1000, 20)
    assert (found.time_dim, found.step) == (16, 3_000_000)


def other_process(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"]["alphas_cumprod"] = torch.linspace(1, 0, 1000)
    torch.save(content, path)


def other_objective(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"]["loss_weight"] = torch.ones(1000)  # that of predicting the noise
    torch.save(content, path)


def stock_widths(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"]["model.time_mlp.3.weight"] = torch.zeros(64, 64)
    torch.save(content, path)


def another_net(path: Path) -> None:
    torch.save({"model": {"model.layers.0.weight": torch.zeros(4, 4)}}, path)


def one_tensor_less(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    del content["model"]["model.final_conv.bias"]
    torch.save(content, path)


def not_finite(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    content["model"]["model.final_conv.bias"] *= torch.nan
    torch.save(content, path)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:2000])


def runs_code(path: Path) -> None:
    path.write_bytes(pickle.dumps({"model": print}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (other_process, "neither cosine nor linear"),
        (other_objective, "another objective"),
        (stock_widths, "PyPI's denoising-diffusion-pytorch"),
        (another_net, "another network than the authors' 1-D U-Net: no init_conv.weight"),
        (one_tensor_less, "missing ['final_conv.bias']"),
        (not_finite, "NaN or infinity, the first final_conv.bias"),
        (cut_short, "cannot be read as a torch file of tensors"),
        (runs_code, "cannot be read as a torch file of tensors"),
    ],
)
def test_foreign_files_are_refused(
    spoil: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authors_file(tmp_path / "model.pt")
    spoil(tmp_path / "model.pt")
    assert run(tmp_path / "model.pt", "--out", tmp_path / "prior") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "prior").exists()


def test_no_moving_average(tmp_path: Path) -> None:
    authors_file(tmp_path / "model.pt", ema=None)
    with pytest.raises(DataError, match="holds no ema"):
        read_checkpoint(tmp_path / "model.pt", ema=True)


def test_means_of_another_space_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authors_file(tmp_path / "model.pt")
    mean_file(tmp_path / "text.pt", 24)
    mean_file(tmp_path / "image.pt")
    given = ("--text-mean", tmp_path / "text.pt", "--image-mean", tmp_path / "image.pt")
    assert run(tmp_path / "model.pt", *given, "--out", tmp_path / "bridge") == 1
    assert "shape (1, 24), expected (16,): it is of another space" in capsys.readouterr().err
    assert not (tmp_path / "bridge").exists()
    assert run(tmp_path / "model.pt", *given[:2], "--out", tmp_path / "bridge") == 1
    assert "give both" in capsys.readouterr().err


def test_a_mean_of_vectors_that_were_not_normalised_is_refused(tmp_path: Path) -> None:
    mean_file(tmp_path / "long.pt", length=7.5)
    with pytest.raises(DataError, match=r"length 7\.5"):
        mean_of(tmp_path / "long.pt", 16)
    np.save(tmp_path / "nan.npy", np.full(16, np.nan, dtype=np.float32))
    with pytest.raises(DataError, match="length nan"):
        mean_of(tmp_path / "nan.npy", 16)


def test_an_existing_folder_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    authors_file(tmp_path / "model.pt")
    (tmp_path / "prior").mkdir()
    assert run(tmp_path / "model.pt", "--out", tmp_path / "prior") == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not list((tmp_path / "prior").iterdir())


def test_unknown_weights(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import-weights", "difusion-bridge", "x.pt"]) == 1
    assert "did you mean 'diffusion-bridge'?" in capsys.readouterr().err
    assert main(["import-weights"]) in (0, 2)
    assert "diffusion-bridge" in "".join(capsys.readouterr())
