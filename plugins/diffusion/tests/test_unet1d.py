"""The U-Net against the fact sheet's counts and against a float64 forward pass in numpy, written from the facts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.unet1d import UNet1D
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modbridge.errors import PortError
from modbridge.testing import build, toy_port

SMALL: dict[str, Any] = {"init_dim": 4, "dim_mults": (1, 2, 3), "time_dim": 6, "heads": 2, "head_dim": 5}
Array = np.ndarray[Any, np.dtype[np.float64]]


def small(**changes: Any) -> UNet1D:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet1D(**{**SMALL, **changes})
        for name, parameter in net.named_parameters():
            if name.endswith(".g"):  # other gains than the ones they start with
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return net.eval()


def inputs(count: int = 3, dim: int = 16) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(count, dim, generator=torch.Generator().manual_seed(1))) * 5


class TestSizes:
    def test_the_authors_parameter_count(self) -> None:
        assert sum(p.numel() for p in UNet1D().parameters()) == 4_037_313

    def test_the_authors_multiply_adds(self) -> None:
        net = UNet1D().eval()
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            net(torch.zeros(1, 512), torch.tensor([3]))
        by_operation = {str(name): flops / 2e6 for name, flops in counter.get_flop_counts()["Global"].items()}
        assert sum(by_operation.values()) == pytest.approx(342.6, abs=0.05)
        assert by_operation["aten.convolution"] + by_operation["aten.addmm"] == pytest.approx(325.8, abs=0.05)

    def test_state_has_the_librarys_names(self) -> None:
        shapes = {name: tuple(value.shape) for name, value in UNet1D().state_dict().items()}
        known = {
            "init_conv.weight": (32, 1, 7),
            "time_mlp.1.weight": (128, 512),
            "time_mlp.3.bias": (128,),
            "downs.0.0.mlp.1.weight": (64, 128),
            "downs.0.0.block1.proj.weight": (32, 32, 3),
            "downs.0.1.block2.norm.g": (1, 32, 1),
            "downs.2.2.fn.fn.to_qkv.weight": (384, 64, 1),
            "downs.2.2.fn.fn.to_out.0.bias": (64,),
            "downs.2.2.fn.fn.to_out.1.g": (1, 64, 1),
            "downs.2.2.fn.norm.g": (1, 64, 1),
            "downs.0.3.weight": (32, 32, 4),
            "downs.2.3.weight": (128, 64, 4),
            "downs.3.3.weight": (256, 128, 3),
            "mid_block1.block1.proj.weight": (256, 256, 3),
            "mid_attn.fn.fn.to_qkv.weight": (384, 256, 1),
            "mid_attn.fn.fn.to_out.weight": (256, 128, 1),
            "mid_attn.fn.norm.g": (1, 256, 1),
            "mid_block2.mlp.1.bias": (512,),
            "ups.0.0.res_conv.weight": (256, 384, 1),
            "ups.0.1.block1.proj.weight": (256, 384, 3),
            "ups.0.3.1.weight": (128, 256, 3),
            "ups.2.2.fn.fn.to_out.1.g": (1, 64, 1),
            "ups.3.3.weight": (32, 32, 3),
            "final_res_block.res_conv.weight": (32, 64, 1),
            "final_conv.weight": (1, 32, 1),
        }
        assert {name: shapes.get(name) for name in known} == known
        for absent in ("downs.0.0.res_conv.weight", "downs.0.2.fn.fn.to_qkv.bias", "mid_attn.fn.fn.to_out.0.weight"):
            assert absent not in shapes

        block, skipping = 8, 10  # tensors of a residual block without and with a 1x1 skip
        level = 5 + 2  # attention, and what leads to the next level
        downs, ups = 4 * (2 * block + level), 4 * (2 * skipping + level)
        assert len(shapes) == 2 + 4 + downs + block + 4 + block + ups + skipping + 2


class TestForward:
    def test_equals_numpy_in_float64(self) -> None:
        net, x, t = small(), inputs(), torch.tensor([0, 17, 999])
        with torch.no_grad():
            found = net(x, t).double().numpy()
        state = {name: value.double().numpy() for name, value in net.state_dict().items()}
        expected = unet_by_hand(state, x.double().numpy(), t.numpy(), levels=3, heads=2)
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(found, expected, atol=2e-5)

    def test_batch_size_order_and_one_time_step_for_all_change_nothing(self) -> None:
        net, x = small(), inputs(5)
        with torch.no_grad():
            whole = net(x, torch.tensor([400]))
            alone = torch.cat([net(row[None], torch.tensor([400])) for row in x])
            turned = net(x.flip(0), torch.full((5,), 400)).flip(0)
        assert torch.allclose(whole, alone, atol=1e-5)
        assert torch.allclose(whole, turned, atol=1e-5)

    def test_every_parameter_learns(self) -> None:
        net = small()
        net(inputs(), torch.tensor([1, 500, 900])).square().sum().backward()
        still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
        assert still == []

    def test_dropout_acts_in_training_only(self) -> None:
        net, x, t = small(dropout=0.5), inputs(), torch.tensor([3])
        assert torch.equal(net(x, t), small()(x, t))
        net.train()
        assert not torch.equal(net(x, t), small()(x, t))


def test_a_dimension_that_cannot_be_halved_is_refused() -> None:
    block = {"type": "ddpm", "denoiser": {"type": "unet1d", "init_dim": 4, "dim_mults": [1, 2, 2]}}
    with pytest.raises(PortError, match="divide by 4; found 18"):
        build("prior", block, ports={"text": toy_port(18)})
    build("prior", block, ports={"text": toy_port(20)})


def unet_by_hand(w: dict[str, Array], x: Array, t: Array, *, levels: int, heads: int) -> Array:
    """The network of the fact sheet, section 1.1, on plain arrays (B, C, L)."""

    def conv(name: str, x: Array, stride: int = 1, padding: int = 0) -> Array:
        weight = w[f"{name}.weight"]
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, weight.shape[2], axis=2)[:, :, ::stride]
        bias = w.get(f"{name}.bias", np.zeros(len(weight)))
        found: Array = np.einsum("bclk,ock->bol", windows, weight) + bias[:, None]
        return found

    def linear(name: str, x: Array) -> Array:
        found: Array = x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
        return found

    def silu(x: Array) -> Array:
        found: Array = x / (1 + np.exp(-x))
        return found

    def rms(name: str, x: Array) -> Array:
        found: Array = x / np.sqrt((x**2).mean(1, keepdims=True)) * w[f"{name}.g"]
        return found

    def softmax(x: Array, axis: int) -> Array:
        e = np.exp(x - x.max(axis, keepdims=True))
        found: Array = e / e.sum(axis, keepdims=True)
        return found

    def resnet(name: str, x: Array) -> Array:
        scale, shift = np.split(linear(f"{name}.mlp.1", silu(temb))[:, :, None], 2, axis=1)
        h = rms(f"{name}.block1.norm", conv(f"{name}.block1.proj", x, padding=1))
        h = silu(h * (1 + scale) + shift)
        h = silu(rms(f"{name}.block2.norm", conv(f"{name}.block2.proj", h, padding=1)))
        return h + (conv(f"{name}.res_conv", x) if f"{name}.res_conv.weight" in w else x)

    def heads_of(x: Array) -> list[Array]:
        return [part.reshape(len(x), heads, -1, x.shape[2]) for part in np.split(x, 3, axis=1)]

    def linear_attention(name: str, x: Array) -> Array:
        q, k, v = heads_of(conv(f"{name}.fn.fn.to_qkv", rms(f"{name}.fn.norm", x)))
        q = softmax(q, 2) / np.sqrt(q.shape[2])
        context = np.einsum("bhdn,bhen->bhde", softmax(k, 3), v)
        read = np.einsum("bhde,bhdn->bhen", context, q).reshape(len(x), -1, x.shape[2])
        return x + rms(f"{name}.fn.fn.to_out.1", conv(f"{name}.fn.fn.to_out.0", read))

    def attention(name: str, x: Array) -> Array:
        q, k, v = heads_of(conv(f"{name}.fn.fn.to_qkv", rms(f"{name}.fn.norm", x)))
        weights = softmax(np.einsum("bhdi,bhdj->bhij", q, k) / np.sqrt(q.shape[2]), 3)
        read = np.einsum("bhij,bhdj->bhdi", weights, v).reshape(len(x), -1, x.shape[2])
        return x + conv(f"{name}.fn.fn.to_out", read)

    half = w["time_mlp.1.weight"].shape[1] // 2
    angles = t[:, None] * 10_000.0 ** (-np.arange(half) / (half - 1))
    hidden = linear("time_mlp.1", np.concatenate([np.sin(angles), np.cos(angles)], axis=1))
    gelu = hidden * 0.5 * (1 + np.vectorize(math.erf)(hidden / np.sqrt(2)))
    temb = linear("time_mlp.3", gelu)

    h = stem = conv("init_conv", x[:, None], padding=3)
    skips = []
    for i in range(levels):
        h = resnet(f"downs.{i}.0", h)
        skips.append(h)
        h = linear_attention(f"downs.{i}.2", resnet(f"downs.{i}.1", h))
        skips.append(h)
        h = conv(f"downs.{i}.3", h, stride=1 if i == levels - 1 else 2, padding=1)
    h = resnet("mid_block2", attention("mid_attn", resnet("mid_block1", h)))
    for i in range(levels):
        h = resnet(f"ups.{i}.0", np.concatenate([h, skips.pop()], axis=1))
        h = linear_attention(f"ups.{i}.2", resnet(f"ups.{i}.1", np.concatenate([h, skips.pop()], axis=1)))
        if i == levels - 1:
            h = conv(f"ups.{i}.3", h, padding=1)
        else:
            h = conv(f"ups.{i}.3.1", h.repeat(2, axis=2), padding=1)
    return conv("final_conv", resnet("final_res_block", np.concatenate([h, stem], axis=1)))[:, 0]
