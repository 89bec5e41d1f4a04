"""Vision models of transformers: read from the hub or a folder, or drawn from settings; and their image processors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, AutoModel, PretrainedConfig

from modbridge.errors import ArtefactError, ConfigError, ModbridgeError, Problem
from modbridge.hub import from_hub
from modbridge.media import load_image
from modbridge_vlv.layout import folder_of
from modbridge_vlv.pictures import signed, square

Prepare = Callable[[Any], torch.Tensor]
"""An image as the model's pixels, float32 (3, H, W)."""

CONFIG_FOLDER = "pretrained"


class Named:
    """A pretrained model, by hub id or folder. Raises SetupError for an id that cannot be had, ArtefactError for a
    damaged folder."""

    def __init__(self, name: str, revision: str | None) -> None:
        self.name, self.revision, self.folder = name, revision, folder_of(name)

    def network(self, kind: Any) -> Any:
        """The model in float32, no weight of it left random but a pooler, which nothing here reads."""
        options = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
        network, told = self.part(kind, "config.json", **options)
        lost = [*told["missing_keys"], *(str(key) for key in told["mismatched_keys"])]
        absent = sorted(key for key in lost if "pooler" not in key and not key.endswith("position_ids"))
        if absent:
            raise ArtefactError(
                f"model {self.name} lacks {len(absent)} weights or has them in another shape "
                f"({', '.join(absent[:3])}); expected a whole {type(network).__name__}."
            )
        return network.eval()

    def processor(self) -> Any:
        """The model's own image processor."""
        pil = {"backend": "pil"} if int(transformers.__version__.split(".")[0]) >= 5 else {"use_fast": False}
        return self.part(AutoImageProcessor, "preprocessor_config.json", **pil)

    def part(self, kind: Any, probe: str, **options: Any) -> Any:
        try:
            if self.folder is None:
                return from_hub(kind.from_pretrained, self.name, probe, self.revision, **options)
            return kind.from_pretrained(self.folder, local_files_only=True, **options)
        except ModbridgeError:
            raise
        except (
            Exception
        ) as error:  # transformers raises OSError, ValueError, KeyError ... for missing and damaged files
            raise ArtefactError(f"model {self.name}: {kind.__name__} cannot load it: {error}") from error


# What prepares images can be pickled, so that a DataLoader's workers can be spawned with it.
def processed(processor: Any) -> Prepare:
    """Images through an image processor of transformers."""
    return partial(_processed, processor)


def _processed(processor: Any, item: Any) -> torch.Tensor:
    pixels: torch.Tensor = processor(images=load_image(item), return_tensors="pt")["pixel_values"][0]
    return pixels


def small_prepare(side: int) -> Prepare:
    """Images for a small model: the square in their middle, in -1..1."""
    return partial(_small, side)


def _small(side: int, item: Any) -> torch.Tensor:
    return signed(square(item, side))


def drawn(build: Callable[[Any], Any], settings: Mapping[str, Any], seed: int) -> Any:
    """A model of transformers by its settings, of which `model_type` says the kind; weights drawn from `seed`.

    Raises ConfigError for settings that transformers does not know or cannot build.
    """
    try:
        known_settings("the small model", settings, AutoConfig.for_model(settings["model_type"]))
        given = {name: value for name, value in settings.items() if name != "model_type"}
        config = AutoConfig.for_model(settings["model_type"], **given)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build(config).eval()
    except ConfigError:
        raise
    except Exception as error:  # whatever transformers and torch say to settings that do not fit
        raise ConfigError(f"the small model cannot be built: {type(error).__name__}: {error}") from error


_NO_SETTING_OF_ITS_OWN = ("image_size",)  # what our images are resized to; some backbones take any


def known_settings(told: str, settings: Mapping[str, Any], default: Any) -> None:
    """transformers takes unknown settings without a word. Raises ConfigError for those that `default`, the kind's
    default config, does not have; in blocks of settings (`vision_config`) too."""
    known = set(default.to_dict()) | set(default.attribute_map)
    unknown = sorted(set(settings) - known - set(_NO_SETTING_OF_ITS_OWN))
    if unknown:
        raise ConfigError(
            f"{told}: transformers' {type(default).__name__} knows no setting {', '.join(unknown)}; it knows "
            f"{', '.join(sorted(known))}."
        )
    for name, block in settings.items():
        inner = getattr(default, name, None)
        if isinstance(block, Mapping) and isinstance(inner, PretrainedConfig):
            kind = block.get("model_type", inner.model_type)
            same = kind == inner.model_type
            known_settings(f"{told}, {name}", block, inner if same else AutoConfig.for_model(kind))


def vision_side(network: Any) -> Any:
    """A vision model as it is; of one of images and texts (CLIP, SigLIP) its vision model alone, built as its settings
    alone build it, so that an artefact's settings give the same names of weights.

    Raises ConfigError where there is none.
    """
    if getattr(network.config, "vision_config", None) is None:
        return network
    tower = getattr(network, "vision_model", None)
    if tower is None:
        raise no_vision_model(network, "it is of images and texts and has no vision_model")
    auto: Any = AutoModel
    try:
        with torch.random.fork_rng(devices=[]):
            alone = auto.from_config(network.config.vision_config).float()
    except ValueError as error:  # AutoModel knows no model of these settings
        raise no_vision_model(network, str(error)) from error
    getattr(alone, "vision_model", alone).load_state_dict(tower.state_dict())
    return alone.eval()


def no_vision_model(network: Any, told: str) -> ConfigError:
    """A backbone that images alone cannot be put through."""
    found = f"a {type(network).__name__}, through which images alone cannot go: {told}"
    return ConfigError([Problem("backbone", found, hint="name a vision model (ViT, DINOv2, ConvNeXt), CLIP or SigLIP")])


def shape_kept(build: Callable[[Any], Any], folder: Path) -> Any:
    """The model whose settings an artefact keeps in `folder`, its weights still random. Raises ArtefactError where they
    cannot be read."""
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        with torch.random.fork_rng(devices=[]):
            return build(config).eval()
    except Exception as error:
        raise ArtefactError(f"the model's settings in {folder} cannot be read: {error}") from error
