"""Tiny models on disk, and configs that read them: what the conformance checks, and this plugin's own tests, are tried
on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from modbridge_vlv.plugin import TINY_FLORENCE, TINY_TEACHER, TINY_TRAIN, TINY_VIT
from modbridge_vlv.tokens import words_tokenizer

SIDE, LONGEST, WIDTH = 16, 8, 16
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


def _teacher(at: Path) -> dict[str, Any]:
    """A teacher that is there already."""
    return {"type": "diffusion_teacher", "model": str(write_model(at / "model", "sample"))}
