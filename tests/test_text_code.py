"""The text code against scipy's non-negative least squares and numpy, and on real vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import nnls

from modbridge.errors import ArtefactError, ConfigError, DataError
from modbridge.interfaces import FitData
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

Array = np.ndarray[Any, np.dtype[np.float64]]
DIM = 16


def n(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def power(matrix: Array, exponent: float) -> Array:
    values, axes = np.linalg.eigh(matrix)
    return np.asarray(axes * values**exponent @ axes.T)


def by_hand(text: Array, source: Array, test: Array, **given: float) -> tuple[Array, Array]:
    """(bridged vectors in the centred frame, in the text frame) by the formulas of the module, codes by scipy."""
    f = {"sparsity": 0.05, "spread": 2.0, "whiten": 0.125, "sharpen": 0.25, "detail": 0.3, "detail_noise": 0.15,
         "floor": 4.0, **given}  # fmt: skip
    text, source, test = n(text), n(source), n(test)
    mean_t, mean_v, dim = text.mean(0), source.mean(0), text.shape[1]
    t, v = n(text - mean_t), n(source - mean_v)
    one = np.eye(dim)
    w = power(v.T @ v / len(v) + f["floor"] / dim * one, -f["whiten"])
    atoms = t @ w / np.linalg.norm(t @ w, axis=1).mean()
    moment = t.T @ t / len(t)
    keep = moment @ np.linalg.inv(moment + f["detail_noise"] / dim * one)

    def query(x: Array) -> Array:
        return n(n(x - mean_v) @ w)

    def code(y: Array) -> Array:
        # The penalties as further rows of a least-squares problem.
        root = np.sqrt(f["spread"])
        tall = np.concatenate([atoms.T, root * np.eye(len(atoms))])
        right = [np.concatenate([row, np.full(len(atoms), -f["sparsity"] / root)]) for row in y]
        return np.stack([nnls(tall, row)[0] for row in right])

    sums = code(query(source)) @ t
    full = n(sums[np.linalg.norm(sums, axis=1) > 0])
    sharpen = power(full.T @ full / len(full) + f["floor"] / dim * one, -f["sharpen"])
    length = np.linalg.norm(sums @ sharpen, axis=1).mean()
    y = query(test)
    z = n((1 - f["detail"]) * (code(y) @ t @ sharpen) / length + f["detail"] * n(y @ keep))
    radius = np.linalg.norm(text - mean_t, axis=1).mean()
    return z, n(radius * z + mean_t)


def vectors(values: Any, modality: str, dim: int = DIM) -> Embeddings:
    tensor = torch.as_tensor(np.asarray(values), dtype=torch.float32)
    return Embeddings(tensor, toy_port(dim, modality), tuple(f"{modality}{i}" for i in range(len(tensor))))


def fitted(text: Embeddings, source: Embeddings, **fields: Any) -> Any:
    ports = {"text": text.port, "source": source.port}
    bridge = build("bridge", {"type": "text_code", **fields}, ports=ports)
    bridge.fit(FitData(text, source), MemoryFitting())  # type: ignore[attr-defined]
    return bridge


@pytest.fixture
def sides() -> tuple[Embeddings, Embeddings, Embeddings]:
    text = toy_embeddings(40, DIM)
    source = toy_embeddings(30, DIM, "image", seed=1)
    test = toy_embeddings(9, DIM, "image", seed=2)
    return text, source, test


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"sparsity": 0.0, "spread": 0.5},
        {"whiten": 0.4, "sharpen": 0.0},
        {"detail": 0.0},
        {"detail": 1.0},
        {"detail_noise": 0.0, "floor": 1.0},
    ],
)
def test_equals_the_formula_with_codes_by_scipy(sides: Any, fields: dict[str, float]) -> None:
    text, source, test = sides
    centred, among_texts = by_hand(*(side.values.double().numpy() for side in sides), **fields)
    for frame, wanted in (("centred", centred), ("text", among_texts)):
        bridge = fitted(text, source, frame=frame, iterations=3000, **fields)
        np.testing.assert_allclose(bridge.cross(test).values.numpy(), wanted, atol=3e-4)


def test_the_default_steps_are_enough(sides: Any) -> None:
    text, source, test = sides
    short, long = (fitted(text, source, iterations=count).cross(test).values for count in (150, 3000))
    assert float((short - long).abs().max()) < 1e-3


def test_neither_order_nor_batch_changes_a_vector(sides: Any) -> None:
    text, source, test = sides
    bridge, small = fitted(text, source), fitted(text, source, codes_at_once=2)
    whole = bridge.cross(test).values
    assert torch.allclose(small.cross(test).values, whole, atol=1e-5)
    assert torch.allclose(bridge.cross(test.select(range(8, -1, -1))).values.flip(0), whole, atol=1e-5)
    assert bridge.cross(test.select([])).values.shape == (0, DIM)


def test_texts_stay_or_are_centred(sides: Any) -> None:
    text, source, _ = sides
    assert torch.equal(fitted(text, source).augment(text).values, text.values)
    centred = fitted(text, source, frame="centred").augment(text).values.double().numpy()
    x = n(text.values.double().numpy())
    np.testing.assert_allclose(centred, n(x - x.mean(0)), atol=1e-5)


def test_saved_and_loaded_it_gives_the_same(sides: Any, tmp_path: Path) -> None:
    text, source, test = sides
    bridge = fitted(text, source, size=25)
    save_component(bridge, tmp_path / "a", {"kind": "bridge", "type": "text_code"})
    again: Any = build("bridge", {"type": "text_code", "size": 25}, ports={"text": text.port, "source": source.port})
    load_component(again, tmp_path / "a")
    assert torch.equal(again.cross(test).values, bridge.cross(test).values)
    assert again.parameter_count() == 3 * DIM * DIM + 2 * DIM + 3 + 25 * DIM
    other: Any = build("bridge", "text_code", ports={"text": toy_port(8), "source": toy_port(8, "image")})
    with pytest.raises(ArtefactError, match="expected \\(atoms, 8\\)"):
        load_component(other, tmp_path / "a")


def test_atoms_are_drawn_by_the_seed(sides: Any) -> None:
    text, source, test = sides
    found = []
    for seed in (0, 0, 1):
        bridge: Any = build(
            "bridge", {"type": "text_code", "size": 10}, ports={"text": text.port, "source": source.port}
        )
        bridge.fit(FitData(text, source), MemoryFitting(seed))
        found.append(bridge.cross(test).values)
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2], atol=1e-2)


class TestBadInput:
    def test_no_source(self, sides: Any) -> None:
        bridge: Any = build("bridge", "text_code")
        with pytest.raises(DataError, match="needs source vectors"):
            bridge.fit(FitData(sides[0]), MemoryFitting())

    def test_a_sparsity_that_leaves_nothing(self, sides: Any) -> None:
        with pytest.raises(DataError, match="at sparsity 50 no training source vector has a code"):
            fitted(sides[0], sides[1], sparsity=50.0)

    def test_nan(self, sides: Any) -> None:
        text, source, _ = sides
        values = text.values.clone()
        values[3, 2] = torch.nan
        with pytest.raises(DataError, match="text3"):
            fitted(Embeddings(values, text.port, text.keys), source)

    def test_fields(self) -> None:
        for field, value in (("detail", 1.5), ("spread", 0), ("floor", 0), ("size", 0)):
            with pytest.raises(ConfigError, match=field):
                build_config("bridge", {"type": "text_code", field: value})


def test_on_real_vectors_it_keeps_more_than_the_gaussian(requires_data: Path) -> None:
    with np.load(requires_data / "embeddings" / "coco500_clip_vitb16.npz") as file:
        image, text = n(file["image"].astype(np.float64)), n(file["text"].astype(np.float64))
    found = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(500)
        fit, test = order[:400], order[400:]
        bridge = fitted(vectors(text[fit], "text", 512), vectors(image[fit], "image", 512))
        x, x_fit = (bridge.cross(vectors(image[rows], "image", 512)).values.double().numpy() for rows in (test, fit))
        z, c = n(x - x_fit.mean(0)), n(text[test] - text[fit].mean(0))
        found.append([(z * c).sum(1).mean(), (np.argmax(z @ c.T, 1) == np.arange(100)).mean()])
    cosine, recall = np.mean(found, 0)
    assert cosine == pytest.approx(0.551, abs=0.003)
    assert recall == pytest.approx(0.652, abs=0.01)
