"""What benchmarks/detail.py is made of: pairs and their splits, a bridge on a split, and two things that are no bridge
of modbridge: text codes whose weights may be negative, and filters fitted on the test pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.builtin.bridges.text_code import TextCodeBridge
from modbridge.errors import DataError
from modbridge.geometry import Statistics
from modbridge.interfaces import BuildContext, FitData
from modbridge.measures import comparable, exact, fit_mean, gap_row, paired_cosine, recall_at
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings, Port
from modbridge.store.cache import Cache
from modbridge.testing import MemoryFitting, build, build_config, toy_port

Block = dict[str, Any]
COSINE, RECALL = "centred_paired_cosine", "centred_r_at_1"
COCO = Path(__file__).parents[1] / "configs" / "coco500.yaml"
KNOTS = (0, 1, 3, 6, 12, 24, 48, 80, 120, 180, 250, 330, 399)


@dataclass(frozen=True)
class Crossed:
    """A bridge on a split, all float64 unit vectors, bridged ones made comparable with raw texts.

    `x`, `text`: test pairs (N, D); `x_fit`, `text_fit`: the vectors it was fitted on; `x_mean`, `text_mean`: the means
    of these; `row`: `gap_row` of the test pairs.
    """

    x: torch.Tensor
    text: torch.Tensor
    x_fit: torch.Tensor
    text_fit: torch.Tensor
    x_mean: torch.Tensor
    text_mean: torch.Tensor
    row: dict[str, float]


class Pairs:
    """N pairs of vectors, both (N, D)."""

    def __init__(self, source: np.ndarray[Any, Any], text: np.ndarray[Any, Any], plugins: Plugins) -> None:
        self.source, self.text = (torch.from_numpy(side).float() for side in (source, text))
        self.registry = plugins.registry
        self.count, dim = self.text.shape
        self.ports = {"text": toy_port(dim), "source": toy_port(dim, "image")}

    def crossed(
        self,
        block: Block,
        seed: int,
        *,
        fit: int | None = None,
        texts_of: slice | None = None,
        make: Callable[[Block], Any] | None = None,
    ) -> Crossed:
        """A bridge fitted on the first four fifths of a split and tested on the others.

        `fit`: on the first so many of these alone. `texts_of`: which of these give their texts, where they are to be
        others than those that give their images. `make`: makes the bridge in place of `build`.
        """
        order, most = np.random.default_rng(seed).permutation(self.count), self.count * 4 // 5
        sources = order[:most][:fit]
        texts = order[:most][texts_of] if texts_of else sources
        return self._crossed((make or self._built)(block), sources, texts, order[most:])

    def _built(self, block: Block) -> Any:
        return build("bridge", block, ports=self.ports, registry=self.registry)

    def _crossed(self, bridge: Any, source_rows: Any, text_rows: Any, test: Any) -> Crossed:
        needs = bridge.config.needs
        source, text = self._side("source", source_rows), self._side("text", text_rows)
        if "pairs" in needs and not np.array_equal(source_rows, text_rows):
            raise DataError(f"the bridge {bridge.config.type!r} needs pairs, and the texts are of other items")
        pairs = torch.arange(len(text)) if "pairs" in needs else None
        bridge.fit(FitData(text, source if "source" in needs else None, pairs), MemoryFitting())
        text_statistics = Statistics.of(text.values)
        x, x_fit = bridge.cross(self._side("source", test)), bridge.cross(source)
        frame = {"text_mean": text_statistics.mean, "text_radius": text_statistics.radius, "frame": x.port.frame}
        x_mean = fit_mean(x_fit.values, **frame)
        row = gap_row(
            x.values,
            self.text[test],
            bridged_fit_mean=x_mean,
            text_fit_mean=text_statistics.mean,
            text_fit_radius=text_statistics.radius,
            frame=x.port.frame,
        )
        return Crossed(
            x=comparable(x.values, **frame),
            text=exact(self.text[test]),
            x_fit=comparable(x_fit.values, **frame),
            text_fit=exact(text.values),
            x_mean=x_mean,
            text_mean=text_statistics.mean,
            row=row,
        )

    def _side(self, name: str, rows: Any) -> Embeddings:
        port: Port = self.ports[name]
        return Embeddings(getattr(self, name)[rows], port, tuple(map(str, rows)))

    def signed(self, block: Block) -> TextCodeBridge:
        """`Signed` of a block of `text_code`."""
        context = BuildContext(ports=self.ports)
        return Signed(build_config("bridge", block, self.registry), context)


class Signed(TextCodeBridge):
    """The text code without its constraint: a may be negative, and sparsity costs sum |a|. All else is the same.

    With sparsity 0 the code is y A' (A A' + lambda_2 I)^-1, so that the bridge is linear but for its normalisations.
    """

    def _code(self, y: torch.Tensor) -> torch.Tensor:
        atoms, step, config = self._atoms, self._step, self.config
        if config.sparsity == 0:
            inner = atoms @ atoms.T + config.spread * torch.eye(len(atoms))
            found: torch.Tensor = torch.linalg.solve(inner, atoms @ y.T).T
            return found
        wanted = y @ atoms.T
        code = torch.zeros_like(wanted)
        ahead, pace = code, 1.0
        for _ in range(config.iterations):
            new = ahead + step * (wanted - (ahead @ atoms) @ atoms.T - config.spread * ahead)
            new = new.sign() * (new.abs() - step * config.sparsity).clamp_min(0)
            faster = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
            ahead, code, pace = new + (pace - 1) / faster * (new - code), new, faster
        return code


def coco500(folder: Path, plugins: Plugins) -> tuple[Pairs, str]:
    """The pairs of configs/coco500.yaml and the fingerprint of its items."""
    experiment = load_experiment(COCO, plugins.registry, sets=[f"paths.data={folder}"])
    train = experiment.first.config.data.train
    fingerprint = Session(plugins, Cache(Path())).fingerprint(train)[:12]
    return pairs_of(folder / "embeddings" / "coco500_clip_vitb16.npz", ("image", "text"), plugins), fingerprint


def pairs_of(file: Path, names: Sequence[str], plugins: Plugins) -> Pairs:
    """Two arrays of a file; row i of one belongs to row i of the other."""
    with np.load(file) as arrays:
        source, text = (arrays[name] for name in names)
    return Pairs(source, text, plugins)


def axes(vectors: torch.Tensor) -> torch.Tensor:
    """The principal axes (D, D) of centred unit vectors, the one with most variance first."""
    found: torch.Tensor = torch.linalg.eigh(vectors.T @ vectors)[1]
    return found.flip(1)


def effective_rank(vectors: torch.Tensor) -> float:
    """(sum of variances)^2 / sum of their squares, from 1 to the smaller of N and D."""
    values = torch.linalg.svdvals(vectors).square()
    return float(values.sum().square() / values.square().sum())


def best_filters(
    splits: Iterable[tuple[torch.Tensor, torch.Tensor]], weights: Sequence[float], steps: int
) -> list[tuple[float, list[tuple[float, float]]]]:
    """For each weight, (cosine, R@1) on each split of the best smooth gains along text axes, one curve for all splits.

    `splits`: test pairs along the axes of their own training texts, both centred, (N, D). Gains are the exponential of
    a curve between `KNOTS`, found by Adam: the mean over splits of cosine minus the weight times the cross-entropy of
    finding the own text by softmax(20 cosine). They see the test pairs: no bridge does.
    """
    pairs = list(splits)
    dim = pairs[0][0].shape[1]
    knots = [knot for knot in KNOTS if knot < dim - 1] + [dim - 1]
    bends = torch.from_numpy(np.stack([np.interp(np.arange(dim), knots, row) for row in np.eye(len(knots))]))
    found = []
    for weight in weights:
        curve = torch.zeros(len(knots), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.Adam([curve], 0.05)
        for _ in range(steps):
            loss = -sum(_aim(z * (curve @ bends).exp(), t, weight) for z, t in pairs) / len(pairs)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        gains = (curve.detach() @ bends).exp()
        found.append((weight, [_reached(z * gains, t) for z, t in pairs]))
    return found


def _cosines(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.normalize(z, dim=1) @ t.T


def _aim(z: torch.Tensor, t: torch.Tensor, weight: float) -> Any:
    cosines = _cosines(z, t)
    confusion = torch.nn.functional.cross_entropy(20 * cosines, torch.arange(len(cosines)))
    return cosines.diagonal().mean() - weight * confusion


def _reached(z: torch.Tensor, t: torch.Tensor) -> tuple[float, float]:
    return paired_cosine(z, t), recall_at(z, t, (1,))[1]
