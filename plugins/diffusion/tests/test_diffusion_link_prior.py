"""The prior of Diffusion-Link: its loss and closed form against numpy, and what each switch does to training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.link_ddpm import LinkDDPM, SourceHalf
from modbridge_diffusion.link_loss import prediction_loss, topology_loss

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_embeddings, toy_port
from modbridge.testing.fitting import Interrupted

TINY = {"type": "residual_mlp", "width": 24, "num_blocks": 2}
DIM = 16


def tiny(dim: int = DIM, seed: int = 0, **fields: Any) -> LinkDDPM:
    block = {"type": "link_ddpm", "denoiser": TINY, "steps": 12, "batch_size": 8, **fields}
    prior = build("prior", block, ports={"text": toy_port(dim)}, seed=seed)
    assert isinstance(prior, LinkDDPM)
    return prior


def texts(count: int, scale: float = 4.0) -> Embeddings:
    toy = toy_embeddings(count, DIM)
    return Embeddings(toy.values * scale, toy.port, toy.keys)


def sources(of: Embeddings, count: int, scale: float = 4.0) -> Embeddings:
    """Source vectors of the first `count` texts."""
    toy = toy_embeddings(count, DIM, modality="image", shift=0.8)
    return Embeddings(toy.values * scale, toy.port, of.keys[:count])


def shake(module: torch.nn.Module) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def gradient(prior: LinkDDPM, *batch: Any) -> torch.Tensor:
    prior.network.zero_grad()
    prior.loss(*batch).backward()  # type: ignore[no-untyped-call]
    return torch.cat([p.grad.flatten() for p in prior.network.parameters() if p.grad is not None])


def batch(count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, SourceHalf]:
    draw = Draw.of([f"b{i}" for i in range(count)], 3)
    text, other, source, noise, own = (draw.named(name).normal(DIM) for name in "abcde")
    t = torch.tensor([0, 120, 400, 650, 999])[:count]
    return text, t, noise, SourceHalf(source, other, own)


def cosines(x: np.ndarray) -> np.ndarray:
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x @ x.T)


def topology_by_hand(guess: np.ndarray, text: np.ndarray) -> float:
    a, b = cosines(guess), cosines(text)
    pairs = [(a[i, j] - b[i, j]) ** 2 for i in range(len(a)) for j in range(len(a)) if i != j]
    return float(np.mean(pairs))


class TestLoss:
    @pytest.mark.parametrize("kind", ["l1", "l2", "huber"])
    @pytest.mark.parametrize(("cross", "topology"), [(1.0, 1.0), (0.5, 2.0), (0.0, 3.0), (2.0, 0.0)])
    def test_equals_a_computation_by_hand(self, kind: str, cross: float, topology: float) -> None:
        prior = tiny(loss=kind, cross_sample=cross, topology=topology)
        shake(prior.network)
        text, t, noise, half = batch()
        beta = np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2  # scaled_linear
        left = np.cumprod(1 - beta)[t.numpy()][:, None]

        def guess(x: torch.Tensor, eps: torch.Tensor) -> np.ndarray:
            noised = np.sqrt(left) * x.double().numpy() + np.sqrt(1 - left) * eps.double().numpy()
            with torch.no_grad():
                return np.asarray(prior.network(torch.from_numpy(noised).float(), t).double())

        def error(d: np.ndarray) -> float:
            if kind == "l1":
                return float(np.abs(d).mean())
            d2 = d**2 if kind == "l2" else np.where(np.abs(d) < 1, d**2 / 2, np.abs(d) - 0.5)
            return float(d2.mean())

        own, across = guess(text, noise), guess(half.source, half.noise)
        y, z = text.double().numpy(), half.text.double().numpy()
        expected = error(own - y) + cross * error(across - z)
        expected += topology * (topology_by_hand(own, y) + topology_by_hand(across, z)) / 2
        assert prior.loss(text, t, noise, half).item() == pytest.approx(expected, rel=1e-4)
        alone = error(own - y) + topology * topology_by_hand(own, y)
        assert prior.loss(text, t, noise).item() == pytest.approx(alone, rel=1e-4)

    def test_topology_of_a_known_case(self) -> None:
        # cosines 0, 1/sqrt 2, 1/sqrt 2 against 0, 0, -1
        guess, text = torch.tensor([[1.0, 0], [0, 2], [3, 3]]), torch.tensor([[2.0, 0], [0, 1], [0, -1]])
        expected = ((0.5) + (0.5**0.5 + 1) ** 2) / 3
        assert topology_loss(guess, text).item() == pytest.approx(expected, rel=1e-5)
        assert topology_loss(text * 7, text).item() == pytest.approx(0, abs=1e-7)  # blind to lengths
        assert topology_loss(guess[:1], text[:1]).item() == 0

    def test_huber_is_linear_far_away(self) -> None:
        assert prediction_loss("huber", torch.tensor([[3.0, 0.5]]), torch.zeros(1, 2)).item() == pytest.approx(
            (2.5 + 0.125) / 2
        )

    def test_every_switch_changes_the_gradient(self) -> None:
        found = {}
        for name, fields in {
            "all": {},
            "no cross": {"cross_sample": 0},
            "no topology": {"topology": 0},
            "neither": {"cross_sample": 0, "topology": 0},
        }.items():
            prior = tiny(**fields)
            shake(prior.network)
            found[name] = gradient(prior, *batch())
            if name == "neither":
                text, t, noise, _ = batch()
                assert torch.equal(found[name], gradient(prior, text, t, noise))
        names = list(found)
        for i, one in enumerate(names):
            for other in names[i + 1 :]:
                assert not torch.allclose(found[one], found[other], rtol=1e-2), (one, other)

    def test_it_is_finite_at_the_zeros_that_a_network_starts_with(self) -> None:
        assert torch.isfinite(gradient(tiny(), *batch())).all()


class TestNetwork:
    def test_it_has_the_parameters_of_the_paper(self) -> None:
        prior = build("prior", "link_ddpm", ports={"text": toy_port(512)})
        assert prior.parameter_count() == pytest.approx(9.7e6, rel=0.005)

    def test_it_gives_zero_before_training(self) -> None:
        assert torch.count_nonzero(tiny().estimate(texts(3).values, torch.tensor([4]))) == 0

    def test_one_step_is_the_networks_guess(self) -> None:
        prior, x = tiny(), texts(3).values
        shake(prior.network)
        draw = Draw.of(["a", "b", "c"], 0)
        with torch.inference_mode():
            found = prior.refine(x, start_step=200, num_steps=1, draw=draw)
            assert torch.equal(found, prior.network(x, torch.tensor([199])))


class TestAffine:
    def test_source_vectors_alone_give_ridge_regression(self) -> None:
        # With ab / (1 - ab) N for 1 / lambda the map is ridge's; the texts' weight is made to vanish.
        text, source = texts(40), sources(texts(40), 40)
        prior = tiny(affine=True, steps=0, pair_weight=1e9)
        prior.fit(text, MemoryFitting(), observed=source)
        t = 300
        left = float(np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)[t])
        s, y = source.values.double().numpy(), text.values.double().numpy()
        sc, yc = s - s.mean(0), y - y.mean(0)
        ridge = np.linalg.solve(sc.T @ sc + len(s) * (1 - left) / left * np.eye(DIM), sc.T @ yc)
        expected = sc @ ridge + y.mean(0)
        found = prior.estimate(source.values * left**0.5, torch.tensor([t]))
        assert np.allclose(found.detach().numpy(), expected, atol=1e-4)

    def test_it_is_the_least_squares_map_of_both_halves(self) -> None:
        text = texts(50)
        source = sources(text, 20)
        prior = tiny(affine=True, steps=0, pair_weight=0.7)
        prior.fit(text, MemoryFitting(), observed=source)
        t = 450
        left = float(np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)[t])
        y, s = text.values.double().numpy(), source.values.double().numpy()
        x = np.sqrt(left) * np.concatenate([y, s])
        w = np.concatenate([np.full(50, 1 / 1.7 / 50), np.full(20, 0.7 / 1.7 / 20)])
        ones = np.concatenate([x, np.ones((70, 1))], axis=1)
        gram = ones.T @ (w[:, None] * ones) + (1 - left) * np.diag([1.0] * DIM + [0.0])  # E over the noise
        solution = np.linalg.solve(gram, ones.T @ (w[:, None] * np.concatenate([y, y[:20]])))
        found = prior.estimate(torch.from_numpy(x).float(), torch.tensor([t]))
        assert np.allclose(found.detach().numpy(), ones @ solution, atol=1e-4)

    def test_texts_alone_give_the_gaussian_posterior_mean(self) -> None:
        text = texts(60)
        prior = tiny(affine=True, steps=0, train_on="text")
        prior.fit(text, MemoryFitting())
        t, x = 500, texts(5).values
        left = float(np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)[t])
        y = text.values.double().numpy()
        cov, mean = np.cov(y.T, bias=True), y.mean(0)
        gain = np.sqrt(left) * cov @ np.linalg.inv(left * cov + (1 - left) * np.eye(DIM))
        expected = mean + (x.double().numpy() - np.sqrt(left) * mean) @ gain.T
        assert np.allclose(prior.estimate(x, torch.tensor([t])).detach().numpy(), expected, atol=1e-4)

    def test_a_network_starts_at_the_map(self) -> None:
        text = texts(30)
        source = sources(text, 30)
        alone, begun = tiny(affine=True, steps=0), tiny(affine=True, steps=1, lr=1e-12)
        for prior in (alone, begun):
            prior.fit(text, MemoryFitting(), observed=source)
        x, t = source.values, torch.tensor([250])
        assert torch.allclose(alone.estimate(x, t), begun.estimate(x, t), atol=1e-5)


class TestFit:
    def test_a_linear_world_is_learnt_to_its_optimum(self) -> None:
        # y ~ N(0, I), s = y + .5 e: from a clean-enough x_t = sqrt(ab) s + ..., E[y | x_t] =
        # sqrt(ab) x_t / (1.25 ab + 1 - ab). Text and source halves share one map only up to their variances; the
        # source half alone decides here.
        keys = tuple(f"k{i}" for i in range(3000))
        draw = Draw.of(keys, 0)
        y = draw.named("y").normal(4)
        s = y + 0.5 * draw.named("e").normal(4)
        source, text = (torch.cat([v, torch.full((3000, 1), side)], dim=1) for v, side in ((s, 9.0), (y, -9.0)))
        prior = tiny(
            5,
            steps=900,
            batch_size=128,
            lr=3e-3,
            loss="l2",
            topology=0.0,
            shared_noise=False,
            lr_decay="cosine",
            denoiser={"type": "residual_mlp", "width": 48, "num_blocks": 2},
        )
        prior.scale = 10.0
        prior.require_norm = lambda *_: None  # type: ignore[method-assign]
        prior.fit(
            Embeddings(text, toy_port(5), keys),
            MemoryFitting(),
            observed=Embeddings(source, toy_port(5, "image"), keys),
        )
        test = Draw.of([f"new{i}" for i in range(1000)], 1)
        truth = test.named("y").normal(4)
        seen = torch.cat([truth + 0.5 * test.named("e").normal(4), torch.full((1000, 1), 9.0)], dim=1)
        for t in (200, 400):
            left = prior.schedule.alpha_bar[t]
            x = prior.schedule.diffused(seen, torch.tensor([t]), test.named("n").normal(5))
            best = left.sqrt() * x[:, :4] / (1.25 * left + 1 - left)
            with torch.inference_mode():
                found = prior.estimate(x, torch.tensor([t]))[:, :4]
            assert (found - best).square().mean() < 0.1 * best.square().mean(), t

    @pytest.mark.parametrize("fields", [{}, {"ema_decay": 0.5}, {"mix": 1.0, "shared_noise": False}, {"affine": True}])
    def test_a_killed_fit_goes_on_to_the_same_bytes(self, fields: dict[str, Any]) -> None:
        text = texts(40)
        source = sources(text, 15)
        fields = {"denoiser": {**TINY, "dropout": 0.1}, "steps": 24, **fields}
        whole = tiny(**fields)
        whole.fit(text, MemoryFitting(3), observed=source)
        fitting = MemoryFitting(3, stop_after=13)
        with pytest.raises(Interrupted):
            tiny(**fields).fit(text, fitting, observed=source)
        resumed = tiny(seed=9, **fields)
        resumed.fit(text, fitting, observed=source)
        for name, value in whole.tensors().items():
            assert torch.equal(value, resumed.tensors()[name]), name

    @pytest.mark.parametrize(
        "fields",
        [{"cross_sample": 0}, {"topology": 0}, {"shared_noise": False}, {"mix": 0.5}, {"loss": "l2"},
         {"train_on": "text"}, {"weight_decay": 0.9}, {"ema_decay": 0.5}, {"affine": True}],
    )  # fmt: skip
    def test_every_option_changes_what_is_learnt(self, fields: dict[str, Any]) -> None:
        text = texts(20)
        source, x = sources(text, 20), texts(4).values
        found = []
        for block in ({}, fields):
            prior = tiny(lr=1e-2, **block)
            prior.fit(text, MemoryFitting(), observed=source)
            found.append(prior.estimate(x, torch.tensor([100])).detach())
        assert not torch.allclose(found[0], found[1], atol=1e-5)

    def test_pairs_are_found_by_key_whatever_their_order(self) -> None:
        # A text's own source vector stands beside it: shuffled pairs give the same batches where all are paired.
        text = texts(20)
        source = sources(text, 20)
        shuffled = source.select(torch.randperm(20, generator=torch.Generator().manual_seed(0)).tolist())
        one, other = tiny(), tiny()
        one.fit(text, MemoryFitting(), observed=source)
        other.fit(text, MemoryFitting(), observed=shuffled)
        for name, value in one.tensors().items():
            assert torch.equal(value, other.tensors()[name]), name

    def test_text_only_training_never_looks_at_pairs(self) -> None:
        text = texts(20)
        one, other = tiny(train_on="text"), tiny(train_on="text")
        one.fit(text, MemoryFitting(), observed=sources(text, 20))
        other.fit(text, MemoryFitting())
        for name, value in one.tensors().items():
            assert torch.equal(value, other.tensors()[name]), name

    def test_what_cannot_be_learnt_from_is_refused(self) -> None:
        text = texts(10)
        source = sources(text, 5)
        with pytest.raises(DataError, match="train_on: text"):
            tiny().fit(text, MemoryFitting())
        with pytest.raises(DataError, match="texts that are not there"):
            tiny().fit(text.select(range(3)), MemoryFitting(), observed=source)
        with pytest.raises(DataError, match="sphere of radius 4"):
            tiny().fit(texts(10, 1.0), MemoryFitting(), observed=source)
        with pytest.raises(DataError, match="sphere of radius 4"):
            tiny().fit(text, MemoryFitting(), observed=sources(text, 5, 7.0))
        source.values[2, 1] = torch.nan
        with pytest.raises(DataError, match=r"text2 hold NaN"):
            tiny().fit(text, MemoryFitting(), observed=source)


class TestConfig:
    def test_what_the_two_trainings_need(self) -> None:
        assert tiny().config.needs == {"text", "pairs"}
        assert tiny(train_on="text").config.needs == {"text"}

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"denoiser": "gaussian"}, "train_on: text"),
            ({"steps": 0}, "leaves the network at zero"),
            ({"affine": True, "denoiser": {**TINY, "base": "gaussian"}}, "leave out denoiser.base"),
            ({"cross_sample": -1}, "cross_sample"),
            ({"pair_weight": 0}, "pair_weight"),
        ],
    )
    def test_wrong_values_are_refused(self, fields: dict[str, Any], reason: str) -> None:
        with pytest.raises(ConfigError, match=reason):
            tiny(**fields)

    def test_sequences_are_refused(self) -> None:
        with pytest.raises(PortError, match="single vectors"):
            tiny().config.check(toy_port().changed(tokens=77))


def test_tensors_come_back() -> None:
    text = texts(20)
    prior, other = tiny(affine=True), tiny(affine=True, seed=1)
    prior.fit(text, MemoryFitting(), observed=sources(text, 9))
    other.load_tensors(prior.tensors())
    x = text.values
    assert torch.equal(prior.estimate(x, torch.tensor([9])), other.estimate(x, torch.tensor([9])))
    with pytest.raises(ArtefactError, match="another config"):
        tiny().load_tensors(prior.tensors())
