"""Reading the authors' checkpoint: which U-Net it holds, and which noise process it was trained for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modbridge.errors import DataError
from modbridge.store.foreign import read_torch_file
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.denoiser_config import UNet1DConfig
from modbridge_diffusion.schedule import NoiseSchedule
from modbridge_diffusion.unet1d import UNet1D

AUTHORS_TRAINING = {"batch_size": 64, "lr": 8e-5, "lr_decay": "constant"}
SCHEDULES = ("cosine", "linear")


@dataclass(frozen=True)
class Checkpoint:
    """`network`: the U-Net's state. `config`: the prior it makes. `time_dim`: size of its sinusoid, which the authors
    set to the vectors' dimension. `step`: how long it was trained; None if the file does not say."""

    network: dict[str, torch.Tensor]
    config: DDPMConfig
    time_dim: int
    step: int | None


def read_checkpoint(file: Path, *, ema: bool = False, radius: float = 5.0) -> Checkpoint:
    """The prior in a checkpoint of the authors' trainer, or in the bare state of their diffusion class.

    Raises DataError for a file that cannot be read as tensors, for another network, another objective, a schedule that
    we do not have, and where the moving average is asked for but not there.
    """
    content = read_torch_file(file)
    if not isinstance(content, dict):
        raise DataError(f"{file} holds {type(content).__name__}; expected the checkpoint of a trainer.")
    held = content.get("ema" if ema else "model", None if ema else content)
    if not isinstance(held, dict):
        raise DataError(f"{file} holds no {'ema' if ema else 'model'}; found {_few(content)}.")
    outer = "ema_model." if ema else ""
    state = {name.removeprefix(outer): value for name, value in held.items() if name.startswith(outer)}
    network = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    if not network or not all(isinstance(value, torch.Tensor) for value in network.values()):
        raise DataError(f"{file} holds no network under {outer}model.; found {_few(held)}.")
    shape = _shape_of(network, file)
    step = content.get("step")
    step = int(step) if isinstance(step, int) and step > 0 else None
    process = _process(state, file)
    config = DDPMConfig(
        type="ddpm",
        denoiser=shape,
        radius=radius,
        **process,
        **AUTHORS_TRAINING,
        **({"steps": step} if step else {}),
    )
    clean = {name: value.float() for name, value in network.items()}
    broken = [name for name, value in clean.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise DataError(f"{file}: {len(broken)} tensors hold NaN or infinity, the first {broken[0]}.")
    return Checkpoint(clean, config, int(clean["time_mlp.1.weight"].shape[1]), step)


def mean_of(file: Path, dim: int) -> torch.Tensor:
    """The mean (D,) of unit vectors that the authors keep beside their data (shape (1, D) there).

    Raises DataError for another number of dimensions, for NaN, and for a length that no mean of unit vectors has.
    """
    if file.suffix == ".npy":
        try:
            found = torch.from_numpy(np.load(file, allow_pickle=False))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"the mean {file} cannot be read: {error}.") from None
    else:
        found = read_torch_file(file)
    if not isinstance(found, torch.Tensor):
        raise DataError(f"the mean {file} holds {type(found).__name__}; expected one tensor.")
    if found.numel() != dim or found.shape[-1] != dim:
        raise DataError(f"the mean {file} has shape {tuple(found.shape)}, expected ({dim},): it is of another space.")
    mean = found.reshape(-1).float()
    length = float(mean.norm())
    if not 0 < length < 1:
        raise DataError(
            f"the mean {file} has length {length:.3g}, but a mean of unit vectors lies between 0 and 1: it was "
            f"taken of vectors that were not normalised, or it is no mean."
        )
    return mean


def _shape_of(network: dict[str, torch.Tensor], file: Path) -> UNet1DConfig:
    """The U-Net's sizes, read off its tensors and then checked against every name and shape."""
    other = f"{file} holds another network than the authors' 1-D U-Net"
    needed = ("init_conv.weight", "time_mlp.1.weight", "time_mlp.3.weight", "mid_attn.fn.fn.to_qkv.weight")
    lacking = [name for name in needed if name not in network]
    if lacking:
        raise DataError(f"{other}: no {lacking[0]}; found {_few(network)}.")
    init_dim, channels = network["init_conv.weight"].shape[:2]
    if channels != 1:
        raise DataError(f"{other}: its stem takes {channels} channels, expected 1 (the vector as a sequence).")
    levels = sorted({int(name.split(".")[1]) for name in network if name.startswith("downs.")})
    widths = [network[f"downs.{i}.3.weight"].shape[0] for i in levels if f"downs.{i}.3.weight" in network]
    width = network["time_mlp.3.weight"].shape[0]
    if width != 4 * init_dim or len(widths) != len(levels) or any(size % init_dim for size in widths):
        raise DataError(
            f"{other}: stem {init_dim}, levels {widths}, time embedding {width} wide; expected levels in multiples of "
            f"the stem and a time embedding of {4 * init_dim}. The class of PyPI's denoising-diffusion-pytorch has "
            f"other widths and is not the authors'."
        )
    config = UNet1DConfig(
        type="unet1d",
        init_dim=int(init_dim),
        dim_mults=tuple(int(size // init_dim) for size in widths),
        time_dim=int(network["time_mlp.1.weight"].shape[1]),
    )
    with torch.device("meta"):
        net = UNet1D(config.init_dim, config.dim_mults, config.time_dim or 0)
    wanted = {name: value.shape for name, value in net.state_dict().items()}
    found = {name: value.shape for name, value in network.items()}
    if wanted != found:
        missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
        both = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
        shapes = [f"{name} {tuple(found[name])} for {tuple(wanted[name])}" for name in both]
        raise DataError(f"{other}: missing {missing[:3]}, unknown {extra[:3]}, of another shape {shapes[:3]}.")
    return config


def _process(state: dict[str, Any], file: Path) -> dict[str, Any]:
    """Number of time steps and schedule, read off the buffers; cosine with 1000 where the file holds the net alone."""
    left = state.get("alphas_cumprod")
    if not isinstance(left, torch.Tensor):
        return {"timesteps": 1000, "schedule": "cosine"}
    for name in SCHEDULES:
        ours = NoiseSchedule.named(name, len(left))
        if torch.allclose(ours.alpha_bar, left.float(), rtol=1e-3, atol=1e-6):
            weight = state.get("loss_weight")
            if isinstance(weight, torch.Tensor) and not torch.allclose(weight.float(), ours.snr, rtol=2e-2, atol=1e-6):
                raise DataError(
                    f"{file} was trained for another objective: its loss weights are not the SNR that the authors' "
                    f"estimate of x_0 is weighted with. Only that objective can be imported."
                )
            return {"timesteps": len(left), "schedule": name}
    raise DataError(f"{file} was trained under a noise schedule that is neither {' nor '.join(SCHEDULES)}.")


def _few(mapping: dict[str, Any]) -> str:
    names = sorted(map(str, mapping))
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
