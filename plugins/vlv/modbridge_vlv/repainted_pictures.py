"""Pictures that a text-to-image pipeline of diffusers paints of captions, kept as files, each painted once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoPipelineForText2Image
from packaging.version import Version

from modbridge.errors import ArtefactError, ConfigError, ModbridgeError, Problem
from modbridge.hub import from_hub
from modbridge.store.artefact import part_of
from modbridge.store.keys import stable_hash
from modbridge.training import derived_seed
from modbridge_vlv.layout import folder_of
from modbridge_vlv.repainted_config import INDEX, RepaintedConfig


@dataclass(frozen=True)
class Wanted:
    """A picture to be painted: of which item, of what caption, at which guidance, into which file."""

    key: str
    caption: str
    guidance: float
    file: Path


def wanted(config: RepaintedConfig, folder: Path, keys: Sequence[str], captions: Sequence[str]) -> list[list[Wanted]]:
    """The pictures of all items, at each guidance. A file's name says all that decides the picture."""
    rest = [config.painter, config.steps, config.seed, config.precision, config.options]

    def one(key: str, caption: str, guidance: float) -> Wanted:
        name = stable_hash([*rest, key, caption, guidance])
        return Wanted(key, caption, guidance, folder / name[:2] / f"{name}.png")

    return [[one(*item, guidance) for item in zip(keys, captions, strict=True)] for guidance in config.guidance]


def paint(config: RepaintedConfig, device: torch.device, left: Sequence[Wanted], done: Callable[[int], None]) -> None:
    """Paint what is not there yet, `left`; the pipeline is dropped afterwards."""
    if not left:
        return
    pipeline = read_pipeline(config, device)
    size = config.paint_batch_size
    for guidance in config.guidance:
        # In an order of their own, so that the same pictures are painted together whatever the order of the items.
        own = sorted((one for one in left if one.guidance == guidance), key=lambda one: one.file.name)
        for start in range(0, len(own), size):
            some = own[start : start + size]
            for one, picture in zip(some, _painted(config, pipeline, some), strict=True):
                one.file.parent.mkdir(parents=True, exist_ok=True)
                beside = part_of(one.file)  # of its own, since runs that are under way together may share `keep`
                picture.save(beside, "PNG")
                beside.replace(one.file)
            done(len(some))
    del pipeline
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _painted(config: RepaintedConfig, pipeline: Any, some: Sequence[Wanted]) -> list[Any]:
    """The noise of each picture is drawn by (seed, key), on the CPU, so that neither its neighbours nor the device
    change it."""
    seeds = [derived_seed("repainted", config.seed, one.key) for one in some]
    with torch.inference_mode():
        found = pipeline(
            prompt=[one.caption for one in some],
            num_inference_steps=config.steps,
            guidance_scale=some[0].guidance,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="pil",
            **config.options,
        )
    return list(found.images)


def read_pipeline(config: RepaintedConfig, device: torch.device) -> Any:
    """The pipeline, its weights from safetensors alone.

    Raises ConfigError for one that does not paint by guidance or does not know the `options`, ArtefactError for a
    damaged folder, SetupError for one that cannot be had.
    """
    folder = folder_of(config.model)
    precision = "dtype" if Version(diffusers.__version__) >= Version("0.42") else "torch_dtype"
    options = {precision: getattr(torch, config.precision), "use_safetensors": True}
    load: Any = AutoPipelineForText2Image.from_pretrained
    try:
        if folder is None:
            found = from_hub(load, config.model, INDEX, config.revision, **options)
        else:
            found = load(folder, local_files_only=True, **options)
    except ModbridgeError:
        raise
    except Exception as error:  # diffusers raises OSError, ValueError, AttributeError ... for what it cannot load
        told = f"{config.model} cannot be loaded as a text-to-image pipeline of diffusers: {error}"
        raise ArtefactError(told) from error
    known = inspect.signature(found.__call__).parameters
    for name in ("num_inference_steps", "guidance_scale", "generator", *config.options):
        if name not in known:
            ours = "options" if name in config.options else "model"
            told = f"{type(found).__name__} takes no {name} when it paints"
            raise ConfigError([Problem(ours, told, hint=f"it takes {', '.join(known)}")])
    found.set_progress_bar_config(disable=True)
    return found.to(device)
