"""Figures: the clouds of a pipeline in two dimensions, one panel a bridge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

COLOURS = {"text": "#00798c", "bridged": "#edae49"}
SOURCE_COLOUR = "#d1495b"
PANEL = (4.2, 3.8)

Clouds = Mapping[str, torch.Tensor]


def gap_plane(source: torch.Tensor, text: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The plane in which the gap is seen: its middle (D,) and two directions (D, 2), float64.

    The first leads from the mean of the source vectors (N, D) to that of the text vectors (M, D); the second is the
    main direction (PCA) of both clouds, each about its own mean, at right angles to the first.
    """
    source, text = source.double(), text.double()
    means = source.mean(0), text.mean(0)
    across = torch.nn.functional.normalize(means[1] - means[0], dim=0)
    spread = torch.cat([source - means[0], text - means[1]])
    _, _, directions = torch.linalg.svd(spread - (spread @ across)[:, None] * across, full_matrices=False)
    main = directions[0]
    # The sign of a singular vector is arbitrary; fixing it makes the picture the same on every machine.
    return (means[0] + means[1]) / 2, torch.stack([across, main * torch.sign(main[main.abs().argmax()])], dim=1)


def draw_clouds(panels: Sequence[tuple[str, Clouds]], path: Path) -> None:
    """A PNG with a panel for each (title, clouds), all in the plane of the gap that the first panel's clouds show.

    Clouds are vectors (N, D) by name: first the source's modality, then "text", then "bridged" if there are any.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    source, text = list(panels[0][1].values())[:2]
    middle, plane = gap_plane(source, text)
    figure = Figure(figsize=(PANEL[0] * len(panels), PANEL[1]), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, clouds) in zip(all_axes, panels, strict=True):
        for name, cloud in clouds.items():
            points = (cloud.double() - middle) @ plane
            colour = COLOURS.get(name, SOURCE_COLOUR)
            axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.5, label=name, color=colour, linewidths=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("along the gap")
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0].set_ylabel("main direction beside it")
    # The last panel has every cloud that any has.
    figure.legend(*all_axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path, metadata={"Software": None})
