"""Figures: the clouds of a pipeline in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

COLOURS = {"source": "#d1495b", "text": "#00798c", "bridged": "#edae49"}


def principal_plane(clouds: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Every cloud (N, D) in the plane (N, 2) of the two main directions of all of them together (PCA)."""
    everything = torch.cat(list(clouds.values())).double()
    mean = everything.mean(0)
    _, _, directions = torch.linalg.svd(everything - mean, full_matrices=False)
    # The sign of a singular vector is arbitrary; fixing it makes the picture the same on every machine.
    signs = torch.sign(directions[:2].gather(1, directions[:2].abs().argmax(1, keepdim=True)))
    plane = (directions[:2] * signs).T
    return {name: (cloud.double() - mean) @ plane for name, cloud in clouds.items()}


def draw_clouds(clouds: Mapping[str, torch.Tensor], title: str, path: Path) -> None:
    """A PNG of the clouds. Names: the source's modality, "text", "bridged"."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for name, points in principal_plane(clouds).items():
        colour = COLOURS.get(name, COLOURS["source"])
        axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.55, label=name, color=colour, linewidths=0)
    axes.set_title(title, fontsize=11)
    axes.set_xlabel("first principal direction")
    axes.set_ylabel("second")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Software": None})
