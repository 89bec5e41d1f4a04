"""The plane of the gap."""

from __future__ import annotations

from pathlib import Path

import torch

from modbridge.figures import draw_clouds, gap_plane


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
