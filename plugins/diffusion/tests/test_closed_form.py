"""The closed-form denoisers against brute force in float64, and their known points on real vectors."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion import closed_form
from modbridge_diffusion.ddpm import DDPM

from modbridge.errors import ArtefactError, ConfigError, PortError
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

Array = np.ndarray[Any, np.dtype[np.float64]]
STEPS = [0, 50, 200, 399, 599, 800, 999]


def prior_of(denoiser: Any, dim: int = 16, **fields: Any) -> DDPM:
    prior = build("prior", {"type": "ddpm", "denoiser": denoiser, **fields}, ports={"text": toy_port(dim)})
    assert isinstance(prior, DDPM)
    return prior


def fitted(denoiser: Any, values: torch.Tensor, **fields: Any) -> DDPM:
    prior = prior_of(denoiser, values.shape[1], **fields)
    keys = tuple(f"text{i}" for i in range(len(values)))
    prior.fit(Embeddings(values.float(), toy_port(values.shape[1]), keys), MemoryFitting())
    return prior


def on_sphere(count: int, dim: int = 16, radius: float = 5.0) -> torch.Tensor:
    return toy_embeddings(count, dim).values * radius


def alpha_bar(t: int) -> float:
    """The cosine schedule in numpy."""
    f = np.cos((np.arange(1001) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
    return float(np.cumprod(1 - np.clip(1 - f[1:] / f[:-1], 0, 0.999))[t])


def expected_norm(t: int, dim: int, radius: float = 5.0) -> float:
    return float(np.sqrt(alpha_bar(t) * radius**2 + (1 - alpha_bar(t)) * dim))


def gaussian_by_hand(x: Array, t: int, mean: Array, covariance: Array) -> Array:
    left = alpha_bar(t)
    inner = left * covariance + (1 - left) * np.eye(len(mean))
    found: Array = mean + np.sqrt(left) * (x - np.sqrt(left) * mean) @ np.linalg.solve(inner, covariance)
    return found


def empirical_by_hand(x: Array, t: int, vectors: Array) -> Array:
    left = alpha_bar(t)
    distances = ((x[:, None] - np.sqrt(left) * vectors) ** 2).sum(2)
    scores = -(distances - distances.min(1, keepdims=True)) / (2 * (1 - left))
    weights = np.exp(scores)
    found: Array = weights / weights.sum(1, keepdims=True) @ vectors
    return found


def asked(prior: DDPM, x: Array, t: int) -> Array:
    with torch.inference_mode():
        found: Array = prior.estimate(torch.from_numpy(x).float(), torch.tensor([t])).double().numpy()
    return found


class TestGaussian:
    @pytest.mark.parametrize("t", STEPS)
    def test_equals_the_formula_in_float64(self, t: int) -> None:
        values, x = on_sphere(40), on_sphere(7, radius=3.0).double().numpy()
        data = values.double().numpy()
        expected = gaussian_by_hand(x, t, data.mean(0), np.cov(data.T, bias=True))
        found = asked(fitted("gaussian", values, renormalise=False), x, t)
        np.testing.assert_allclose(found, expected, atol=2e-5)

    @pytest.mark.parametrize("t", STEPS)
    def test_input_on_the_sphere_is_brought_to_the_norm_of_the_process(self, t: int) -> None:
        values, x = on_sphere(40), on_sphere(7).double().numpy()
        data = values.double().numpy()
        scaled = x / np.linalg.norm(x, axis=1, keepdims=True) * expected_norm(t, 16)
        expected = gaussian_by_hand(scaled, t, data.mean(0), np.cov(data.T, bias=True))
        prior = fitted("gaussian", values)
        np.testing.assert_allclose(asked(prior, x, t), expected, atol=2e-5)
        np.testing.assert_allclose(asked(prior, 0.3 * x, t), expected, atol=2e-5)

    def test_finds_the_posterior_mean_of_a_known_normal_law(self) -> None:
        generator = torch.Generator().manual_seed(0)
        root = torch.randn(6, 6, generator=generator, dtype=torch.float64)
        mean = torch.arange(6, dtype=torch.float64)
        values = torch.randn(200_000, 6, generator=generator, dtype=torch.float64) @ root.T + mean
        x = (values[:50] + torch.randn(50, 6, generator=generator)).numpy()
        prior = fitted("gaussian", values, renormalise=False)
        for t in STEPS:
            expected = gaussian_by_hand(x, t, mean.numpy(), (root @ root.T).numpy())
            assert np.abs(asked(prior, x, t) - expected).max() < 0.05

    def test_is_the_best_guess_where_the_law_is_normal(self) -> None:
        # Shrinking or growing the answer by a tenth is worse than the answer, at every noise level.
        generator = torch.Generator().manual_seed(0)
        scale = torch.tensor([2.0, 1.0, 0.5, 0.1])
        values = torch.randn(50_000, 4, generator=generator) * scale
        prior = fitted("gaussian", values, renormalise=False)
        for t in (100, 400, 700):
            x = prior.schedule.diffused(values, torch.tensor([t]), torch.randn(values.shape, generator=generator))
            guess = prior.estimate(x, torch.tensor([t]))
            errors = [(factor * guess - values).square().mean().item() for factor in (0.9, 1.0, 1.1)]
            assert min(errors) == errors[1]

    def test_low_rank_keeps_the_first_directions_and_the_total_variance(self) -> None:
        values, x = on_sphere(60), on_sphere(5).double().numpy()
        data = values.double().numpy()
        variances, directions = np.linalg.eigh(np.cov(data.T, bias=True))
        flat = np.concatenate([np.full(12, variances[:12].mean()), variances[12:]])
        covariance = directions * flat @ directions.T
        assert np.trace(covariance) == pytest.approx(np.trace(np.cov(data.T, bias=True)))
        prior = fitted({"type": "gaussian", "rank": 4}, values, renormalise=False)
        for t in STEPS:
            expected = gaussian_by_hand(x, t, data.mean(0), covariance)
            np.testing.assert_allclose(asked(prior, x, t), expected, atol=2e-5)
        assert prior.tensors()["network.directions"].shape == (16, 4)

    def test_shrinkage_draws_to_the_round_law(self) -> None:
        values, x = on_sphere(60), on_sphere(5).double().numpy()
        data = values.double().numpy()
        covariance = np.cov(data.T, bias=True)
        covariance = 0.7 * covariance + 0.3 * np.trace(covariance) / 16 * np.eye(16)
        prior = fitted({"type": "gaussian", "shrinkage": 0.3}, values, renormalise=False)
        expected = gaussian_by_hand(x, 300, data.mean(0), covariance)
        np.testing.assert_allclose(asked(prior, x, 300), expected, atol=2e-5)

    def test_chunks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        values = on_sphere(50)
        whole = closed_form.moments(values)
        monkeypatch.setattr(closed_form, "FIT_CHUNK", 7)
        data = values.double().numpy()
        for found in (whole, closed_form.moments(values)):
            np.testing.assert_allclose(found[0].numpy(), data.mean(0), atol=1e-12)
            np.testing.assert_allclose(found[1].numpy(), np.cov(data.T, bias=True), atol=1e-12)

    def test_two_texts_and_identical_texts(self) -> None:
        one = on_sphere(1)
        for values in (on_sphere(2), one.repeat(5, 1)):
            prior = fitted("gaussian", values)
            found = asked(prior, on_sphere(3).double().numpy(), 400)
            assert np.isfinite(found).all()
        np.testing.assert_allclose(found, one.double().numpy().repeat(3, 0), atol=1e-4)

    def test_a_rank_beyond_the_dimension_is_refused(self) -> None:
        with pytest.raises(PortError, match="rank 17, but the vectors have 16"):
            prior_of({"type": "gaussian", "rank": 17})


class TestEmpirical:
    @pytest.mark.parametrize("t", STEPS)
    @pytest.mark.parametrize("cells", [2**24, 12])
    def test_equals_brute_force_in_float64(self, t: int, cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(closed_form, "MEMORY_CELLS", cells)  # 12: the memory goes by in twos
        values, x = on_sphere(21), on_sphere(6, radius=3.0).double().numpy()
        expected = empirical_by_hand(x, t, values.double().numpy())
        found = asked(fitted("empirical", values, renormalise=False), x, t)
        np.testing.assert_allclose(found, expected, atol=1e-4 if t == 0 else 1e-5)

    def test_input_on_the_sphere_is_brought_to_the_norm_of_the_process(self) -> None:
        values, x = on_sphere(21), on_sphere(6).double().numpy()
        prior = fitted("empirical", values)
        for t in STEPS[1:]:
            scaled = x / np.linalg.norm(x, axis=1, keepdims=True) * expected_norm(t, 16)
            np.testing.assert_allclose(
                asked(prior, x, t), empirical_by_hand(scaled, t, values.double().numpy()), atol=1e-4
            )

    def test_nearest_text_at_little_noise_and_the_mean_at_much(self) -> None:
        values = 5 * torch.eye(16)[:6]
        prior = fitted("empirical", values)
        x = values[[3, 1]] + 0.3 * on_sphere(2, radius=1.0)
        assert torch.allclose(prior.estimate(x, torch.tensor([20])), values[[3, 1]], atol=1e-5)
        assert torch.allclose(prior.estimate(x, torch.tensor([999])), values.mean(0).expand(2, -1), atol=1e-2)

    def test_a_text_that_occurs_twice_counts_twice(self) -> None:
        values = 5 * torch.eye(4)[[0, 0, 1]]
        found = fitted("empirical", values).estimate(torch.ones(1, 4), torch.tensor([999]))
        assert found[0].tolist() == pytest.approx([10 / 3, 5 / 3, 0, 0], abs=1e-3)

    def test_the_artefact_keeps_the_texts(self) -> None:
        values = on_sphere(9)
        prior, other = fitted("empirical", values), prior_of("empirical")
        assert torch.equal(prior.tensors()["network.vectors"], values)
        other.load_tensors(prior.tensors())
        x = on_sphere(4)
        assert torch.equal(prior.estimate(x, torch.tensor([200])), other.estimate(x, torch.tensor([200])))

    def test_another_denoisers_tensors_are_refused(self) -> None:
        with pytest.raises(ArtefactError, match="another config"):
            prior_of("empirical").load_tensors(fitted("gaussian", on_sphere(9)).tensors())


class TestPrior:
    @pytest.mark.parametrize("word", ["gaussian", "empirical"])
    def test_nothing_passes_for_denoised_before_fitting(self, word: str) -> None:
        assert prior_of(word).estimate(on_sphere(2), torch.tensor([5])).isnan().all()

    @pytest.mark.parametrize("word", ["gaussian", "empirical"])
    def test_takes_no_training_steps(self, word: str) -> None:
        fitting = MemoryFitting()
        values = on_sphere(9)
        prior = prior_of(word)
        prior.fit(Embeddings(values, toy_port(16), tuple(map(str, range(9)))), fitting)
        assert fitting.checkpoints == 0
        assert prior.parameter_count() == 0

    @pytest.mark.parametrize(
        "fields",
        [
            {"steps": 10}, {"batch_size": 8}, {"lr": 0.1}, {"lr_decay": "linear"}, {"grad_clip": None},
            {"ema_decay": 0.9}, {"min_snr_gamma": 5.0}, {"precision": "bfloat16"}, {"compile": True},
        ],
    )  # fmt: skip
    def test_fields_of_training_are_passed_over(self, fields: dict[str, Any]) -> None:
        for word in ("gaussian", "empirical"):
            for denoiser in (word, {"type": word}):
                found = build_config("prior", {"type": "ddpm", "denoiser": denoiser, **fields})
                assert found.key_fields() == prior_of(word).config.key_fields()
        (name,) = fields
        learnt = [build_config("prior", {"type": "ddpm", "denoiser": "residual_mlp", **f}) for f in (fields, {})]
        assert getattr(learnt[0], name) != getattr(learnt[1], name)

    def test_other_fields_are_still_checked(self) -> None:
        with pytest.raises(ConfigError, match="stepz"):
            build_config("prior", {"type": "ddpm", "denoiser": "gaussian", "stepz": 3})

    def test_a_resolved_config_comes_back(self) -> None:
        config = prior_of("gaussian").config
        assert type(config).model_validate(config.model_dump()) == config

    @pytest.mark.parametrize("start_step", [200, 600])
    def test_the_whole_walk_equals_numpy(self, start_step: int) -> None:
        # The sampler of the fact sheet, section 1.4, around the formula of this file.
        values, x = on_sphere(40), on_sphere(5).double().numpy()
        data = values.double().numpy()
        mean, covariance = data.mean(0), np.cov(data.T, bias=True)
        grid = np.trunc(np.linspace(-1, start_step - 1, 6)).astype(int)[::-1]
        state = x
        for now, after in itertools.pairwise(grid):
            state = 5 * state / np.linalg.norm(state, axis=1, keepdims=True)
            guess = gaussian_by_hand(state / 5 * expected_norm(now, 16), now, mean, covariance)
            noise = (state - np.sqrt(alpha_bar(now)) * guess) / np.sqrt(1 - alpha_bar(now))
            if after < 0:
                state = guess
            else:
                state = np.sqrt(alpha_bar(after)) * guess + np.sqrt(1 - alpha_bar(after)) * noise
        draw = Draw.of([str(i) for i in range(5)], 0)
        found = fitted("gaussian", values).refine(
            torch.from_numpy(x).float(), start_step=start_step, num_steps=5, draw=draw
        )
        np.testing.assert_allclose(found.double().numpy(), state, atol=5e-5)


def test_known_points_of_coco500(requires_data: Path) -> None:
    # Protocol and figures: the README beside the data, "closed-form Gaussian".
    stored = np.load(requires_data / "embeddings" / "coco500_clip_vitb16.npz")
    image, text = (unit(stored[name].astype(np.float64)) for name in ("image", "text"))
    found: dict[int, list[tuple[float, float]]] = {200: [], 300: [], 400: []}
    for split in range(5):
        order = np.random.default_rng(split).permutation(500)
        fit, test = order[:400], order[400:]
        clean = 5 * unit(text[fit] - text[fit].mean(0))
        source = torch.from_numpy(5 * unit(image[test] - image[fit].mean(0))).float()
        target = unit(text[test] - text[fit].mean(0))
        prior = fitted("gaussian", torch.from_numpy(clean))
        draw = Draw.of([str(row) for row in test], 0)
        for start_step, points in found.items():
            with torch.inference_mode():
                bridged = prior.refine(source, start_step=start_step, num_steps=5, draw=draw)
            cosines = unit(bridged.double().numpy()) @ target.T
            points.append((np.diag(cosines).mean(), (cosines.argmax(1) == np.arange(100)).mean()))
    for start_step, known in {200: (0.510, 0.64), 300: (0.536, 0.55), 400: (0.540, 0.44)}.items():
        cosine, recall = np.mean(found[start_step], axis=0)
        assert cosine == pytest.approx(known[0], abs=0.005), start_step
        assert recall == pytest.approx(known[1], abs=0.01), start_step


def unit(x: Array) -> Array:
    found: Array = x / np.linalg.norm(x, axis=1, keepdims=True)
    return found
