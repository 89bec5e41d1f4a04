"""The teacher's loss against its formula, what it leaves untouched, and a small one trained from nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from modbridge_vlv.plugin import TINY_TEACHER
from modbridge_vlv.teacher import DiffusionTeacher
from transformers import CLIPTextModel

from modbridge.config.kinds import SourceConfig
from modbridge.errors import ConfigError, DataError
from modbridge.interfaces import Source
from modbridge.noise import Draw
from modbridge.testing import MemoryFitting, build, build_config

Model = Callable[..., Path]
KEYS = ("one", "two", "three")


class Pictures(Source[SourceConfig]):
    """Pictures of two kinds, each with its caption, or with none."""

    def __init__(self, count: int, captioned: bool = True) -> None:
        super().__init__(SourceConfig(type="toy"))
        self.count, self.captioned = count, captioned

    def keys(self) -> list[str]:
        return [str(row) for row in range(self.count)]

    def media(self, row: int) -> Any:
        return torch.full((16, 16, 3), 230 if row % 2 else 25, dtype=torch.uint8).numpy()

    def texts(self, row: int) -> tuple[str, ...]:
        return (f"a {'light' if row % 2 else 'dark'} picture",) if self.captioned else ()

    def fingerprint(self) -> str:
        return f"{self.count}"


def teacher_of(block: dict[str, Any]) -> DiffusionTeacher:
    found = build("objective", {"type": "diffusion_teacher", **block}, ports={})
    assert isinstance(found, DiffusionTeacher)
    return found


def soft_tokens(count: int = 3) -> torch.Tensor:
    return Draw.of(KEYS[:count], 5).normal(4 * 16).view(count, 4, 16)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_the_loss_is_the_error_of_what_the_scheduler_predicts(model: Model, images: list[Any], prediction: str) -> None:
    folder = model(prediction)
    teacher = teacher_of({"model": str(folder)})
    batch, draw = torch.stack([teacher.prepare(item) for item in images[:3]]), Draw.of(KEYS, 1, 2)
    found = teacher.loss(soft_tokens(), batch, draw)

    kinds: Any = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}
    codec, unet, text = (kind.from_pretrained(folder, subfolder=part).eval() for part, kind in kinds.items())
    with torch.no_grad():
        pixels = torch.stack([torch.from_numpy(item).permute(2, 0, 1) for item in images[:3]]) / 255 * 2 - 1
        latents = codec.encode(pixels).latent_dist
        clean = 0.7 * (latents.mean + latents.std * draw.named("latent").normal(256).view(3, 4, 8, 8))
        noise = draw.named("noise").normal(256).view(3, 4, 8, 8)
        steps = (draw.named("time step").uniform(1)[:, 0] * 1000).long()
        alphas = torch.cumprod(1 - torch.linspace(0.0001, 0.02, 1000), 0)[steps].view(3, 1, 1, 1)
        a, s = alphas.sqrt(), (1 - alphas).sqrt()
        target = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}[prediction]
        text.get_input_embeddings().register_forward_hook(lambda *_: soft_tokens())
        context = text(torch.zeros(3, 4, dtype=torch.long)).last_hidden_state
        said = unet(a * clean + s * noise, steps, encoder_hidden_states=context).sample
    expected = ((said - target) ** 2).flatten(1).mean(dim=1)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_a_teacher_that_keeps_none(model: Model, images: list[Any]) -> None:
    teacher = teacher_of({"model": str(model()), "gradient_checkpointing": True})
    before = {k: v.clone() for m in teacher.modules().values() for k, v in m.state_dict().items()}
    z = soft_tokens().requires_grad_()
    batch = torch.stack([teacher.prepare(item) for item in images[:3]])
    torch.autograd.backward(teacher.loss(z, batch, Draw.of(KEYS, 0)).sum())
    assert z.grad is not None
    assert bool((z.grad.abs().sum(dim=(1, 2)) > 0).all())
    assert set(teacher.modules()) == {"unet", "text_encoder", "vae"}
    for module in teacher.modules().values():
        assert not module.training
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())
    assert all(torch.equal(v, before[k]) for m in teacher.modules().values() for k, v in m.state_dict().items())

    plain = teacher_of({"model": str(model())})
    other = soft_tokens().requires_grad_()
    torch.autograd.backward(plain.loss(other, batch, Draw.of(KEYS, 0)).sum())
    assert other.grad is not None
    assert torch.allclose(z.grad, other.grad, rtol=1e-4, atol=1e-7)


def test_an_items_loss_does_not_depend_on_the_others(model: Model, images: list[Any]) -> None:
    teacher = teacher_of({"model": str(model()), "timesteps": "high"})
    batch = torch.stack([teacher.prepare(item) for item in images[:3]])
    whole = teacher.loss(soft_tokens(), batch, Draw.of(KEYS, 3))
    alone = teacher.loss(soft_tokens()[2:], batch[2:], Draw.of(KEYS[2:], 3))
    assert torch.allclose(whole[2:], alone, rtol=1e-4)


def test_high_time_steps_have_the_density_of_a_square_root(model: Model) -> None:
    from modbridge_vlv.denoising import Noising

    scheduler = teacher_of({"model": str(model())}).bundle.scheduler
    draw, latents = Draw.of([str(i) for i in range(4000)], 0), torch.zeros(4000, 1, 1, 1)
    mean = {
        name: float(Noising(scheduler, name).task(latents, draw).steps.float().mean()) for name in ("uniform", "high")
    }
    assert mean["uniform"] == pytest.approx(499.5, abs=15)
    assert mean["high"] == pytest.approx(1000 * 2 / 3 - 0.5, abs=15)


def test_the_null_sequence_is_the_empty_prompts(model: Model) -> None:
    teacher = teacher_of({"model": str(model())})
    bundle = teacher.bundle
    ids = bundle.tokenizer("", padding="max_length", max_length=8, return_tensors="pt")["input_ids"]
    expected = bundle.text_encoder(input_ids=ids).last_hidden_state
    assert torch.allclose(teacher.context_of(teacher.null()), expected, atol=1e-5)


def test_a_small_teacher_learns_and_its_artefact_is_a_model(tmp_path: Path) -> None:
    train = {"steps": 60, "batch_size": 8, "lr": 3e-3}
    teacher = teacher_of({**TINY_TEACHER, "train": train, "latent_scale": 0.5})
    fitting, source = MemoryFitting(), Pictures(16)
    teacher.fit(source, fitting)
    batch, draw = torch.stack([teacher.prepare(source.media(row)) for row in range(8)]), Draw.of(source.keys()[:8], 9)

    def told(texts: list[str], of: DiffusionTeacher) -> float:
        ids = torch.stack([of.token_ids(text) for text in texts])
        with torch.no_grad():
            return float(of.loss(of.token_embeddings(ids), batch, draw).mean())

    right = [source.texts(row)[0] for row in range(8)]
    wrong = [source.texts(row + 1)[0] for row in range(8)]
    assert told(right, teacher) < told(wrong, teacher)
    assert not any(p.requires_grad for m in teacher.modules().values() for p in m.parameters())

    teacher.save_extra(tmp_path)
    again = teacher_of(TINY_TEACHER)
    again.load_extra(tmp_path)
    as_model = teacher_of({"model": str(tmp_path), "timesteps": "high"})
    assert told(right, again) == told(right, teacher) == told(right, as_model)


def test_images_without_captions_cannot_make_a_teacher() -> None:
    with pytest.raises(DataError, match=r"4 of 4 images have no caption.*captioned images"):
        teacher_of(TINY_TEACHER).fit(Pictures(4, captioned=False), MemoryFitting())


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"model": "owner/name"}, "brings its own"),
        ({"unet": None}, "unet missing"),
        ({"resolution": 18}, "no multiple of codec.factor"),
        ({"scheduler": {"prediction_type": "velocity"}}, "known are epsilon, v_prediction, sample"),
        ({"text_encoder": {"hidden_size": 16, "vocab_size": 9}}, "given by the tokenizer"),
        ({"unet": {"cross_attention_dim": 24}}, "cross_attention_dim is 24"),
        ({"unet": {"in_channels": 4}}, "codec and resolution make it 48"),
        ({"revision": "v1"}, "a small model has none"),
    ],
)
def test_configs_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build_config("objective", {**TINY_TEACHER, **changes})


def test_settings_that_the_libraries_do_not_know() -> None:
    unet = {**TINY_TEACHER["unet"], "layers_per_blok": 2}
    with pytest.raises(ConfigError, match="no setting layers_per_blok"):
        teacher_of({**TINY_TEACHER, "unet": unet}).fit(Pictures(4), MemoryFitting())
    words = {**TINY_TEACHER["text_encoder"], "num_hiden_layers": 2}
    with pytest.raises(ConfigError, match=r"text_encoder: .*no setting num_hiden_layers"):
        teacher_of({**TINY_TEACHER, "text_encoder": words}).fit(Pictures(4), MemoryFitting())
