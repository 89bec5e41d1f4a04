"""What holds for every denoiser of the prior, and what is special to those that are trained."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import torch
from modbridge_diffusion.ddpm import DDPM

from modbridge.errors import ConfigError, DataError, PortError, SetupError
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, toy_embeddings, toy_port
from modbridge.testing.fitting import Interrupted

UNET = {"type": "unet1d", "init_dim": 4, "dim_mults": [1, 2], "heads": 2, "head_dim": 4}
MLP = {"type": "residual_mlp", "width": 16, "num_blocks": 1}
TRANSFORMER = {"type": "prior_transformer", "num_layers": 1, "heads": 2, "head_dim": 8}
NETWORKS: dict[str, dict[str, Any]] = {"unet1d": UNET, "residual_mlp": MLP, "prior_transformer": TRANSFORMER}
ALL: dict[str, Any] = {
    **NETWORKS,
    **{f"{name} on gaussian": {**block, "base": "gaussian"} for name, block in NETWORKS.items()},
    "gaussian": {"type": "gaussian"},
    "low rank": {"type": "gaussian", "rank": 3},
    "empirical": {"type": "empirical"},
}
SHORT = {"steps": 12, "batch_size": 16, "lr": 3e-3}
WALK: dict[str, Any] = {"start_step": 600, "num_steps": 3}


def prior_of(denoiser: Any, dim: int = 16, seed: int = 0, **fields: Any) -> DDPM:
    trained = denoiser["type"] in NETWORKS
    block = {"type": "ddpm", "denoiser": denoiser, **(SHORT if trained else {}), **fields}
    prior = build("prior", block, ports={"text": toy_port(dim)}, seed=seed)
    assert isinstance(prior, DDPM)
    return prior


def on_sphere(count: int, dim: int = 16, seed: int = 0) -> Embeddings:
    toy = toy_embeddings(count, dim, seed=seed)
    return Embeddings(toy.values * 5, toy.port, toy.keys)


def clusters(count: int) -> Embeddings:
    """Two tight clusters on the sphere of radius 5 in R^8: far from normal."""
    keys = tuple(f"text{i}" for i in range(count))
    side = torch.where(torch.arange(count) % 2 == 0, 1.0, -1.0)[:, None]
    values = side * torch.eye(8)[0] + 0.05 * Draw.of(keys, 0).normal(8)
    return Embeddings(5 * torch.nn.functional.normalize(values, dim=1), toy_port(8), keys)


def draw_for(count: int) -> Draw:
    return Draw.of([f"item{i}" for i in range(count)], 0)


@pytest.fixture(scope="module")
def fitted() -> dict[str, DDPM]:
    found = {}
    for name, denoiser in ALL.items():
        found[name] = prior_of(denoiser)
        found[name].fit(on_sphere(40), MemoryFitting())
    return found


@pytest.mark.parametrize("name", ALL)
class TestEvery:
    @torch.inference_mode()
    def test_refining_heeds_neither_batch_size_nor_order(self, name: str, fitted: dict[str, DDPM]) -> None:
        prior, x, draw = fitted[name], on_sphere(9, seed=3).values, draw_for(9)
        whole = prior.refine(x, draw=draw, eta=0.5, **WALK)
        alone = [prior.refine(x[i : i + 1], draw=draw.select(slice(i, i + 1)), eta=0.5, **WALK) for i in range(9)]
        backwards = Draw(draw.hashes.flip(0), draw.seed)
        assert (whole - x).norm(dim=1).min() > 0.1
        assert torch.allclose(whole, torch.cat(alone), atol=1e-4)
        assert torch.allclose(whole, prior.refine(x.flip(0), draw=backwards, eta=0.5, **WALK).flip(0), atol=1e-4)

    @torch.inference_mode()
    def test_one_time_step_for_all_is_the_same_as_one_each(self, name: str, fitted: dict[str, DDPM]) -> None:
        x = on_sphere(3).values
        each = fitted[name].estimate(x, torch.tensor([250, 250, 250]))
        assert torch.allclose(fitted[name].estimate(x, torch.tensor([250])), each, atol=1e-5)

    def test_start_step_0_changes_nothing(self, name: str, fitted: dict[str, DDPM]) -> None:
        x = on_sphere(3).values
        assert torch.equal(fitted[name].refine(x, start_step=0, num_steps=5, draw=draw_for(3)), x)

    def test_a_start_beyond_the_noise_process_is_refused(self, name: str, fitted: dict[str, DDPM]) -> None:
        with pytest.raises(ConfigError, match="start_step 1001: expected 0 to 1000"):
            fitted[name].refine(on_sphere(3).values, start_step=1001, num_steps=5, draw=draw_for(3))

    @torch.inference_mode()
    def test_tensors_come_back(self, name: str, fitted: dict[str, DDPM]) -> None:
        prior, other, x = fitted[name], prior_of(ALL[name], seed=1), on_sphere(4).values
        other.load_tensors({key: value.clone() for key, value in prior.tensors().items()})
        assert torch.equal(prior.refine(x, draw=draw_for(4), **WALK), other.refine(x, draw=draw_for(4), **WALK))

    def test_duplicate_texts_do_no_harm(self, name: str) -> None:
        prior, few = prior_of(ALL[name]), on_sphere(3)
        keys = tuple(f"copy{i}" for i in range(30))
        prior.fit(Embeddings(few.values.repeat(10, 1), few.port, keys), MemoryFitting())
        with torch.inference_mode():
            found = prior.refine(on_sphere(5, seed=3).values, draw=draw_for(5), **WALK)
        assert torch.isfinite(found).all()
        assert (found.norm(dim=1) < 20).all()

    def test_bad_vectors_are_refused(self, name: str) -> None:
        prior = prior_of(ALL[name])
        broken = on_sphere(5)
        broken.values[3, 2] = torch.nan
        with pytest.raises(DataError, match="text3 hold NaN"):
            prior.fit(broken, MemoryFitting())
        with pytest.raises(DataError, match="at least two vectors; found 1"):
            prior.fit(on_sphere(1), MemoryFitting())
        with pytest.raises(DataError, match=r"sphere of radius 5.*norms from 1 to 1"):
            prior.fit(toy_embeddings(8), MemoryFitting())


@pytest.mark.parametrize("name", NETWORKS)
class TestOnGaussian:
    def test_starts_exactly_at_the_gaussian(self, name: str) -> None:
        x, t, clean = on_sphere(7, seed=3).values, torch.tensor([400]), on_sphere(40)
        gaussian = prior_of({"type": "gaussian", "rank": 5})
        gaussian.fit(clean, MemoryFitting())
        base = {"type": "gaussian", "rank": 5}
        # One step at a learning rate of nothing: what it was before it learnt.
        prior = prior_of({**NETWORKS[name], "base": base}, steps=1, lr=1e-30)
        prior.fit(clean, MemoryFitting())
        with torch.inference_mode():
            assert torch.allclose(prior.estimate(x, t), gaussian.estimate(x, t), atol=1e-6)

    def test_a_killed_fit_goes_on_to_the_same_bytes(self, name: str) -> None:
        clean, denoiser = on_sphere(40), {**NETWORKS[name], "base": "gaussian", "dropout": 0.1}
        whole, resumed = prior_of(denoiser, ema_decay=0.5), prior_of(denoiser, ema_decay=0.5, seed=9)
        whole.fit(clean, MemoryFitting(3))
        fitting = MemoryFitting(3, stop_after=5)
        with pytest.raises(Interrupted):
            prior_of(denoiser, ema_decay=0.5).fit(clean, fitting)
        resumed.fit(clean, fitting)
        for key, value in whole.tensors().items():
            assert torch.equal(value, resumed.tensors()[key]), key

    def test_everything_it_uses_learns(self, name: str) -> None:
        prior, x = prior_of(NETWORKS[name]), on_sphere(6).values
        for parameter in prior.network.parameters():  # no layer at zero, which would hide what lies before it
            torch.nn.init.normal_(parameter, 0.3, 0.3)
        prior.loss(x, torch.tensor([1, 100, 300, 500, 700, 900]), draw_for(6).normal(16)).backward()  # type: ignore[no-untyped-call]
        still = {n for n, p in prior.network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
        unconditional = {"model.clip_mean", "model.clip_std", "model.embedding_proj.weight"}
        assert still == (unconditional if name == "prior_transformer" else set())


def test_the_residual_learns_what_is_not_normal() -> None:
    # Two clusters: knowing their covariance alone leaves more than twice the error of knowing that there are two.
    clean, t = clusters(200), torch.tensor([800])
    other = Draw.of([f"other{i}" for i in range(200)], 1)
    training: dict[str, Any] = {"steps": 400, "min_snr_gamma": 5.0, "lr": 1e-2}
    errors = {}
    for name, denoiser in {"gaussian": {"type": "gaussian"}, "on it": {**MLP, "base": "gaussian"}}.items():
        prior = prior_of(denoiser, 8, renormalise=False, **(training if name == "on it" else {}))
        prior.fit(clean, MemoryFitting())
        with torch.inference_mode():
            guess = prior.estimate(prior.schedule.diffused(clean.values, t, other.normal(8)), t)
        errors[name] = (guess - clean.values).square().mean().item()
    assert errors["on it"] < 0.7 * errors["gaussian"], errors


class TestPrecision:
    def test_bfloat16_is_near_and_weights_stay_float32(self) -> None:
        x, t, noise = on_sphere(8).values, torch.arange(100, 900, 100), draw_for(8).normal(16)
        exact, rough = (prior_of({**MLP, "base": "gaussian"}, precision=p) for p in ("float32", "bfloat16"))
        for prior in (exact, rough):
            prior.fit(on_sphere(40), MemoryFitting())
            prior.loss(x, t, noise).backward()  # type: ignore[no-untyped-call]
        rough.load_tensors(exact.tensors())
        found = rough.loss(x, t, noise).item()
        assert found != exact.loss(x, t, noise).item()
        assert found == pytest.approx(exact.loss(x, t, noise).item(), rel=0.02)
        assert {value.dtype for value in rough.tensors().values()} == {torch.float32}
        assert torch.equal(rough.estimate(x, t), exact.estimate(x, t))

    def test_the_gaussian_stays_exact(self) -> None:
        x, t, noise = on_sphere(8).values, torch.arange(100, 900, 100), draw_for(8).normal(16)
        exact, rough = (prior_of({**MLP, "base": "gaussian"}, precision=p, lr=1e-30) for p in ("float32", "bfloat16"))
        for prior in (exact, rough):
            prior.fit(on_sphere(40), MemoryFitting())
        assert rough.loss(x, t, noise).item() == pytest.approx(exact.loss(x, t, noise).item(), rel=1e-6)


class TestCompile:
    def test_gives_the_same_under_the_same_names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Traced as always, but run by PyTorch itself: generating code takes half a minute.
        monkeypatch.setattr(
            torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="eager")
        )
        clean, x = on_sphere(40), on_sphere(6, seed=3).values
        found = {}
        for flag in (False, True):
            prior = prior_of({**MLP, "dropout": 0.1, "base": "gaussian"}, compile=flag, ema_decay=0.5)
            prior.fit(clean, MemoryFitting())
            with torch.inference_mode():
                found[flag] = prior.tensors(), prior.refine(x, draw=draw_for(6), **WALK)
        assert list(found[True][0]) == list(found[False][0])
        for name, value in found[False][0].items():
            assert torch.allclose(found[True][0][name], value, atol=1e-4), name
        assert torch.allclose(found[True][1], found[False][1], atol=1e-4)

    def test_a_missing_compiler_is_told(self) -> None:
        import torch._inductor.config as inductor

        torch._dynamo.reset()
        with inductor.patch({"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}):
            prior = prior_of(MLP, compile=True)
            with pytest.raises(SetupError, match=r"compile: true does not work here.*leave out compile"):
                prior.fit(on_sphere(40), MemoryFitting())

    def test_it_changes_no_cache_key(self) -> None:
        on, off = (prior_of(MLP, compile=flag).config.key_fields("cross", "augment") for flag in (True, False))
        assert on == off


class TestConfig:
    @pytest.mark.parametrize("wrong", ["unet9d", {"width": 3}, 3, None, {"type": 5}])
    def test_an_unknown_type_is_answered_with_the_five(self, wrong: Any) -> None:
        with pytest.raises(
            ConfigError, match="unet1d, residual_mlp, prior_transformer, gaussian or empirical; found"
        ) as told:
            build("prior", {"type": "ddpm", "denoiser": wrong}, ports={"text": toy_port()})
        assert told.value.problems[0].path == "denoiser"

    @pytest.mark.parametrize("word", ["unet1d", "residual_mlp", "prior_transformer", "gaussian", "empirical"])
    def test_the_word_alone_will_do(self, word: str) -> None:
        prior = build("prior", {"type": "ddpm", "denoiser": word}, ports={"text": toy_port()})
        assert prior.config.denoiser.type == word

    @pytest.mark.parametrize(
        ("denoiser", "answer"),
        [
            ({"type": "residual_mlp", "widht": 8}, r"denoiser\.widht: no such field \(did you mean 'width'\?\)"),
            ({"type": "empirical", "rank": 8}, r"denoiser\.rank: no such field \(fields: type\)"),
        ],
    )
    def test_a_wrong_field_is_answered_with_those_of_its_denoiser(self, denoiser: dict[str, Any], answer: str) -> None:
        with pytest.raises(ConfigError, match=answer):
            prior_of(denoiser)

    @pytest.mark.parametrize("name", NETWORKS)
    def test_the_base_is_checked(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"denoiser\.base.*'gaussian'; found 'empirical'"):
            prior_of({**NETWORKS[name], "base": "empirical"})
        with pytest.raises(PortError, match="rank 17, but the vectors have 16"):
            prior_of({**NETWORKS[name], "base": {"type": "gaussian", "rank": 17}})


def test_diffusers_is_loaded_only_where_it_is_used() -> None:
    code = "import sys, modbridge_diffusion.ddpm; sys.exit('diffusers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_on_a_cpu_the_unet_goes_in_pieces_that_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network, x = prior_of(UNET).network, on_sphere(9, seed=3).values
    seen: list[int] = []
    network.init_conv.register_forward_hook(lambda _, given, __: seen.append(len(given[0])))
    with torch.inference_mode():
        wholes = [network(x, t) for t in (torch.tensor([300]), torch.arange(9) * 40)]
        monkeypatch.setattr("modbridge_diffusion.unet1d.AT_ONCE", 4)
        parts = [network(x, t) for t in (torch.tensor([300]), torch.arange(9) * 40)]
    assert seen == [9, 9, 4, 4, 1, 4, 4, 1]
    torch.testing.assert_close(parts, wholes, atol=1e-5, rtol=0)
    network(x, torch.tensor([300]))  # a gradient's batch stays whole
    assert seen[-1] == 9
