"""Tiny models on disk, and configs that read them: what the conformance checks, and this plugin's own tests, are tried
on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    AutoImageProcessor,
    AutoTokenizer,
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    ViTConfig,
    ViTModel,
)

from modbridge.testing.conformance import toys
from modbridge_vlv.plugin import TINY_FLORENCE, TINY_TEACHER, TINY_TRAIN, TINY_VIT
from modbridge_vlv.tokens import words_tokenizer

SIDE, LONGEST, WIDTH = 16, 8, 16
_TOYS, _TAUGHT = 8, 40  # items and steps that the small CLIP learns from
_CODEC = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "sample_size": SIDE,
    "scaling_factor": 0.7,
}


def write_model(folder: Path, prediction: str = "epsilon", **unet: Any) -> Path:
    """A text-to-image model with random weights and a variational codec, laid out as Stable Diffusion's are; written
    by its libraries alone."""
    sizes = {"sample_size": SIDE // 2, "in_channels": 4, "out_channels": 4, "cross_attention_dim": WIDTH}
    libraries: Any = (AutoencoderKL, UNet2DConditionModel, CLIPTextModel, DDPMScheduler)
    codec, denoiser, text, scheduler = libraries
    tokenizer = words_tokenizer(["a red circle", "a blue square at the left"], 1, LONGEST)
    words = CLIPTextConfig(
        **TINY_TEACHER["text_encoder"], vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        codec(**_CODEC).save_pretrained(folder / "vae")
        denoiser(**{**TINY_TEACHER["unet"], **sizes, **unet}).save_pretrained(folder / "unet")
        text(words).save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler(prediction_type=prediction).save_pretrained(folder / "scheduler")
    return folder


def query_encoder(at: Path) -> dict[str, Any]:
    taught = {"queries": 4, "objective": _teacher(at), "train": TINY_TRAIN}
    return {"backbone": TINY_VIT, "layers": 1, "heads": 2, **taught}


def florence2_query(at: Path) -> dict[str, Any]:
    return {"model": TINY_FLORENCE, "queries": 4, "objective": _teacher(at), "train": TINY_TRAIN}


def soft_context(at: Path) -> dict[str, Any]:
    return {"teacher": _teacher(at)}


def diffusion_painter(at: Path) -> dict[str, Any]:
    return {"teacher": _teacher(at), "steps": 3}


def fid(at: Path) -> dict[str, Any]:
    return {"features": str(write_vit(at / "vit"))}


def clip_score(at: Path) -> dict[str, Any]:
    return {"model": str(write_clip(at / "clip"))}


def repainted(at: Path) -> dict[str, Any]:
    """Its weights know nothing; with this seed the pictures of right captions happen to be the better ones."""
    painter = {"model": str(write_pipeline(at / "pipeline")), "steps": 2, "guidance": [1, 2.5], "seed": 6}
    return {**painter, **fid(at), "clip": None}


def write_vit(folder: Path) -> Path:
    """A vision model of transformers with random weights, and its image processor."""
    settings = {name: value for name, value in TINY_VIT.items() if name != "model_type"}
    network: Any = ViTModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network(ViTConfig(**settings, num_channels=3)).save_pretrained(folder)
    _write_processor(folder, "ViTImageProcessor", {"height": SIDE, "width": SIDE})
    return folder


def write_pipeline(folder: Path) -> Path:
    """A text-to-image pipeline with random weights, as diffusers saves one."""
    parts = write_model(folder.with_name(f"{folder.name}-parts"))
    pipeline: Any = StableDiffusionPipeline
    codec, denoiser, text = (
        kind.from_pretrained(parts / name)
        for name, kind in (("vae", AutoencoderKL), ("unet", UNet2DConditionModel), ("text_encoder", CLIPTextModel))
    )
    # Without these two settings diffusers warns at length.
    scheduler: Any = DDPMScheduler
    steps = scheduler.from_pretrained(parts / "scheduler", steps_offset=1, clip_sample=False)
    made = pipeline(
        vae=codec, unet=denoiser, text_encoder=text, scheduler=steps,
        tokenizer=AutoTokenizer.from_pretrained(parts / "tokenizer"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    made.save_pretrained(folder)
    return folder


def write_clip(folder: Path) -> Path:
    """A CLIP that has just learnt which toy captions go with which toy pictures, as transformers saves one."""
    tokenizer = words_tokenizer([text for row in range(toys.ITEMS) for text in toys.captions(row)], 1, LONGEST)
    size = {"hidden_size": WIDTH, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "bos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(
        text_config={**size, **ids, "max_position_embeddings": LONGEST},
        vision_config={**size, "image_size": SIDE, "patch_size": 4},
        projection_dim=WIDTH,
    )
    kind: Any = CLIPModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = kind(config)
        tokenizer.save_pretrained(folder)
        _write_processor(folder, "CLIPImageProcessor", {"shortest_edge": SIDE})
        reader: Any = AutoImageProcessor
        _teach(network, tokenizer, reader.from_pretrained(folder))
    network.save_pretrained(folder)
    return folder


def _teach(network: Any, tokenizer: Any, processor: Any) -> None:
    pixels = processor(images=[toys.image(row) for row in range(_TOYS)], return_tensors="pt")["pixel_values"]
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    for step in range(_TAUGHT):
        said: Sequence[str] = [toys.captions(row)[step % 2] for row in range(_TOYS)]
        read = tokenizer(said, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
        optimiser.zero_grad()
        network(
            input_ids=read["input_ids"], attention_mask=read["attention_mask"], pixel_values=pixels, return_loss=True
        ).loss.backward()
        optimiser.step()
    network.eval()


def _write_processor(folder: Path, kind: str, size: dict[str, int]) -> None:
    settings = {"image_processor_type": kind, "size": size, "do_resize": True, "do_normalize": True}
    settings |= {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "do_rescale": True, "rescale_factor": 1 / 255}
    if kind.startswith("CLIP"):
        settings |= {"do_center_crop": True, "crop_size": {"height": SIDE, "width": SIDE}, "do_convert_rgb": True}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")


def _teacher(at: Path) -> dict[str, Any]:
    """A teacher that is there already."""
    return {"type": "diffusion_teacher", "model": str(write_model(at / "model", "sample"))}
