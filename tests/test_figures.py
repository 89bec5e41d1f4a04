"""Figures: the planes that clouds are seen in, and that every drawing is one and the same again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from modbridge.figures import Curve, draw_clouds, draw_curves, draw_histograms, gap_plane, pca_plane, umap_points


def test_the_gap_lies_along_the_first_axis_and_the_spread_along_the_second() -> None:
    random = torch.Generator().manual_seed(0)
    gap, spread = torch.eye(6)[2] * 3, torch.eye(6)[4] * 5
    noise = torch.randn(2, 400, 6, generator=random) * 0.1
    along = torch.randn(2, 400, 1, generator=random)
    source, text = noise + along * spread
    text = text + gap
    middle, plane = gap_plane(source, text)
    assert torch.allclose(plane.T @ plane, torch.eye(2, dtype=torch.float64), atol=1e-9)
    assert plane[2, 0] > 0.98
    assert plane[4, 1] > 0.98
    ahead, behind = ((text.double() - middle) @ plane)[:, 0].mean(), ((source.double() - middle) @ plane)[:, 0].mean()
    assert torch.isclose(ahead, -behind)
    assert abs(ahead - behind - (text.mean(0) - source.mean(0)).norm()) < 1e-5


def test_a_picture_is_written(tmp_path: Path) -> None:
    cloud = torch.randn(9, 4, generator=torch.Generator().manual_seed(1))
    clouds = {"image": cloud, "text": cloud + 1}
    draw_clouds([("identity", clouds), ("c3", {**clouds, "bridged": cloud})], tmp_path / "clouds.png")
    assert (tmp_path / "clouds.png").read_bytes().startswith(b"\x89PNG")


def _clouds(rows: int = 30) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    image = torch.randn(rows, 8, generator=random)
    return {"image": image, "text": torch.randn(rows, 8, generator=random) + 3}


def test_the_pca_plane_is_scikit_learn_s() -> None:
    from sklearn.decomposition import PCA

    clouds = _clouds()
    middle, plane = pca_plane(*clouds.values())
    both = torch.cat(list(clouds.values())).double()
    pca = PCA(2).fit(both.numpy())
    assert torch.allclose(middle, torch.from_numpy(pca.mean_))
    assert torch.allclose((plane.T @ torch.from_numpy(pca.components_).T).abs(), torch.eye(2).double(), atol=1e-6)
    assert (plane.gather(0, plane.abs().argmax(0, keepdim=True)) > 0).all()  # signs are fixed


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    counts = {"paired": torch.tensor([0, 1, 5, 0]), "unpaired": torch.tensor([2, 8, 2, 0])}
    curve = Curve("centred cos", [0, 100, 200], [0.3, 0.5, 0.4], [0.01, 0.0, 0.02])
    drawings: dict[str, Callable[[Path], None]] = {
        "plane": lambda path: draw_clouds([("a", _clouds())], path),
        "pca": lambda path: draw_clouds([(str(i), _clouds()) for i in range(5)], path, plane=pca_plane),
        "histogram": lambda path: draw_histograms([("a", counts), ("b", counts)], path),
        "curve": lambda path: draw_curves([("a", [curve, Curve("R@1", [0, 100], [0.2, 0.1])])], path, "start_step"),
    }
    for name, draw in drawings.items():
        first, second = tmp_path / f"{name}1.png", tmp_path / f"{name}2.png"
        draw(first)
        draw(second)
        assert first.read_bytes() == second.read_bytes(), name
        assert len(np.unique(np.asarray(Image.open(first).convert("L")))) > 20, f"{name} is empty"


def test_histograms_of_nothing_in_common_and_empty_ones_are_drawn(tmp_path: Path) -> None:
    draw_histograms([("a", {"paired": torch.zeros(4, dtype=torch.int64)})], tmp_path / "none.png")
    assert (tmp_path / "none.png").is_file()


def test_umap_is_one_map_of_all_clouds_and_the_same_again() -> None:
    pytest.importorskip("umap")
    clouds = _clouds()
    panels = [("before", clouds), ("after", {**clouds, "bridged": clouds["image"] + 3})]
    first, second = umap_points(panels), umap_points(panels)
    for (title, points), (again, same) in zip(first, second, strict=True):
        assert title == again
        for name in points:
            assert points[name].shape == (30, 2)
            assert torch.equal(points[name], same[name])
    assert torch.equal(first[0][1]["text"], first[1][1]["text"])
    apart = (first[0][1]["image"].mean(0) - first[0][1]["text"].mean(0)).norm()
    assert apart > (first[1][1]["bridged"].mean(0) - first[1][1]["text"].mean(0)).norm()
