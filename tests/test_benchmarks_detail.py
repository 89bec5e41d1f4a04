"""benchmarks/detail.py in its smallest form, and the two things in it that modbridge has not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import skew
from sklearn.linear_model import ElasticNet

from modbridge.interfaces import FitData
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
Array = np.ndarray[Any, np.dtype[np.float64]]


@pytest.fixture
def detail(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("detail")


@pytest.fixture
def parts(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("detail_parts")


def n(x: Array) -> Array:
    return np.asarray(x / np.linalg.norm(x, axis=-1, keepdims=True))


def test_hubs_and_gains(detail: Any, requires_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = tmp_path / "found.json"
    given = ["--data", str(requires_data), "--tables", "hubs,gains,splits", "--bridges", "identity", "mean_shift"]
    assert detail.main([*given, "--many", "5", "--json", str(found)]) == 0
    record, shown = json.loads(found.read_text()), capsys.readouterr().out
    assert "e4721c7f214d" in shown

    hubs = {row[0]: row[1:] for row in record["tables"]["hubs"]["rows"]}
    by_hand = np.mean([mean_shift_by_hand(requires_data, seed) for seed in range(5)], axis=0)
    assert hubs["mean_shift"] == pytest.approx(by_hand.tolist(), abs=1e-6)
    # README of the data: R@1 .736 and .462, centred .746.
    assert (hubs["identity"][0], hubs["mean_shift"][0], hubs["identity"][-1]) == pytest.approx((0.736, 0.462, 0.746))
    assert f"| mean_shift | {hubs['mean_shift'][0]:.3f} |" in shown

    texts = record["tables"]["gains"]["rows"][-1]
    assert texts[0] == "the texts"
    assert all(band == pytest.approx([1.0, 1.0]) for band in texts[1:-1])
    splits = {row[0]: row[1:] for row in record["tables"]["splits"]["rows"]}
    assert np.mean(splits["identity"][4]) == pytest.approx(0.746)
    assert splits["identity"][0] == pytest.approx(0.313, abs=1e-3)


def mean_shift_by_hand(folder: Path, seed: int) -> list[float]:
    """A line of the table of hubs in numpy and scipy."""
    with np.load(folder / "embeddings" / "coco500_clip_vitb16.npz") as file:
        image, text = n(file["image"].astype(np.float64)), n(file["text"].astype(np.float64))
    fit, test = np.split(np.random.default_rng(seed).permutation(500), [400])
    mean = text[fit].mean(0)
    shift = mean - image[fit].mean(0)
    x_fit, x, t = n(image[fit] + shift), n(image[test] + shift), text[test]

    def recall(scores: Array) -> float:
        return float((scores.argmax(1) == np.arange(100)).mean())

    votes = [np.bincount(np.argsort(-(x @ t.T), 1)[:, :k].ravel(), minlength=100) for k in (1, 10)]
    away = np.eye(512) - np.outer(n(mean), n(mean))
    return [
        recall(x @ t.T),
        float(skew(votes[1])),
        float(np.corrcoef(votes[0], t @ n(mean))[0, 1]),
        recall(n(x @ away) @ n(t @ away).T),
        recall(2 * x @ t.T - np.sort(x_fit @ t.T, 0)[-10:].mean(0)),
        recall(n(x - x_fit.mean(0)) @ n(t - mean).T),
    ]


@pytest.mark.parametrize("sparsity", [0.0, 0.05])
def test_signed_codes_are_an_elastic_net(parts: Any, sparsity: float) -> None:
    source, text = (np.random.default_rng(seed).normal(size=(30, 16)).astype(np.float32) + 0.3 for seed in (0, 1))
    pairs = parts.Pairs(source, text, Plugins.discover())
    plain = {"whiten": 0.0, "sharpen": 0.0, "detail": 0.0, "frame": "centred", "iterations": 2000}
    bridge = pairs.signed({"type": "text_code", "sparsity": sparsity, "spread": 0.5, **plain})
    keys = tuple(map(str, range(30)))
    images = Embeddings(torch.from_numpy(source), pairs.ports["source"], keys)
    bridge.fit(FitData(Embeddings(torch.from_numpy(text), pairs.ports["text"], keys), images), MemoryFitting())
    found = bridge.cross(images).values.double().numpy()

    v, t = n(source.astype(np.float64)), n(text.astype(np.float64))
    y, atoms = n(v - v.mean(0)), n(t - t.mean(0))
    both = (sparsity + 0.5) / 16  # scikit-learn divides the squares by the number of rows, here the 16 dimensions
    net = ElasticNet(alpha=both, l1_ratio=sparsity / (sparsity + 0.5), fit_intercept=False, tol=1e-10, max_iter=100_000)
    codes = np.stack([net.fit(atoms.T, row).coef_ if sparsity else ridge(atoms, row) for row in y])
    assert (codes < -1e-3).any()
    np.testing.assert_allclose(found, n(codes @ atoms), atol=1e-4)


def ridge(atoms: Array, row: Array) -> Array:
    tall = np.concatenate([atoms.T, np.sqrt(0.5) * np.eye(len(atoms))])
    return np.linalg.lstsq(tall, np.concatenate([row, np.zeros(len(atoms))]))[0]


def test_the_best_filter_undoes_a_smooth_one(parts: Any) -> None:
    text = torch.from_numpy(n(np.random.default_rng(0).normal(size=(60, 20))))
    bent = text * torch.exp(torch.linspace(-1, 1, 20, dtype=torch.float64))
    ((weight, reached),) = parts.best_filters([(bent, text)], [0.0], steps=300)
    assert weight == 0.0
    assert reached[0][0] > 0.999
    assert reached[0][1] == 1.0


def test_an_unknown_table(detail: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        detail.main(["--data", "nowhere", "--tables", "hubs,shoes"])
    assert caught.value.code == 2
    assert "no table shoes; there are hubs, gains" in capsys.readouterr().err
