"""Diffusion Bridge: its chain against numpy, its ports, and that it does close a made-up gap."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_diffusion.ddpm_config import DDPMConfig
from modbridge_diffusion.diffusion_bridge import DiffusionBridge
from modbridge_diffusion.diffusion_bridge_config import DiffusionBridgeConfig

from modbridge.config.kinds import PriorConfig
from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import BuildContext, FitData, Fitting, Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

PRIOR = {
    "type": "ddpm",
    "denoiser": {"type": "residual_mlp", "width": 32, "num_blocks": 1},
    "steps": 60,
    "batch_size": 16,
}


class Watching(MemoryFitting):
    """Keeps what the bridge hands to its prior."""

    handed: list[tuple[Embeddings, Embeddings | None]]

    def fit_part(self, part: Any, clean: Embeddings, observed: Embeddings | None = None) -> None:
        self.handed = [(clean, observed)]
        super().fit_part(part, clean, observed)


def bridge(dim: int = 16, **fields: Any) -> DiffusionBridge:
    ports = {"text": toy_port(dim), "source": toy_port(dim, "image")}
    built = build("bridge", {"type": "diffusion_bridge", "prior": PRIOR, **fields}, ports=ports)
    assert isinstance(built, DiffusionBridge)
    return built


def fitted(text: Embeddings, source: Embeddings, **fields: Any) -> DiffusionBridge:
    built = bridge(text.values.shape[1], **fields)
    built.fit(FitData(text, source), MemoryFitting())
    return built


@pytest.fixture(scope="module")
def text() -> Embeddings:
    raw = toy_embeddings(50)
    return Embeddings(
        raw.values * torch.linspace(0.5, 9, 50)[:, None], raw.port, raw.keys
    )  # encoders need not normalise


@pytest.fixture(scope="module")
def source() -> Embeddings:
    return toy_embeddings(30, modality="image", shift=0.8)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def double(x: Embeddings) -> np.ndarray:
    return x.values.double().numpy()


class TestChain:
    def test_the_prior_is_given_centred_text_vectors_on_its_sphere(self, text: Embeddings, source: Embeddings) -> None:
        built, fitting = bridge(prior={**PRIOR, "radius": 3.0}), Watching()
        built.fit(FitData(text, source), fitting)
        (clean, observed) = fitting.handed[0]
        t = unit(double(text))
        assert np.allclose(clean.values.numpy(), 3 * unit(t - t.mean(0)), atol=1e-5)
        assert clean.keys == text.keys
        assert clean.port.frame == "centred"
        assert observed is None

    def test_start_step_0_only_centres_by_the_sources_own_mean(self, text: Embeddings, source: Embeddings) -> None:
        s = unit(double(source))
        found = fitted(text, source, start_step=0).cross(source)
        assert np.allclose(found.values.numpy(), unit(s - s.mean(0)), atol=1e-6)

    def test_augment_step_0_only_centres_by_the_texts_mean(self, text: Embeddings, source: Embeddings) -> None:
        t = unit(double(text))
        found = fitted(text, source, augment_step=0).augment(text)
        assert np.allclose(found.values.numpy(), unit(t - t.mean(0)), atol=1e-6)

    def test_the_text_frame_is_back_among_raw_text_vectors(self, text: Embeddings, source: Embeddings) -> None:
        s, t = unit(double(source)), unit(double(text))
        spread = np.linalg.norm(t - t.mean(0), axis=1).mean()
        expected = unit(spread * unit(s - s.mean(0)) + t.mean(0))
        found = fitted(text, source, start_step=0, frame="text").cross(source)
        assert np.allclose(found.values.numpy(), expected, atol=1e-6)
        assert found.port.frame == "raw"

    def test_crossing_is_the_priors_refining_without_added_noise(self, text: Embeddings, source: Embeddings) -> None:
        built = fitted(text, source, start_step=400, num_steps=3)
        s = unit(double(source))
        z = torch.from_numpy(5 * unit(s - s.mean(0))).float()
        with torch.inference_mode():
            refined = built.prior.refine(z, start_step=400, num_steps=3, draw=Draw.of(source.keys, 7))
        expected = unit(refined.double().numpy())
        for seed in (0, 1):
            assert np.allclose(built.cross(source, seed).values.numpy(), expected, atol=1e-5)

    def test_augmenting_noises_at_a_and_refines_from_a(self, text: Embeddings, source: Embeddings) -> None:
        built = fitted(text, source, augment_step=300, num_steps=2)
        t = unit(double(text))
        z = torch.from_numpy(5 * unit(t - t.mean(0))).float()
        draw = Draw.of(text.keys, 0).named("augment")
        with torch.inference_mode():
            noised = built.prior.diffuse(z, step=300, draw=draw)
            refined = built.prior.refine(noised, start_step=300, num_steps=2, draw=draw)
        assert np.allclose(built.augment(text).values.numpy(), unit(refined.double().numpy()), atol=1e-5)

    def test_augmenting_draws_anew_for_every_seed_and_epoch(self, text: Embeddings, source: Embeddings) -> None:
        built = fitted(text, source)
        same, again = built.augment(text, 1, 2), built.augment(text, 1, 2)
        assert torch.equal(same.values, again.values)
        for other in (built.augment(text, 0, 2), built.augment(text, 1, 3)):
            assert not torch.allclose(same.values, other.values, atol=1e-2)

    def test_without_centring_no_source_is_needed(self, text: Embeddings, source: Embeddings) -> None:
        built = bridge(centre=False, start_step=0)
        assert built.config.needs == {"text"}
        built.fit(FitData(text), MemoryFitting())
        assert np.allclose(built.cross(source).values.numpy(), unit(double(source)), atol=1e-6)
        assert built.cross(source).port.frame == "raw"

    @pytest.mark.parametrize("verb", ["cross", "augment"])
    def test_batch_size_and_order_change_nothing(self, text: Embeddings, source: Embeddings, verb: str) -> None:
        built, items = fitted(text, source, eta=0.5), source if verb == "cross" else text
        run = getattr(built, verb)
        whole = run(items, 3).values
        order = list(range(len(items)))[::-1]
        assert torch.allclose(run(items.select(order), 3).values[order], whole, atol=1e-5)
        singly = torch.cat([run(items.select([i]), 3).values for i in range(len(items))])
        assert torch.allclose(singly, whole, atol=1e-5)
        assert torch.allclose(whole.norm(dim=1), torch.ones(len(items)), atol=1e-5)

    def test_the_trace_leads_to_the_bridged_vector(self, text: Embeddings, source: Embeddings) -> None:
        built = fitted(text, source, frame="text")
        with torch.inference_mode():
            stations = built.trace_vectors(source.values, Draw.of(source.keys, 0).named("cross"))
        assert [name for name, _ in stations] == [
            "encoded", "centred", "step 479", "step 359", "step 239", "step 119", "bridged",
        ]  # fmt: skip
        assert torch.equal(stations[0][1], source.values)
        centred = fitted(text, source, frame="text", start_step=0).cross(source).values
        assert torch.allclose(stations[1][1], centred, atol=1e-6)
        assert torch.allclose(stations[-1][1], built.cross(source).values, atol=1e-6)


class TestGap:
    def test_it_raises_the_centred_paired_cosine_of_held_out_pairs(self) -> None:
        # Meanings of rank 4 in 32 dimensions; images bring a mean of their own and noise the texts do not have.
        rank, dim, count = 4, 32, 500
        keys = tuple(f"pair{i}" for i in range(count))
        draw = Draw.of(keys, 0)
        axes = torch.linalg.qr(Draw.of([f"axis{i}" for i in range(rank)], 0).normal(dim).T).Q
        means = torch.nn.functional.normalize(Draw.of(["text mean", "image mean"], 0).normal(dim), dim=1)
        meaning = draw.named("meaning").normal(rank) @ axes.T * 0.3
        values = {
            "text": meaning + means[0] + 0.02 * draw.named("text").normal(dim),
            "image": meaning + means[1] + 0.15 * draw.named("image").normal(dim),
        }
        sides = {m: Embeddings(torch.nn.functional.normalize(x), toy_port(dim, m), keys) for m, x in values.items()}
        train, test = list(range(400)), list(range(400, count))
        cosines = {}
        prior = {**PRIOR, "steps": 300, "batch_size": 64, "lr": 2e-3}
        for start_step in (0, 400):
            built = bridge(dim, prior=prior, start_step=start_step, augment_step=0)
            shuffled = sides["image"].select(train[::-1])  # unpaired
            built.fit(FitData(sides["text"].select(train), shuffled), MemoryFitting())
            texts = built.augment(sides["text"].select(test)).values
            cosines[start_step] = (built.cross(sides["image"].select(test)).values * texts).sum(1).mean().item()
        assert cosines[400] > cosines[0] + 0.15

    def test_on_real_clip_vectors(self, requires_data: Path) -> None:
        # coco500, split 0: the identity has .312; a long fit of a wide network reaches .52 and more.
        stored = np.load(requires_data / "embeddings" / "coco500_clip_vitb16.npz")
        split = np.random.default_rng(0).permutation(500)
        sides = {
            m: Embeddings(torch.from_numpy(stored[m]).float(), toy_port(512, m), tuple(f"{m}{i}" for i in range(500)))
            for m in ("text", "image")
        }
        denoiser = {"type": "residual_mlp", "width": 256, "num_blocks": 1}
        prior = {"type": "ddpm", "denoiser": denoiser, "steps": 400, "batch_size": 64, "lr": 1e-3, "min_snr_gamma": 5.0}
        built = bridge(512, prior=prior, start_step=400, augment_step=0)
        built.fit(FitData(sides["text"].select(split[:400]), sides["image"].select(split[:400])), MemoryFitting())
        texts = built.augment(sides["text"].select(split[400:])).values
        assert (built.cross(sides["image"].select(split[400:])).values * texts).sum(1).mean().item() > 0.48


class TestPorts:
    def check(self, **fields: Any) -> DiffusionBridgeConfig:
        config = build_config("bridge", {"type": "diffusion_bridge", **fields})
        assert isinstance(config, DiffusionBridgeConfig)
        return config

    def test_both_ways_lead_to_one_frame(self) -> None:
        text, image = toy_port(), toy_port(modality="image")
        for fields, frame in (({}, "centred"), ({"frame": "text"}, "raw"), ({"centre": False}, "raw")):
            config = self.check(**fields)
            crossed, augmented = config.crosses(image, text), config.augments(text)
            assert (crossed.frame, augmented.frame) == (frame, frame)
            assert (crossed.bridge, augmented.bridge) == ("diffusion_bridge", "diffusion_bridge")
            assert augmented.conflict(crossed) is None

    def test_says_what_it_augments_by(self) -> None:
        assert self.check().augments_by == "diffusion"
        assert self.check(augment_step=0).augments_by == "none", "texts are only centred"

    @pytest.mark.parametrize(
        ("source", "text", "reason"),
        [
            (toy_port(modality="image", space="other"), toy_port(), "another space"),
            (toy_port(modality="image").changed(tokens=9), toy_port(), "sequences where vectors"),
            (toy_port(modality="image").changed(tokens=9), toy_port().changed(tokens=9), "single vectors"),
            (toy_port(modality="image").changed(frame="centred"), toy_port(), "centred vectors where raw"),
            (toy_port(modality="image"), toy_port().changed(frame="centred"), "centres vectors itself"),
        ],
    )
    def test_what_does_not_fit_is_refused(self, source: Any, text: Any, reason: str) -> None:
        with pytest.raises(PortError, match=reason):
            self.check().crosses(source, text)

    def test_augmenting_sequences_is_refused(self) -> None:
        with pytest.raises(PortError, match="single vectors"):
            self.check().augments(toy_port().changed(tokens=9))


class TestConfig:
    def test_the_papers_recipe_is_the_default(self) -> None:
        config = build_config("bridge", {"type": "diffusion_bridge"})
        assert (config.start_step, config.num_steps, config.augment_step, config.eta) == (600, 5, 400, 0.0)
        assert isinstance(config.prior, DDPMConfig)
        assert (config.prior.timesteps, config.prior.radius, config.prior.schedule) == (1000, 5.0, "cosine")
        assert config.needs == {"text", "source"}
        assert config.augmentation == "diffusion"

    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({"start_step": 1001}, "start_step"),
            ({"augment_step": 1000}, "augment_step"),
            ({"prior": {"type": "ddpm", "timesteps": 500}, "augment_step": 100}, "start_step"),
            ({"num_steps": 0}, "num_steps"),
            ({"prior": {"type": "ddpm", "radius": -1}}, "prior.radius"),
        ],
    )
    def test_a_wrong_value_is_told_by_its_path(self, fields: dict[str, Any], path: str) -> None:
        with pytest.raises(ConfigError) as caught:
            build_config("bridge", {"type": "diffusion_bridge", **fields})
        assert [problem.path for problem in caught.value.problems] == [path]

    def test_which_fields_decide_which_result(self) -> None:
        config = DiffusionBridgeConfig(type="diffusion_bridge")
        fit, cross, augment = (set(config.key_fields(*purpose)) for purpose in ((), ("cross",), ("augment",)))
        assert fit == {"type", "prior", "centre"}
        assert cross - fit == {"start_step", "num_steps", "eta", "frame"}
        assert augment - fit == {"augment_step", "num_steps", "eta", "frame"}

    def test_the_nested_prior_is_dumped_whole(self) -> None:
        config = DiffusionBridgeConfig(type="diffusion_bridge")
        assert config.model_dump()["prior"]["timesteps"] == 1000

    def test_configs_load_no_torch(self) -> None:
        code = (
            "import sys, modbridge_diffusion.diffusion_bridge_config, modbridge_diffusion.plugin\n"
            "assert not {'torch', 'numpy'} & set(sys.modules), sys.modules.keys()"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


class TestFit:
    def test_source_vectors_are_needed_for_their_mean(self, text: Embeddings) -> None:
        with pytest.raises(DataError, match="needs source vectors"):
            bridge().fit(FitData(text), MemoryFitting())

    def test_texts_that_are_all_alike_are_refused(self, text: Embeddings, source: Embeddings) -> None:
        alike = Embeddings(text.values[:1].expand(50, -1), text.port, text.keys)
        with pytest.raises(DataError, match="one and the same vector"):
            bridge().fit(FitData(alike, source), MemoryFitting())

    def test_no_text_is_refused(self, text: Embeddings, source: Embeddings) -> None:
        with pytest.raises(DataError, match="needs text vectors"):
            bridge().fit(FitData(text.select([]), source), MemoryFitting())

    def test_a_vector_without_direction_is_refused(self, text: Embeddings, source: Embeddings) -> None:
        empty = source.values.clone()
        empty[3] = 0
        with pytest.raises(DataError, match="row 3"):
            fitted(text, source).cross(Embeddings(empty, source.port, source.keys))

    def test_tensors_come_back(self, text: Embeddings, source: Embeddings) -> None:
        built, other = fitted(text, source), bridge()
        assert set(built.tensors()) == {
            "statistics.text_mean", "statistics.source_mean", "statistics.text_radius",
        }  # fmt: skip
        other.load_tensors(built.tensors())
        other.prior.load_tensors(built.prior.tensors())
        assert torch.equal(other.cross(source).values, built.cross(source).values)
        assert torch.equal(other.augment(text).values, built.augment(text).values)
        with pytest.raises(ArtefactError, match="another config"):
            bridge(8).load_tensors(built.tensors())


class Mirror(Prior[PriorConfig]):
    """A stranger's prior: the least that the interface asks for, and no radius of its own."""

    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        self.clean = clean

    def refine(self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw) -> torch.Tensor:
        return -x if start_step else x

    def diffuse(self, x: torch.Tensor, *, step: int, draw: Draw) -> torch.Tensor:
        return x


