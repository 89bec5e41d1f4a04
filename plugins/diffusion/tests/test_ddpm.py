"""The DDPM prior against the fact sheet's numbers, closed forms and an independent float64 computation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.ddpm import DDPM
from modbridge_diffusion.denoiser_config import ResidualMLPConfig
from modbridge_diffusion.residual_mlp import ResidualMLP
from modbridge_diffusion.sampler import ddim, time_grid
from modbridge_diffusion.schedule import NoiseSchedule, betas

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_embeddings, toy_port
from modbridge.testing.fitting import Interrupted

TINY = {"type": "residual_mlp", "width": 24, "num_blocks": 2}


def tiny_prior(dim: int = 16, seed: int = 0, **fields: Any) -> DDPM:
    block = {"type": "ddpm", "denoiser": TINY, "steps": 30, "batch_size": 16, **fields}
    prior = build("prior", block, ports={"text": toy_port(dim)}, seed=seed)
    assert isinstance(prior, DDPM)
    return prior


def on_radius(count: int, dim: int = 16, radius: float = 5.0) -> Embeddings:
    toy = toy_embeddings(count, dim)
    return Embeddings(toy.values * radius, toy.port, toy.keys)


def draw_for(count: int, seed: int = 0) -> Draw:
    return Draw.of([f"item{i}" for i in range(count)], seed)


def shake(module: torch.nn.Module) -> None:
    """Other weights than the zeros that the network starts with."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


class TestTimeGrid:
    @pytest.mark.parametrize(
        ("start_step", "grid"),
        [
            (200, [199, 159, 119, 79, 39, -1]),
            (400, [399, 319, 239, 159, 79, -1]),
            (600, [599, 479, 359, 239, 119, -1]),
            (800, [799, 639, 479, 319, 159, -1]),
        ],
    )
    def test_is_the_authors(self, start_step: int, grid: list[int]) -> None:
        assert time_grid(start_step, 5) == grid

    def test_cuts_to_integers(self) -> None:
        # numpy in double precision: 12 points of a spacing that is no integer
        assert time_grid(550, 12) == np.trunc(np.linspace(-1, 549, 13)).astype(int).tolist()[::-1]


class TestSchedule:
    @pytest.mark.parametrize(
        ("name", "known"),
        [
            ("cosine", {399: 0.6475, 400: 0.6460, 599: 0.3408, 600: 0.3393, 799: 0.0940}),
            ("linear", {400: 0.194, 600: 0.026}),
            ("scaled_linear", {50: 0.991, 100: 0.971, 200: 0.887, 300: 0.737, 400: 0.537, 500: 0.331, 600: 0.167}),
        ],
    )
    def test_alpha_bar(self, name: str, known: dict[int, float]) -> None:
        schedule = NoiseSchedule.named(name, 1000)
        digits = 1e-4 if name == "cosine" else 1e-3
        for t, value in known.items():
            assert schedule.alpha_bar[t].item() == pytest.approx(value, abs=digits)

    def test_snr_weights_of_the_fact_sheet(self) -> None:
        snr = NoiseSchedule.named("cosine", 1000).snr
        assert snr[0].item() == pytest.approx(2.4e4, rel=0.02)
        assert snr[399].item() == pytest.approx(1.8, abs=0.05)
        assert snr[599].item() == pytest.approx(0.52, abs=0.005)
        assert snr[999].item() == pytest.approx(2.4e-9, rel=0.02)

    def test_betas_are_clipped(self) -> None:
        assert betas("cosine", 1000).max().item() == 0.999
        assert betas("linear", 10).max().item() == 0.999

    def test_expected_cosine_of_noised_vectors(self) -> None:
        prior = tiny_prior(512)
        draw = draw_for(400)
        x0 = torch.nn.functional.normalize(draw.named("x0").normal(512), dim=1) * 5
        known = {79: 0.849, 119: 0.738, 199: 0.550, 239: 0.477, 319: 0.367, 359: 0.324, 399: 0.287, 479: 0.226}
        for t, value in {**known, 599: 0.157, 799: 0.071}.items():
            cosine = torch.cosine_similarity(prior.diffuse(x0, step=t, draw=draw), x0).mean().item()
            assert cosine == pytest.approx(value, abs=0.006), t


