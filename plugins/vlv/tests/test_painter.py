"""The teacher as a painter: against the library's own pipeline, and whatever is painted beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from modbridge_vlv.bundle import drawn_scheduler
from modbridge_vlv.painter import DiffusionPainter
from modbridge_vlv.plugin import TINY_TEACHER
from modbridge_vlv.teacher import DiffusionTeacher

from modbridge.errors import ConfigError
from modbridge.interfaces import BridgeConfig
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port
from modbridge.testing import build, build_config

Model = Callable[..., Path]
KEYS = ("one", "two", "three", "four")
STABLE = {"steps_offset": 1, "clip_sample": False}  # the pipeline insists on them


def painter_of(folder: Path, **fields: Any) -> tuple[DiffusionPainter, Embeddings]:
    """A painter, and contexts of soft tokens of noise as the bridge makes them."""
    teacher = {"type": "diffusion_teacher", "model": str(folder)}
    tokens: Port = build_config("objective", teacher).port("tokens", "image", 4)
    bridge: Any = build(
        "bridge", {"type": "soft_context", "teacher": teacher}, ports={"source": tokens, "text": tokens}
    )
    assert isinstance(bridge.config, BridgeConfig)
    z = Draw.of(KEYS, 3).normal(4 * 16).view(4, 4, 16)
    contexts = bridge.cross(Embeddings(z, tokens, KEYS))
    block = {"type": "diffusion_painter", "teacher": teacher, "steps": 4, **fields}
    painter = build("decoder", block, ports={"text": contexts.port})
    assert isinstance(painter, DiffusionPainter)
    return painter, contexts


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_images_are_those_of_the_librarys_pipeline(model: Model, prediction: str, guidance: float) -> None:
    painter, contexts = painter_of(
        model(prediction), guidance=guidance, scheduler="DDIMScheduler", scheduler_settings=STABLE
    )
    found = painter.decode(contexts, seed=5)
    assert [one.key for one in found] == list(KEYS)
    assert found[0].image.shape == (16, 16, 3)
    assert found[0].image.dtype == np.uint8

    teacher = painter.context.parts["teacher"]
    assert isinstance(teacher, DiffusionTeacher)
    bundle, library = teacher.bundle, cast("Any", StableDiffusionPipeline)
    pipeline = library(
        vae=bundle.codec.network, text_encoder=bundle.text_encoder, tokenizer=bundle.tokenizer, unet=bundle.unet,
        scheduler=painter.scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    ids = bundle.tokenizer("", padding="max_length", max_length=8, return_tensors="pt")["input_ids"]
    # The pipeline wants contexts as long as the empty prompt's.
    null = bundle.text_encoder(input_ids=ids).last_hidden_state
    longer = torch.cat([contexts.values, contexts.values[:, -1:].expand(-1, 4, -1)], dim=1)
    if guidance == 1.0:
        told, untold = contexts.values, None
    else:
        told, untold = longer, null.expand(4, -1, -1)
        found = painter.decode_batch(longer, None, KEYS, 5)
    noise = Draw.of(KEYS, 5).named("paint").normal(4 * 8 * 8).view(4, 4, 8, 8)
    expected = pipeline(
        prompt_embeds=told, negative_prompt_embeds=untold, latents=noise, guidance_scale=guidance,
        num_inference_steps=4, output_type="np", height=16, width=16,
    ).images  # fmt: skip
    for one, other in zip(found, expected, strict=True):
        assert np.abs(one.image.astype(int) - np.round(other * 255)).max() <= 1


def test_guidance_changes_images(model: Model) -> None:
    plain, contexts = painter_of(model(), guidance=1.0)
    guided, _ = painter_of(model(), guidance=4.0)
    assert not np.array_equal(plain.decode(contexts)[0].image, guided.decode(contexts)[0].image)


@pytest.mark.parametrize("scheduler", [None, "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_an_image_does_not_depend_on_its_batch(model: Model, scheduler: str | None) -> None:
    together, contexts = painter_of(model(), scheduler=scheduler)
    apart, _ = painter_of(model(), scheduler=scheduler, decode_batch_size=1)
    pairs = zip(together.decode(contexts, seed=2), apart.decode(contexts, seed=2), strict=True)
    assert max(np.abs(a.image.astype(int) - b.image.astype(int)).max() for a, b in pairs) <= 1
    other = together.decode(contexts, seed=3)
    assert not np.array_equal(other[0].image, together.decode(contexts, seed=2)[0].image)


def test_schedulers_that_cannot_paint(model: Model) -> None:
    with pytest.raises(ConfigError, match="no scheduler 'DDMPScheduler'"):
        painter_of(model(), scheduler="DDMPScheduler")
    with pytest.raises(ConfigError, match="FlowMatchEulerDiscreteScheduler knows no prediction_type"):
        painter_of(model(), scheduler="FlowMatchEulerDiscreteScheduler")
    with pytest.raises(ConfigError, match="the model's own"):
        painter_of(model(), scheduler_settings={"prediction_type": "sample"})
    with pytest.raises(ConfigError, match="DDPMScheduler has no setting 'timestep_spaceing'"):
        painter_of(model(), scheduler_settings={"timestep_spaceing": "trailing"})


@pytest.mark.parametrize("settings", [{"timestep_spacing": "behind"}, {"beta_schedule": "steep"}])
def test_values_that_a_scheduler_does_not_take_are_told_when_it_is_built(
    model: Model, settings: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=f"DDPMScheduler takes no 4 steps with .*{next(iter(settings.values()))}"):
        painter_of(model(), scheduler_settings=settings)
    # A small teacher has no weights yet, but its noise schedule is known.
    block = {"type": "diffusion_painter", "teacher": TINY_TEACHER, "steps": 4, "scheduler_settings": settings}
    with pytest.raises(ConfigError, match="DDPMScheduler takes no 4 steps"):
        build("decoder", block, ports={})


def test_more_steps_than_the_teacher_knows(model: Model) -> None:
    small = {**TINY_TEACHER, "scheduler": {"prediction_type": "sample", "num_train_timesteps": 20}}
    for teacher, total in ((small, 20), ({"type": "diffusion_teacher", "model": str(model())}, 1000)):
        build_config("decoder", {"type": "diffusion_painter", "teacher": teacher, "steps": total})
        with pytest.raises(ConfigError, match=f"steps: {total + 1}, but the teacher knows {total} time steps"):
            build_config("decoder", {"type": "diffusion_painter", "teacher": teacher, "steps": total + 1})


@pytest.mark.parametrize("scheduler", ["DDPMScheduler", "DDIMScheduler"])
@pytest.mark.parametrize("own", ["EulerDiscreteScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"])
def test_latents_are_clipped_only_where_the_model_says_so(
    write: Model, tmp_path: Path, scheduler: str, own: str
) -> None:
    folder = write(tmp_path / "model")
    file = folder / "scheduler" / "scheduler_config.json"
    settings = {"_class_name": own, "num_train_timesteps": 1000, "prediction_type": "epsilon"}
    file.write_text(json.dumps(settings))
    solver = painter_of(folder, scheduler=scheduler)[0].scheduler()
    solver.set_timesteps(4)
    latents = torch.full((1, 4, 8, 8), 60.0)
    found = solver.step(torch.zeros_like(latents), solver.timesteps[-1], latents)
    assert float(found.pred_original_sample.min()) > 30  # without noise nearly all of it is the image

    asked = painter_of(folder, scheduler=scheduler, scheduler_settings={"clip_sample": True})[0].scheduler()
    assert asked.config.clip_sample
    file.write_text(json.dumps({**settings, "clip_sample": True}))
    assert painter_of(folder, scheduler=scheduler)[0].scheduler().config.clip_sample


def test_a_small_teachers_latents_are_not_clipped() -> None:
    assert not drawn_scheduler({}).config.clip_sample
    assert drawn_scheduler({"clip_sample": True}).config.clip_sample