class TestStrangersPrior:
    def bridge(self, **fields: Any) -> DiffusionBridge:
        ports = {"text": toy_port(), "source": toy_port(modality="image")}
        config = DiffusionBridgeConfig(type="diffusion_bridge", prior=PriorConfig(type="mirror"), **fields)
        prior = Mirror(config.prior, BuildContext(ports=ports))
        return DiffusionBridge(config, BuildContext(ports=ports, parts={"prior": prior}))

    def test_it_works_on_unit_vectors(self, text: Embeddings, source: Embeddings) -> None:
        built = self.bridge()
        built.fit(FitData(text, source), MemoryFitting())
        assert isinstance(built.prior, Mirror)
        assert torch.allclose(built.prior.clean.values.norm(dim=1), torch.ones(len(text)), atol=1e-5)
        s = unit(double(source))
        assert np.allclose(built.cross(source).values.numpy(), -unit(s - s.mean(0)), atol=1e-6)
        stations = built.trace_vectors(source.values, Draw.of(source.keys, 0))
        assert [name for name, _ in stations] == ["encoded", "centred", "bridged"]

    def test_it_cannot_be_asked_for_noise_in_sampling(self) -> None:
        with pytest.raises(ConfigError, match="use eta: 0"):
            self.bridge(eta=0.5)

    def test_one_that_needs_pairs_is_refused(self) -> None:
        class Paired(PriorConfig):
            @property
            def needs(self) -> frozenset[str]:
                return frozenset({"text", "pairs"})

        with pytest.raises(ValueError, match="needs pairs"):
            DiffusionBridgeConfig(type="diffusion_bridge", prior=Paired(type="paired"))