class TestSampler:
    def test_oracle_trajectory_of_the_fact_sheet(self) -> None:
        u, v = torch.linalg.qr(draw_for(2).normal(512).T).Q.T
        x0, start = 5 * u[None], 5 * (0.306 * u + math.sqrt(1 - 0.306**2) * v)[None]
        norms: list[float] = []

        def oracle(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            norms.append(x.norm().item())
            return x0

        schedule = NoiseSchedule.named("cosine", 1000)
        states = list(ddim(oracle, schedule, start * 3, start_step=600, num_steps=5, radius=5.0, draw=draw_for(1)))
        assert [level for level, _ in states] == [479, 359, 239, 119, -1]
        cosines = [torch.cosine_similarity(state, x0).item() for _, state in states[:-1]]
        assert cosines == pytest.approx([0.518, 0.709, 0.863, 0.963], abs=0.001)
        assert torch.equal(states[-1][1], x0)
        assert norms == pytest.approx([5.0] * 5, rel=1e-5)  # renormalised before every call

    def test_eta_1_between_neighbours_is_the_ddpm_posterior(self) -> None:
        # Ho et al. 2020, eq. 7, for a denoiser that always says 0: mean and variance of x_{t-1} given x_t.
        schedule = NoiseSchedule.named("linear", 50)
        beta = np.clip(np.linspace(1e-4, 0.02, 50) * 20, 0, 0.999)
        left = np.cumprod(1 - beta)
        draw, t = draw_for(4000), 29
        x = draw.named("x").normal(8)
        (level, state), *_ = ddim(
            lambda x, t: torch.zeros_like(x),
            schedule,
            x,
            start_step=t + 1,
            num_steps=t + 1,
            radius=None,
            draw=draw,
            eta=1.0,
        )
        assert level == t - 1
        mean = math.sqrt(1 - beta[t]) * (1 - left[t - 1]) / (1 - left[t]) * x
        variance = (1 - left[t - 1]) / (1 - left[t]) * beta[t]
        assert (state - mean).mean().item() == pytest.approx(0, abs=0.01)
        assert (state - mean).var().item() == pytest.approx(variance, rel=0.03)

    def test_eta_draws_by_item(self) -> None:
        prior = tiny_prior()
        shake(prior.network)
        x, draw = on_radius(6).values, draw_for(6)
        steps = {"start_step": 600, "num_steps": 3}
        with torch.inference_mode():
            whole = prior.refine(x, draw=draw, eta=0.7, **steps)
            part = prior.refine(x[2:4], draw=draw.select(slice(2, 4)), eta=0.7, **steps)
            other = prior.refine(x, draw=draw_for(6, seed=1), eta=0.7, **steps)
            silent = [prior.refine(x, draw=draw_for(6, seed), **steps) for seed in (0, 1)]
        assert torch.allclose(whole[2:4], part, atol=1e-5)
        assert not torch.allclose(whole, other, atol=1e-2)
        assert torch.equal(*silent)

    def test_start_step_0_changes_nothing(self) -> None:
        prior, x = tiny_prior(), on_radius(4).values
        assert torch.equal(prior.refine(x, start_step=0, num_steps=5, draw=draw_for(4)), x)
        assert torch.equal(prior.diffuse(x, step=0, draw=draw_for(4)), x)

    @pytest.mark.parametrize(("start_step", "num_steps"), [(1001, 5), (-1, 5), (600, 0)])
    def test_impossible_steps_are_refused(self, start_step: int, num_steps: int) -> None:
        with pytest.raises(ConfigError, match="expected"):
            tiny_prior().refine(on_radius(2).values, start_step=start_step, num_steps=num_steps, draw=draw_for(2))

    def test_noise_beyond_the_last_step_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="0 to 999"):
            tiny_prior().diffuse(on_radius(2).values, step=1000, draw=draw_for(2))


class TestNetwork:
    def test_parameter_count_at_512(self) -> None:
        def linear(a: int, b: int) -> int:
            return a * b + b

        block = 2 * (2 * 1024) + 2 * linear(1024, 1024) + linear(512, 1024)
        time = linear(1024, 512) + linear(512, 512)
        expected = linear(512, 1024) + time + 3 * block + 2 * 1024 + linear(1024, 512)
        net = ResidualMLP(512)
        found = sum(p.numel() for p in net.parameters())
        assert found == expected
        assert found == pytest.approx(9.7e6, rel=0.005)

    def test_gives_zero_before_training(self) -> None:
        prior = tiny_prior()
        assert torch.count_nonzero(prior.estimate(on_radius(3).values, torch.tensor([5, 500, 999]))) == 0

    def test_one_time_step_for_all_is_the_same_as_one_each(self) -> None:
        prior, x = tiny_prior(), on_radius(3).values
        shake(prior.network)
        one, each = prior.estimate(x, torch.tensor([7])), prior.estimate(x, torch.tensor([7, 7, 7]))
        assert torch.allclose(one, each, atol=1e-6)

    def test_built_weights_follow_the_seed(self) -> None:
        state = torch.random.get_rng_state()
        first, again, other = (tiny_prior(seed=seed).tensors()["network.enter.weight"] for seed in (3, 3, 4))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        assert torch.equal(torch.random.get_rng_state(), state)


