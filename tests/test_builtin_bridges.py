"""The statistics bridges, against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port, Space
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

DIM = 16
TEXT = toy_embeddings(200, DIM)
IMAGE = toy_embeddings(150, DIM, "image")
T, V = TEXT.values.double().numpy(), IMAGE.values.double().numpy()
MT, MV = T.mean(0), V.mean(0)  # the toy vectors have length 1 already
RADIUS = np.linalg.norm(T - MT, axis=1).mean()
SIGMA = 0.016**0.5


def _n(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _fitted(**block):
    bridge = build("bridge", block)
    scaled = Embeddings(TEXT.values * 9, TEXT.port, TEXT.keys)  # lengths must not count
    bridge.fit(FitData(scaled, Embeddings(IMAGE.values * 3, IMAGE.port, IMAGE.keys)), MemoryFitting())
    return bridge


def _close(found, expected):
    np.testing.assert_allclose(found.values.numpy(), expected, atol=2e-6)


def test_identity_changes_nothing_but_the_label():
    bridge = build("bridge", {"type": "identity"})
    assert torch.equal(bridge.cross(IMAGE).values, IMAGE.values)
    assert torch.equal(bridge.augment(TEXT).values, TEXT.values)
    assert bridge.cross(IMAGE).port.bridge == "identity"
    assert bridge.config.needs == frozenset()


def test_mean_shift_in_both_frames():
    text = _fitted(type="mean_shift")
    _close(text.cross(IMAGE), _n(V - MV + MT))
    assert torch.equal(text.augment(TEXT).values, TEXT.values)
    assert text.cross(IMAGE).port.frame == text.augment(TEXT).port.frame == "raw"
    centred = _fitted(type="mean_shift", frame="centred")
    _close(centred.cross(IMAGE), _n(V - MV))
    _close(centred.augment(TEXT), _n(T - MT))
    assert centred.cross(IMAGE).port.frame == centred.augment(TEXT).port.frame == "centred"


def test_c3_is_centring_with_noise_before_the_last_normalisation():
    bridge = _fitted(type="c3")
    _close(bridge.cross(IMAGE), _n(V - MV))
    noise = Draw.of(TEXT.keys, 5, 2).named("augment").normal(DIM).double().numpy()
    _close(bridge.augment(TEXT, seed=5, epoch=2), _n(T - MT + SIGMA * noise))
    assert bridge.config.augmentation == "noise"
    assert bridge.augment(TEXT).port.frame == "centred"


def test_c3_in_the_text_frame_goes_back_to_the_mean_at_the_mean_radius():
    bridge = _fitted(type="c3", frame="text", noise_std=0)
    _close(bridge.cross(IMAGE), _n(RADIUS * _n(V - MV) + MT))
    _close(bridge.augment(TEXT), _n(RADIUS * _n(T - MT) + MT))
    assert bridge.augment(TEXT).port.frame == "raw"


def test_capdec_is_noise_on_texts_only():
    bridge = build("bridge", {"type": "capdec"})
    long = Embeddings(IMAGE.values * 3, IMAGE.port, IMAGE.keys)
    _close(bridge.cross(long), V)
    noise = Draw.of(TEXT.keys, 1).named("augment").normal(DIM).double().numpy()
    _close(bridge.augment(TEXT, seed=1), _n(T + SIGMA * noise))


@pytest.mark.parametrize(("name", "start"), [("c3", T - MT), ("capdec", T)])
def test_noise_has_the_stated_deviation(name, start):
    """Before the last normalisation the noise has 0.016 per dimension: seen by scaling back along the known start."""
    bridge = _fitted(type=name)
    seen = np.concatenate([bridge.augment(TEXT, epoch=e).values.double().numpy() for e in range(20)])
    again = np.tile(start, (20, 1))
    generator = np.random.default_rng(0)
    expected = _n(again + generator.normal(scale=SIGMA, size=again.shape))
    found, wanted = (seen * _n(again)).sum(1).mean(), (expected * _n(again)).sum(1).mean()
    assert found == pytest.approx(wanted, abs=0.005)
    assert wanted < 0.95


def test_fresh_noise_every_epoch_and_the_same_in_any_order():
    bridge = _fitted(type="c3")
    first = bridge.augment(TEXT, seed=3, epoch=0).values
    assert not torch.allclose(first, bridge.augment(TEXT, seed=3, epoch=1).values, atol=1e-3)
    order = list(range(199, -1, -1))
    torch.testing.assert_close(bridge.augment(TEXT.select(order), seed=3).values, first[order], atol=1e-6, rtol=0)


@pytest.mark.parametrize("block", [{"type": "mean_shift"}, {"type": "c3", "frame": "text"}])
def test_an_artefact_gives_the_same_bridge(block):
    bridge, again = _fitted(**block), build("bridge", block)
    with pytest.raises(DataError, match="not been fitted"):
        again.cross(IMAGE)
    again.load_tensors(bridge.tensors())
    assert torch.equal(again.cross(IMAGE).values, bridge.cross(IMAGE).values)
    assert torch.equal(again.augment(TEXT).values, bridge.augment(TEXT).values)
    with pytest.raises(ArtefactError, match="another config"):
        again.load_tensors({"text_mean": torch.zeros(DIM)})


def test_fitting_without_source_vectors_is_refused():
    bridge = build("bridge", {"type": "c3"})
    assert bridge.config.needs == {"text", "source"}
    with pytest.raises(DataError, match="needs source vectors"):
        bridge.fit(FitData(TEXT), MemoryFitting())


@pytest.mark.parametrize("name", ["identity", "mean_shift", "c3", "capdec"])
def test_another_space_is_refused_before_anything_is_built(name):
    config = build_config("bridge", {"type": name})
    with pytest.raises(PortError, match="another space"):
        config.crosses(toy_port(DIM, "image", space="elsewhere"), toy_port(DIM))


@pytest.mark.parametrize("name", ["mean_shift", "c3", "capdec"])
def test_sequences_are_refused_by_bridges_of_vectors(name):
    config = build_config("bridge", {"type": name})
    sequence = Port(space=Space(id="toy", dim=DIM), modality="image", tokens=4)
    with pytest.raises(PortError, match="one vector an item"):
        config.crosses(sequence, sequence.changed(modality="text"))


def test_noise_counts_for_the_decoder_and_not_for_crossing():
    quiet, loud = (build_config("bridge", {"type": "c3", "noise_std": s}) for s in (0.1, 0.2))
    assert quiet.key_fields("cross") == loud.key_fields("cross")
    assert quiet.key_fields("augment") != loud.key_fields("augment")
    with pytest.raises(ConfigError, match="noise_std"):
        build_config("bridge", {"type": "c3", "noise_std": -1})


@pytest.mark.parametrize("block", [{"type": "mean_shift", "frame": "centred"}, {"type": "c3"}])
def test_the_explanation_of_a_crossing_speaks_of_the_text_frame(block):
    bridge = _fitted(**block)
    names, stations = zip(*bridge.trace_vectors(IMAGE.values, Draw.of(IMAGE.keys, 0)), strict=True)
    assert names == ("encoded", "bridged")
    np.testing.assert_allclose(stations[1].numpy(), _n(RADIUS * _n(V - MV) + MT), atol=2e-6)
