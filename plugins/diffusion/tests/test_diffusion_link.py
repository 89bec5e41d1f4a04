"""Diffusion-Link as a bridge: its chain against numpy, its ports, and that it closes made-up and real gaps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.diffusion_link import DiffusionLink
from modbridge_diffusion.diffusion_link_config import DiffusionLinkConfig
from modbridge_diffusion.link_ddpm_config import LinkDDPMConfig

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import Bridge, FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

PRIOR = {
    "type": "link_ddpm",
    "denoiser": {"type": "residual_mlp", "width": 32, "num_blocks": 1},
    "steps": 40,
    "batch_size": 16,
    "lr": 3e-3,
}
DIM = 16
SIGNAL = np.cumprod(1 - np.linspace(1e-4**0.5, 0.02**0.5, 1000) ** 2)  # alpha_bar of scaled_linear


class Watching(MemoryFitting):
    """Keeps what the bridge hands to its prior."""

    handed: list[tuple[Embeddings, Embeddings | None]]

    def fit_part(self, part: Any, clean: Embeddings, observed: Embeddings | None = None) -> None:
        self.handed = [(clean, observed)]
        super().fit_part(part, clean, observed)


def bridge(dim: int = DIM, **fields: Any) -> DiffusionLink:
    ports = {"text": toy_port(dim), "source": toy_port(dim, "image")}
    fields["prior"] = {**PRIOR, **fields.get("prior", {})}
    built = build("bridge", {"type": "diffusion_link", **fields}, ports=ports)
    assert isinstance(built, DiffusionLink)
    return built


@pytest.fixture(scope="module")
def data() -> FitData:
    """50 texts of 25 images, two each, the last 20 of images that are not known; 30 images."""
    pairs = torch.arange(50) // 2
    pairs[30:] = -1
    return FitData(toy_embeddings(50), toy_embeddings(30, modality="image", shift=0.8), pairs)


def fitted(data: FitData, **fields: Any) -> DiffusionLink:
    built = bridge(**fields)
    built.fit(data if "pairs" in built.config.needs else FitData(data.text), MemoryFitting())
    return built


def images(data: FitData) -> Embeddings:
    return data.require_source("the test")


def unit(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def double(x: Embeddings) -> np.ndarray:
    return x.values.double().numpy()


class TestChain:
    @pytest.mark.parametrize(("scale", "norm"), [(None, 4.0), (3.0, 3.0)])
    def test_the_prior_is_given_all_texts_and_the_pairs_by_key(
        self, data: FitData, scale: float | None, norm: float
    ) -> None:
        built, fitting = bridge(prior={"scale": scale}), Watching()
        built.fit(data, fitting)
        clean, observed = fitting.handed[0]
        assert np.allclose(clean.values.numpy(), norm * unit(double(data.text)), atol=1e-5)
        assert clean.keys == data.text.keys
        assert observed is not None
        assert observed.keys == data.text.keys[:30]
        s = norm * unit(double(images(data)))
        assert np.allclose(observed.values.numpy(), s[[i // 2 for i in range(30)]], atol=1e-5)

    @pytest.mark.parametrize("norm", [0.3, 7.0])
    def test_training_and_sampling_scale_alike_whatever_the_norms(self, data: FitData, norm: float) -> None:
        def scaled(x: Embeddings) -> Embeddings:
            return Embeddings(x.values * norm, x.port, x.keys)

        other = FitData(scaled(data.text), scaled(images(data)), data.pairs)
        one, two = fitted(data), fitted(other)
        expected = one.cross(images(data)).values
        for built in (one, two):
            for x in (images(data), images(other)):
                assert torch.allclose(built.cross(x).values, expected, atol=1e-4)
        assert torch.allclose(two.augment(other.text).values, one.augment(data.text).values, atol=1e-4)

    @pytest.mark.parametrize("add_noise", [True, False])
    def test_one_step_is_the_networks_guess(self, data: FitData, add_noise: bool) -> None:
        built = fitted(data, start_step=301, add_noise=add_noise)
        for x, given, purpose in ((images(data), built.cross, "cross"), (data.text, built.augment, "augment")):
            noise = Draw.of(x.keys, 5).named(f"{purpose}/diffuse").normal(DIM).double().numpy()
            noised = 4 * unit(double(x)) * SIGNAL[300] ** 0.5
            if add_noise:
                noised = noised + (1 - SIGNAL[300]) ** 0.5 * noise
            with torch.inference_mode():
                guess = built.prior.modules()["network"](torch.from_numpy(noised).float(), torch.tensor([300]))
            assert np.allclose(given(x, 5).values.numpy(), unit(guess.double().numpy()), atol=1e-4)

    def test_two_steps_are_ddim(self, data: FitData) -> None:
        built, s = fitted(data, start_step=400, num_steps=2, add_noise=False), images(data)
        network = built.prior.modules()["network"]

        def guess(x: np.ndarray, t: int) -> np.ndarray:
            with torch.inference_mode():
                found: np.ndarray = network(torch.from_numpy(x).float(), torch.tensor([t])).double().numpy()
            return found

        x = 4 * unit(double(s)) * SIGNAL[399] ** 0.5
        first = guess(x, 399)
        noise = (x - SIGNAL[399] ** 0.5 * first) / (1 - SIGNAL[399]) ** 0.5
        second = guess(SIGNAL[199] ** 0.5 * first + (1 - SIGNAL[199]) ** 0.5 * noise, 199)
        assert np.allclose(built.cross(s).values.numpy(), unit(second), atol=1e-4)

    def test_start_step_0_only_normalises(self, data: FitData) -> None:
        built = fitted(data, start_step=0)
        assert np.allclose(built.cross(images(data)).values.numpy(), unit(double(images(data))), atol=1e-6)
        assert built.config.augments_by == "none"

    def test_batches_and_order_change_nothing(self, data: FitData) -> None:
        built, s = fitted(data), images(data)
        whole = built.cross(s, 3).values
        for rows in ([4], [9, 2, 17]):
            assert torch.allclose(built.cross(s.select(rows), 3).values, whole[rows], atol=1e-5)
        assert not torch.allclose(built.cross(s, 4).values, whole, atol=1e-2)
        silent = fitted(data, add_noise=False)
        assert torch.equal(silent.cross(s, 3).values, silent.cross(s, 4).values)

    @pytest.mark.parametrize("frame", ["text", "centred"])
    def test_centring_takes_each_sides_mean(self, data: FitData, frame: str) -> None:
        built, s, t = fitted(data, centre=True, frame=frame, start_step=0), *map(double, (images(data), data.text))
        s, t = unit(s), unit(t)
        z = unit(s - s.mean(0))
        if frame == "text":
            z = unit(np.linalg.norm(t - t.mean(0), axis=1).mean() * z + t.mean(0))
        found = built.cross(images(data))
        assert np.allclose(found.values.numpy(), z, atol=1e-5)
        assert found.port.frame == ("centred" if frame == "centred" else "raw")

    def test_a_trace_names_its_stations(self, data: FitData) -> None:
        built, s = fitted(data, num_steps=2), images(data)
        draw = Draw.of(s.keys, 0).named("cross")
        stations = built.trace_vectors(s.values, draw)
        assert [name for name, _ in stations] == ["encoded", "noised", "step 99", "step 0", "bridged"]
        assert torch.allclose(stations[-1][1], built.cross(s, 0).values, atol=1e-5)


class TestAuto:
    def test_it_takes_the_level_that_held_out_pairs_favour(self, data: FitData) -> None:
        built, fitting = (
            bridge(start_step="auto", add_noise=False, holdout=0.2, prior={"affine": True, "steps": 0}),
            Watching(),
        )
        built.fit(data, fitting)
        clean, observed = fitting.handed[0]
        assert observed is not None
        held = [key for key in data.text.keys if key not in clean.keys]
        assert len(held) == 6  # 3 of 15 images, with both texts of each
        assert not set(held) & set(observed.keys)
        chosen = built.chosen()["start_step"]
        rows = [data.text.keys.index(key) for key in held]
        assert data.pairs is not None
        s, t = images(data).select(data.pairs[rows].tolist()), unit(double(data.text.select(rows)))
        scores = {}
        for step in range(0, 1000, 50):
            other = other_at(built, step)
            scores[step] = float((unit(double(other.cross(s))) * t).sum(1).mean())
        assert chosen == max(scores, key=scores.__getitem__)
        assert torch.allclose(built.cross(s).values, other_at(built, int(chosen)).cross(s).values, atol=1e-6)

    def test_too_few_pairs_to_hold_any_out_are_refused(self, data: FitData) -> None:
        pairs = torch.full((50,), -1)
        pairs[:2] = 0
        with pytest.raises(DataError, match="leaves none to learn from"):
            bridge(start_step="auto").fit(FitData(data.text, data.source, pairs), MemoryFitting())


def other_at(built: DiffusionLink, step: int) -> DiffusionLink:
    other = bridge(start_step=step, add_noise=False, prior={"affine": True, "steps": 0})
    other.prior.load_tensors(built.prior.tensors())
    other.statistics.load_state_dict({k: v for k, v in built.statistics.state_dict().items() if k != "start_step"})
    return other


class TestFit:
    def test_a_text_only_link_takes_texts_alone(self, data: FitData) -> None:
        built, fitting = bridge(prior={"train_on": "text"}), Watching()
        assert built.config.needs == {"text"}
        built.fit(FitData(data.text), fitting)
        assert fitting.handed[0][1] is None
        assert bridge(prior={"train_on": "text"}, centre=True).config.needs == {"text", "source"}
        assert bridge().config.needs == {"text", "source", "pairs"}

    @pytest.mark.parametrize("pairs", [None, torch.full((50,), -1)])
    def test_no_pairs_are_refused(self, data: FitData, pairs: torch.Tensor | None) -> None:
        with pytest.raises(DataError, match="needs pairs, found none"):
            bridge().fit(FitData(data.text, data.source, pairs), MemoryFitting())

    def test_nan_is_refused_by_name(self, data: FitData) -> None:
        broken = images(data).values.clone()
        broken[3, 0] = torch.nan
        source = Embeddings(broken, images(data).port, images(data).keys)
        with pytest.raises(DataError, match=f"{source.keys[3]} hold NaN"):
            bridge().fit(FitData(data.text, source, data.pairs), MemoryFitting())

    def test_tensors_come_back(self, data: FitData) -> None:
        built, other = fitted(data, centre=True), bridge(centre=True)
        other.load_tensors(built.tensors())
        other.prior.load_tensors(built.prior.tensors())
        assert torch.equal(other.cross(images(data)).values, built.cross(images(data)).values)
        assert torch.equal(other.augment(data.text).values, built.augment(data.text).values)
        with pytest.raises(ArtefactError, match="another config"):
            bridge(8).load_tensors(built.tensors())


class TestPorts:
    @pytest.mark.parametrize(
        ("source", "text", "reason"),
        [
            (toy_port(modality="image").changed(tokens=7), toy_port(), "sequences where vectors"),
            (toy_port(modality="image"), toy_port().changed(tokens=7), "single vectors"),
            (toy_port(8, "image"), toy_port(), "another"),
            (toy_port(modality="image").changed(frame="centred"), toy_port(), "centred vectors where raw"),
            (toy_port(modality="image"), toy_port().changed(frame="centred"), "centres vectors itself"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, source: Any, text: Any, reason: str) -> None:
        with pytest.raises(PortError, match=reason):
            build_config("bridge", {"type": "diffusion_link", "prior": PRIOR}).crosses(source, text)


class TestConfig:
    def test_defaults_are_those_of_the_fact_sheet(self) -> None:
        config = build_config("bridge", {"type": "diffusion_link"})
        assert (config.start_step, config.num_steps, config.add_noise, config.centre) == (200, 1, True, False)
        prior = config.prior
        assert isinstance(prior, LinkDDPMConfig)
        assert (prior.timesteps, prior.schedule, prior.loss, prior.batch_size) == (1000, "scaled_linear", "l1", 300)
        assert (prior.lr, prior.weight_decay, prior.cross_sample, prior.topology) == (5e-4, 5e-5, 1.0, 1.0)
        assert prior.norm(512) == pytest.approx(512**0.5)
        assert config.augmentation == "diffusion"

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"start_step": 1001}, "start_step"),
            ({"prior": {"type": "link_ddpm", "timesteps": 100}}, "start_step"),
            ({"num_steps": 0}, "num_steps"),
            ({"holdout": 1.0}, "holdout"),
            ({"prior": {"type": "link_ddpm", "scale": 0}}, "prior.scale"),
        ],
    )
    def test_a_wrong_value_is_told_by_its_path(self, fields: dict[str, Any], path: str) -> None:
        with pytest.raises(ConfigError) as caught:
            build_config("bridge", {"type": "diffusion_link", **fields})
        assert [problem.path for problem in caught.value.problems] == [path]

    def test_which_fields_decide_which_result(self) -> None:
        config = DiffusionLinkConfig(type="diffusion_link")
        fit, cross = (set(config.key_fields(*purpose)) for purpose in ((), ("cross",)))
        assert fit == {"type", "prior", "centre"}
        assert cross - fit == {"start_step", "num_steps", "add_noise", "frame"}
        auto = DiffusionLinkConfig(type="diffusion_link", start_step="auto")
        assert set(auto.key_fields()) - fit == {"start_step", "num_steps", "add_noise", "holdout"}

    def test_configs_load_no_torch(self) -> None:
        code = (
            "import sys, modbridge_diffusion.diffusion_link_config, modbridge_diffusion.plugin\n"
            "assert not {'torch', 'numpy'} & set(sys.modules), sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def centred_cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = unit(a), unit(b)
    return float((unit(a - a.mean(0)) * unit(b - b.mean(0))).sum(1).mean())


def test_on_real_pairs_it_comes_nearer_than_maps_fitted_on_the_same(requires_data: Path) -> None:
    stored = np.load(requires_data / "embeddings" / "coco500_clip_vitb16.npz")
    order = np.random.default_rng(0).permutation(500)

    def side(name: str, modality: str, rows: np.ndarray) -> Embeddings:
        values = torch.from_numpy(stored[name][rows].astype(np.float32))
        return Embeddings(values, toy_port(512, modality), tuple(f"{modality}{row}" for row in rows))

    text, source = side("text", "text", order[:400]), side("image", "image", order[:400])
    tests, truth = side("image", "image", order[400:]), double(side("text", "text", order[400:]))
    for known in (50, 400):
        pairs = torch.where(torch.arange(400) < known, torch.arange(400), -1)
        found = {}
        link = {"type": "diffusion_link", "start_step": 300, "add_noise": False, "centre": True}
        blocks: dict[str, dict[str, Any]] = {
            "link": {**link, "prior": {"type": "link_ddpm", "affine": True, "steps": 0}},
            **{name: {"type": name} for name in ("ridge", "procrustes", "pls_svd", "mean_shift")},
        }
        for name, block in blocks.items():
            ports = {"text": toy_port(512), "source": toy_port(512, "image")}
            built = build("bridge", block, ports=ports)
            assert isinstance(built, Bridge)
            given = pairs if "pairs" in built.config.needs else None
            built.fit(FitData(text, source, given), MemoryFitting())
            found[name] = centred_cosine(double(built.cross(tests)), truth)
        assert found["link"] == max(found.values()), (known, found)