class TestLoss:
    @pytest.mark.parametrize("gamma", [None, 5.0])
    def test_equals_a_float64_computation_from_the_stored_weights(self, gamma: float | None) -> None:
        prior = tiny_prior(min_snr_gamma=gamma)
        shake(prior.network)
        x0, draw = on_radius(7).values, draw_for(7)
        t, noise = torch.tensor([0, 3, 99, 399, 599, 800, 999]), draw.normal(16)
        expected = loss_by_hand(prior.tensors(), x0.double().numpy(), t.numpy(), noise.double().numpy(), gamma)
        assert prior.loss(x0, t, noise).item() == pytest.approx(expected, rel=1e-4)

    def test_without_renormalising_it_is_the_loss_of_predicting_the_noise(self) -> None:
        prior = tiny_prior(renormalise=False)
        shake(prior.network)
        x0, noise, t = on_radius(5).values, draw_for(5).normal(16), torch.tensor([50, 200, 400, 600, 900])
        schedule = prior.schedule
        x = schedule.diffused(x0, t, noise)
        predicted = (x - schedule.signal[t, None] * prior.estimate(x, t)) / schedule.noise[t, None]
        assert prior.loss(x0, t, noise).item() == pytest.approx((predicted - noise).square().mean().item(), rel=1e-3)


