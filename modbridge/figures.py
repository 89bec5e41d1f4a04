"""Figures: clouds in two dimensions, histograms of cosines, curves. One panel a bridge.

Every figure is an object of its own (no pyplot), and the same data give the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"text": "#00798c", "bridged": "#edae49"}
SOURCE_COLOUR = "#d1495b"
PANEL = (4.2, 3.8)
NEIGHBOURS = 15  # umap-learn's own default

Clouds = Mapping[str, torch.Tensor]
Plane = tuple[torch.Tensor, torch.Tensor]


def gap_plane(source: torch.Tensor, text: torch.Tensor) -> Plane:
    """The plane in which the gap is seen: its middle (D,) and two directions (D, 2), float64.

    The first leads from the mean of the source vectors (N, D) to that of the text vectors (M, D); the second is the
    main direction (PCA) of both clouds, each about its own mean, at right angles to the first.
    """
    source, text = source.double(), text.double()
    means = source.mean(0), text.mean(0)
    across = torch.nn.functional.normalize(means[1] - means[0], dim=0)
    spread = torch.cat([source - means[0], text - means[1]])
    main = _main_directions(spread - (spread @ across)[:, None] * across, 1)
    return (means[0] + means[1]) / 2, torch.cat([across[:, None], main], dim=1)


def pca_plane(source: torch.Tensor, text: torch.Tensor) -> Plane:
    """The mean (D,) of both clouds taken together and their two main directions (D, 2), float64."""
    both = torch.cat([source, text]).double()
    return both.mean(0), _main_directions(both - both.mean(0), 2)


def _main_directions(rows: torch.Tensor, count: int) -> torch.Tensor:
    _, _, directions = torch.linalg.svd(rows, full_matrices=False)
    main: torch.Tensor = directions[:count].T
    # The sign of a singular vector is arbitrary; fixing it makes the picture the same on every machine.
    signs: torch.Tensor = main.gather(0, main.abs().argmax(0, keepdim=True)).sign()
    return main * signs


def draw_clouds(
    panels: Sequence[tuple[str, Clouds]],
    path: Path,
    *,
    plane: Callable[[torch.Tensor, torch.Tensor], Plane] = gap_plane,
    labels: tuple[str, str] = ("along the gap", "main direction beside it"),
) -> None:
    """A PNG with a panel for each (title, clouds), all in the `plane` that the first panel's clouds give.

    Clouds are vectors (N, D) by name: first the source's modality, then "text", then "bridged" if there are any.
    """
    source, text = list(panels[0][1].values())[:2]
    middle, directions = plane(source, text)
    flat = [(title, {n: (c.double() - middle) @ directions for n, c in clouds.items()}) for title, clouds in panels]
    draw_points(flat, path, labels)


def umap_points(panels: Sequence[tuple[str, Clouds]], seed: int = 0) -> list[tuple[str, Clouds]]:
    """The same panels with points (N, 2) instead of vectors (N, D): one UMAP (McInnes et al., 2018; cosine distance,
    15 neighbours, from `seed` and in one thread, so that it is the same again) of all different clouds.

    Raises ImportError where umap-learn is not installed.
    """
    import umap

    every: dict[tuple[int, ...], torch.Tensor] = {}
    for _, clouds in panels:
        for cloud in clouds.values():
            every.setdefault((cloud.data_ptr(), *cloud.shape), cloud)
    rows = torch.cat(list(every.values())).float().numpy()
    reducer = umap.UMAP(
        n_neighbors=min(NEIGHBOURS, len(rows) - 1), metric="cosine", random_state=seed, n_jobs=1,
        init="spectral" if len(rows) > 2 * NEIGHBOURS else "random",
    )  # fmt: skip
    threads = torch.get_num_threads()  # umap-learn sets the process's number, and torch's with it
    points = torch.from_numpy(reducer.fit_transform(rows)).double()
    torch.set_num_threads(threads)
    parts = torch.split(points, [len(cloud) for cloud in every.values()])
    flat = dict(zip(every, parts, strict=True))
    return [(title, {n: flat[(c.data_ptr(), *c.shape)] for n, c in clouds.items()}) for title, clouds in panels]


def draw_points(panels: Sequence[tuple[str, Clouds]], path: Path, labels: tuple[str, str] = ("", "")) -> None:
    """A PNG with a panel for each (title, points (N, 2) by name), all on the same axes."""
    figure, all_axes = make_figure(len(panels))
    for axes, (title, clouds) in zip(all_axes, panels, strict=True):
        for name, points in clouds.items():
            colour = COLOURS.get(name, SOURCE_COLOUR)
            axes.scatter(points[:, 0], points[:, 1], s=9, alpha=0.5, label=name, color=colour, linewidths=0)
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(labels[0])
    all_axes[0].set_ylabel(labels[1])
    # The last panel has every cloud that any has.
    figure.legend(*all_axes[-1].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def draw_histograms(panels: Sequence[tuple[str, Mapping[str, torch.Tensor]]], path: Path) -> None:
    """A PNG with a panel for each (title, counts (bins,) over [-1, 1] by name), as densities."""
    colours = dict(
        zip(("paired", "unpaired", "text, unpaired"), ("#edae49", SOURCE_COLOUR, COLOURS["text"]), strict=True)
    )
    figure, all_axes = make_figure(len(panels), share="x")
    for axes, (title, histograms) in zip(all_axes, panels, strict=True):
        for name, counts in histograms.items():
            density = counts.double() / counts.sum().clamp(min=1) * (len(counts) / 2)
            edges = torch.linspace(-1, 1, len(counts) + 1)
            axes.stairs(density.tolist(), edges.tolist(), fill=True, alpha=0.45, label=name, color=colours.get(name))
        axes.set_title(title, fontsize=11)
        axes.set_xlabel("cosine")
    seen = torch.stack([counts for _, histograms in panels for counts in histograms.values()]).sum(0).nonzero()
    if len(seen):
        bins = len(next(iter(panels[0][1].values())))
        all_axes[0].set_xlim(int(seen.min()) * 2 / bins - 1.02, (int(seen.max()) + 1) * 2 / bins - 0.98)
    all_axes[0].set_ylabel("density")
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


@dataclass(frozen=True)
class Curve:
    """`y` over `x`, and the deviation of each value (or None)."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    spread: Sequence[float] | None = None


def draw_curves(panels: Sequence[tuple[str, Sequence[Curve]]], path: Path, label: str) -> None:
    """A PNG with a panel for each (title, curves), over a field called `label`."""
    palette = ("#00798c", "#d1495b", "#66a182", "#edae49")
    figure, all_axes = make_figure(len(panels))
    for axes, (title, curves) in zip(all_axes, panels, strict=True):
        for curve, colour in zip(curves, palette, strict=False):
            axes.errorbar(
                curve.x, curve.y, yerr=curve.spread, label=curve.name, color=colour, marker="o", ms=4, lw=1.5, capsize=2
            )
        axes.set_title(title, fontsize=11)
        axes.set_xlabel(label)
        axes.grid(alpha=0.25)
    figure.legend(*all_axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    save(figure, path)


def make_figure(count: int, share: str = "both", panel: tuple[float, float] = PANEL) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels side by side, each of `panel` inches, at most four in a row, on common axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 4)
    rows = -(-count // columns)
    figure = Figure(figsize=(panel[0] * columns, panel[1] * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharex=True, sharey=share == "both", squeeze=False).flatten().tolist()
    for spare in grid[count:]:
        spare.remove()
    for axes in grid[:count]:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True)
    return figure, grid[:count]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG that holds nothing of when and by what it was made."""
    figure.savefig(path, metadata={"Software": None})
