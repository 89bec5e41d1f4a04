"""Figures: the clouds of a pipeline in two dimensions, one panel a bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

COLOURS = {"text": "#00798c", "bridged": "#edae49"}
SOURCE_COLOUR = "#d1495b"
PANEL = (4.2, 3.8)

Clouds = Mapping[str, torch.Tensor]


def principal_plane(points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean (D,) and the two main directions (D, 2) of points (N, D): PCA, float64."""
    points = points.double()
    mean = points.mean(0)
    _, _, directions = torch.linalg.svd(points - mean, full_matrices=False)
    # The sign of a singular vector is arbitrary; fixing it makes the picture the same on every machine.
    signs = torch.sign(directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)))
    return mean, (directions[:2] * signs).T


def draw_clouds(panels: Sequence[tuple[str, Clouds]], path: Path) -> None:
    """A PNG with a panel for each (title, clouds), all in one plane: that of the main directions of everything shown.

    Clouds are vectors (N, D) by name: the source's modality, "text", "bridged".
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mean, plane = principal_plane(torch.cat([cloud for _, clouds in panels for cloud in clouds.values()]))
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, clouds) in zip(all_axes, panels, strict=True):
        for name, cloud in clouds.items():
            points = (cloud.double() - mean) @ plane
            colour = COLOURS.get(name, SOURCE_COLOUR)
            axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.5, label=name, color=colour, linewidths=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("first principal direction")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9)
    all_axes[0].set_ylabel("second")
    figure.savefig(path, metadata={"Software": None})