def loss_by_hand(
    stored: dict[str, torch.Tensor], x0: np.ndarray, t: np.ndarray, noise: np.ndarray, gamma: float | None
) -> float:
    """The objective in numpy, float64: cosine schedule, renormalised input, SEED's network, SNR weight."""
    w = {name.removeprefix("network."): value.double().numpy() for name, value in stored.items()}

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def silu(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    left = np.cumprod(1 - np.clip(1 - f[1:] / f[:-1], 0, 0.999))[t]
    x = np.sqrt(left)[:, None] * x0 + np.sqrt(1 - left)[:, None] * noise
    x = 5 * x / np.linalg.norm(x, axis=1, keepdims=True)

    half = TINY["width"] // 2  # type: ignore[operator]
    angles = t[:, None] * 10_000.0 ** (-np.arange(half) / half)
    temb = linear("time.2", silu(linear("time.0", np.concatenate([np.cos(angles), np.sin(angles)], axis=1))))
    h = linear("enter", x)
    for i in range(TINY["num_blocks"]):  # type: ignore[call-overload]
        inner = linear(f"blocks.{i}.first.2", silu(norm(f"blocks.{i}.first.0", h)))
        inner = inner + linear(f"blocks.{i}.time.1", silu(temb))
        h = h + linear(f"blocks.{i}.second.3", silu(norm(f"blocks.{i}.second.0", inner)))
    estimate = linear("leave.2", silu(norm("leave.0", h)))
    weight = left / (1 - left)
    if gamma is not None:
        weight = np.minimum(weight, gamma)
    return float((weight * ((estimate - x0) ** 2).mean(1)).mean())


class TestFit:
    def test_learns_the_posterior_mean_of_gaussian_data(self) -> None:
        # x_0 ~ N(0, diag(s^2)): E[x_0 | x_t] = sqrt(ab) s^2 / (ab s^2 + 1 - ab) x_t
        scale = torch.tensor([2.0, 1.0, 0.3, 0.1])
        keys = tuple(f"g{i}" for i in range(4000))
        clean = Embeddings(Draw.of(keys, 0).normal(4) * scale, toy_port(4), keys)
        prior = tiny_prior(
            4,
            renormalise=False,
            min_snr_gamma=5.0,
            steps=900,
            batch_size=128,
            lr=3e-3,
            denoiser={"type": "residual_mlp", "width": 48, "num_blocks": 2},
        )
        prior.fit(clean, MemoryFitting())
        for t in (300, 450, 600):
            left = prior.schedule.alpha_bar[t]
            draw = draw_for(1000, seed=5)
            x = prior.schedule.diffused(draw.named("x").normal(4) * scale, torch.tensor([t]), draw.normal(4))
            mean = left.sqrt() * scale**2 / (left * scale**2 + 1 - left) * x
            with torch.inference_mode():
                error = (prior.estimate(x, torch.tensor([t])) - mean).square().mean()
            assert error < 0.1 * (x - mean).square().mean(), t  # against knowing nothing of the data

    @pytest.mark.parametrize("ema_decay", [None, 0.5])
    def test_a_killed_fit_goes_on_to_the_same_bytes(self, ema_decay: float | None) -> None:
        clean = on_radius(40)
        whole = tiny_prior(ema_decay=ema_decay, denoiser={**TINY, "dropout": 0.1})
        whole.fit(clean, MemoryFitting(3))
        fitting = MemoryFitting(3, stop_after=13)
        with pytest.raises(Interrupted):
            tiny_prior(ema_decay=ema_decay, denoiser={**TINY, "dropout": 0.1}).fit(clean, fitting)
        resumed = tiny_prior(ema_decay=ema_decay, denoiser={**TINY, "dropout": 0.1}, seed=9)
        resumed.fit(clean, fitting)
        for name, value in whole.tensors().items():
            assert torch.equal(value, resumed.tensors()[name]), name

    def test_ema_averages_every_tenth_state(self) -> None:
        clean = on_radius(40)
        states = {}
        for steps in (10, 20):
            raw = tiny_prior(steps=steps, lr_decay="constant")
            raw.fit(clean, MemoryFitting())
            states[steps] = raw.tensors()
        averaged = tiny_prior(steps=20, lr_decay="constant", ema_decay=0.75)
        averaged.fit(clean, MemoryFitting())
        for name, value in averaged.tensors().items():
            assert torch.allclose(value, 0.75 * states[10][name] + 0.25 * states[20][name], atol=1e-6), name

    def test_the_seed_decides(self) -> None:
        clean = on_radius(40)
        first, again, other = tiny_prior(), tiny_prior(), tiny_prior()
        first.fit(clean, MemoryFitting(0))
        again.fit(clean, MemoryFitting(0))
        other.fit(clean, MemoryFitting(1))
        assert torch.equal(first.tensors()["network.leave.2.weight"], again.tensors()["network.leave.2.weight"])
        assert not torch.equal(first.tensors()["network.leave.2.weight"], other.tensors()["network.leave.2.weight"])

    def test_nan_is_refused_by_name(self) -> None:
        clean = on_radius(5)
        clean.values[3, 2] = torch.nan
        with pytest.raises(DataError, match="text3 hold NaN"):
            tiny_prior().fit(clean, MemoryFitting())

    def test_one_vector_is_too_few(self) -> None:
        with pytest.raises(DataError, match="at least two"):
            tiny_prior().fit(on_radius(1), MemoryFitting())

    def test_vectors_off_the_sphere_are_refused(self) -> None:
        with pytest.raises(DataError, match="sphere of radius 5"):
            tiny_prior().fit(toy_embeddings(8), MemoryFitting())

    def test_vectors_of_another_size_are_refused(self) -> None:
        with pytest.raises(DataError, match="16 dimensions; found 8"):
            tiny_prior().fit(on_radius(8, dim=8), MemoryFitting())


class TestConfig:
    def test_the_denoiser_may_be_a_word(self) -> None:
        assert tiny_prior(denoiser="residual_mlp").config.denoiser == ResidualMLPConfig(
            type="residual_mlp", num_blocks=3
        )

    @pytest.mark.parametrize(
        "wrong",
        [
            {"denoiser": {"type": "unet9d"}},
            {"denoiser": {"type": "residual_mlp", "width": 7}},
            {"ema_decay": 1.0},
            {"radius": 0},
            {"schedule": "cosin"},
        ],
    )
    def test_wrong_values_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ConfigError):
            tiny_prior(**wrong)

    def test_sequences_are_refused(self) -> None:
        with pytest.raises(PortError, match="single vectors"):
            tiny_prior().config.check(toy_port().changed(tokens=77))


def test_tensors_come_back() -> None:
    prior, other = tiny_prior(), tiny_prior(seed=1)
    prior.fit(on_radius(20), MemoryFitting())
    other.load_tensors(prior.tensors())
    x, steps = on_radius(6).values, {"start_step": 600, "num_steps": 5, "draw": draw_for(6)}
    with torch.inference_mode():
        assert torch.equal(prior.refine(x, **steps), other.refine(x, **steps))
    with pytest.raises(ArtefactError, match="another config"):
        tiny_prior(denoiser={**TINY, "width": 32}).load_tensors(prior.tensors())
