"""What makes bridges lose detail, and what the text code does about it: on 500 real CLIP pairs.

    OMP_NUM_THREADS=1 uv run python benchmarks/detail.py --data DIR
    OMP_NUM_THREADS=1 uv run python benchmarks/detail.py --data DIR --tables hubs,gains --json FILE

DIR is that of configs/coco500.yaml. Prints Markdown tables:
- hubs: how much of a bridge's loss in retrieval is an artefact of hubs, which goes with the mean;
- gains: how much of each direction of the texts a bridge passes, and how much of that is true;
- ablation: the text code without one of its parts, and with weights of both signs;
- partners: 200 texts and 200 images to learn from, of the same items or of others;
- few: the same bridges on fewer items;
- splits: five splits, on which constants were chosen, and more;
- grid: 54 neighbours of the text code's constants (the longest);
- sets: pairs of two other encoders (embeddings/convirt_pairs.npz, videoclip_pairs.npz);
- oracle: what a linear filter along the texts' axes reaches that was fitted on the test pairs.
A split is numpy.random.default_rng(seed).permutation: four fifths to fit on, the rest to test. Figures are means over
splits, behind ± their standard deviation over splits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detail_parts import (
    COSINE,
    RECALL,
    Block,
    Crossed,
    Pairs,
    axes,
    best_filters,
    coco500,
    effective_rank,
    pairs_of,
)

from modbridge.geometry import unit
from modbridge.measures import centred, harmonic_mean, recall_at
from modbridge.neighbours import occurrences, skewness
from modbridge.plugins.manager import Plugins
from modbridge.rendering import Table, markdown

GAUSSIAN = {"type": "diffusion_bridge", "num_steps": 5, "prior": {"type": "ddpm", "denoiser": "gaussian"}}
BRIDGES: dict[str, Block] = {
    "identity": {"type": "identity"},
    "mean_shift": {"type": "mean_shift"},
    "gaussian/200": {**GAUSSIAN, "start_step": 200},
    "memory, centred": {"type": "memory", "centred": True, "temperature": 0.05},
    "ridge (pairs)": {"type": "ridge"},
    "text_code": {"type": "text_code"},
}
PAIRED = ("ridge (pairs)",)
UNPAIRED = ("identity", "gaussian/200", "memory, centred", "text_code")
BANDS = ((0, 4), (4, 16), (16, 64), (64, 150), (150, 300))
GRID = {"sparsity": (0.03, 0.05, 0.07), "spread": (1.0, 2.0, 4.0), "sharpen": (0.15, 0.25, 0.35), "detail": (0.2, 0.3)}
WANTED = (0.55, 0.65)
SETS = {"convirt_pairs": ("a", "b"), "videoclip_pairs": ("a", "b")}
WEIGHTS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0)
NEIGHBOURS = 10

Cells = list[list[Any]]
Made = tuple[str, list[str], Cells, list[str]]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, metavar="DIR")
    parser.add_argument("--tables", default=",".join(TABLES), help="some of them, with commas (default: all)")
    parser.add_argument("--bridges", nargs="+", choices=BRIDGES, default=list(BRIDGES), help="rows of most tables")
    parser.add_argument("--splits", type=int, default=5, help="how many splits (default 5)")
    parser.add_argument("--many", type=int, default=20, help="how many where a table takes more (default 20)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    arguments = parser.parse_args(argv)
    names = arguments.tables.split(",")
    if unknown := [name for name in names if name not in TABLES]:
        parser.error(f"no table {', '.join(unknown)}; there are {', '.join(TABLES)}")

    plugins = Plugins.discover()
    pairs, fingerprint = coco500(arguments.data, plugins)
    print(f"Data fingerprint {fingerprint}; torch {torch.__version__}, {torch.get_num_threads()} threads.\n")
    record: dict[str, Any] = {"data": fingerprint, "splits": arguments.splits, "many": arguments.many, "tables": {}}
    for name in names:
        begun = time.monotonic()
        title, headings, cells, notes = TABLES[name](pairs, arguments)
        seconds = time.monotonic() - begun
        shown = [[told(cell) for cell in line] for line in cells]
        print(markdown(Table(title, headings, shown, [*notes, f"Took {seconds:.0f} s."])), flush=True)
        record["tables"][name] = {"title": title, "headings": headings, "rows": cells, "seconds": seconds}
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def told(value: Any) -> str:
    """A cell: text as it is, a figure, several (a tuple), or one for each split (a list), as mean ± deviation."""
    if isinstance(value, list):
        return f"{np.mean(value):.3f} ± {np.std(value, ddof=1):.3f}" if len(value) > 1 else f"{value[0]:.3f}"
    if isinstance(value, tuple):
        return ", ".join(f"{part:.3f}" for part in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def judged(found: Sequence[Crossed], *, spread: bool = False) -> list[Any]:
    """Centred cosine, centred R@1 and the harmonic mean of the two means."""
    both = [[one.row[name] for one in found] for name in (COSINE, RECALL)]
    means = [float(np.mean(values)) for values in both]
    return [*(both if spread else means), harmonic_mean(*means)]


JUDGED = ["centred cosine", "centred R@1", "harmonic mean"]


def hubs(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells = []
    for name in given.bridges:
        found = [_hubs(pairs.crossed(BRIDGES[name], seed)) for seed in range(given.splits)]
        cells.append([name, *(float(np.mean(column)) for column in zip(*found, strict=True))])
    return (
        f"Artefact or loss ({given.splits} splits)",
        ["bridge", "R@1", f"skewness of N_{NEIGHBOURS}", "hubs are near the mean", "R@1 without the mean's direction",
         "R@1 by CSLS", "centred R@1"],
        cells,
        [
            "R@1 is uncentred. Hubs are near the mean: correlation over texts of how often one is the first answer "
            "with its cosine to the training texts' mean. CSLS takes from each text its mean cosine to the "
            f"{NEIGHBOURS} nearest bridged training vectors."
        ],
    )  # fmt: skip


def _hubs(one: Crossed) -> list[float]:
    votes = occurrences(one.x, one.text, (1, NEIGHBOURS))
    mean = unit(one.text_mean)
    to_mean = one.text @ mean
    x, text = (unit(side - torch.outer(side @ mean, mean)) for side in (one.x, one.text))
    crowded = (one.text @ one.x_fit.T).topk(NEIGHBOURS, dim=1).values.mean(1)
    answers = (2 * one.x @ one.text.T - crowded).argmax(1)
    return [
        one.row["r_at_1"],
        skewness(votes[NEIGHBOURS]),
        float(torch.corrcoef(torch.stack([votes[1], to_mean]))[0, 1]),
        recall_at(x, text, (1,))[1],
        float((answers == torch.arange(len(answers))).double().mean()),
        one.row[RECALL],
    ]


def gains(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells: Cells = []
    for name in given.bridges:
        found = [pairs.crossed(BRIDGES[name], seed) for seed in range(given.splits)]
        cells.append(_gains(name, [_along(one) for one in found]))
        if name in PAIRED:
            cells.append(_gains(f"{name}, of its training pairs", [_along(one, training=True) for one in found]))
    texts = [(t, t) for _, t in (_along(pairs.crossed(BRIDGES["identity"], seed)) for seed in range(given.splits))]
    cells.append(_gains("the texts", texts))
    return (
        f"Gain, and correlation, by band of the texts' principal axes ({given.splits} splits)",
        ["bridge", *(f"axes {first} to {last}" for first, last in BANDS), "effective rank"],
        cells,
        [
            "Of test pairs, centred, of length 1. Gain: the bridged vectors' size along the axes over their texts'. "
            "Correlation: of the two. Effective rank: (sum of variances)^2 / sum of their squares."
        ],
    )


def _along(one: Crossed, *, training: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Bridged vectors and their texts, centred, along the principal axes of the training texts: (N, D) each."""
    basis = axes(centred(one.text_fit, one.text_mean))
    x, text = (one.x_fit, one.text_fit) if training else (one.x, one.text)
    return centred(x, one.x_mean) @ basis, centred(text, one.text_mean) @ basis


def _gains(name: str, found: list[tuple[torch.Tensor, torch.Tensor]]) -> list[Any]:
    line: list[Any] = [name]
    for i, j in BANDS:
        aa, tt, at = (
            float(np.mean([float((pair[p] * pair[q])[:, i:j].sum(1).mean()) for pair in found]))
            for p, q in ((0, 0), (1, 1), (0, 1))
        )
        line.append(((aa / tt) ** 0.5, at / (aa * tt) ** 0.5))
    return [*line, float(np.mean([effective_rank(a) for a, _ in found]))]


def ablation(pairs: Pairs, given: argparse.Namespace) -> Made:
    code = BRIDGES["text_code"]
    rows: list[tuple[str, Block, Callable[[Block], Any] | None]] = [
        ("text_code", code, None),
        ("without detail (`detail: 0`)", {**code, "detail": 0.0}, None),
        ("without sharpening (`sharpen: 0`)", {**code, "sharpen": 0.0}, None),
        ("without both: the sums alone", {**code, "sharpen": 0.0, "detail": 0.0}, None),
        ("without whitening (`whiten: 0`)", {**code, "whiten": 0.0}, None),
        ("without sparsity (`sparsity: 0`)", {**code, "sparsity": 0.0}, None),
        *((f"signed, {SIGNED[s]}, `spread: {r:g}`", {**code, "sparsity": s, "spread": r}, pairs.signed)
          for s in SIGNED for r in (2.0, 5.0, 10.0)),
    ]  # fmt: skip
    cells = [
        [name, *judged([pairs.crossed(block, seed, make=make) for seed in range(given.splits)])]
        for name, block, make in rows
    ]
    notes = [
        "Signed: the constraint a >= 0 is dropped and the rest kept. Its code is then linear in y without sparsity (a "
        "ridge regression on the atoms), and soft-thresholded with it."
    ]
    return f"The text code without one of its parts ({given.splits} splits)", ["bridge", *JUDGED], cells, notes


SIGNED = {0.05: "sparsity 0.05", 0.0: "linear"}


def partners(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells = []
    for name in (name for name in given.bridges if name in UNPAIRED):
        for label, others in (("of the same items", None), ("of other items", slice(200, 400))):
            found = [pairs.crossed(BRIDGES[name], seed, fit=200, texts_of=others) for seed in range(given.many)]
            cells.append([name, label, *judged(found, spread=True)])
    title = f"200 images and 200 texts to learn from ({given.many} splits)"
    return title, ["bridge", "texts", *JUDGED], cells, []


def few(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells = []
    for name in (name for name in given.bridges if name in UNPAIRED):
        line: list[Any] = [name]
        for fit in FEW:
            cosine, recall, _ = judged([pairs.crossed(BRIDGES[name], seed, fit=fit) for seed in range(given.many)])
            line.append((cosine, recall))
        cells.append(line)
    title = f"Few items to learn from ({given.many} splits): centred cosine, centred R@1"
    return title, ["bridge", *map(str, FEW)], cells, []


FEW = (80, 120, 200, 400)


def splits(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells: Cells = []
    for name in given.bridges:
        found = [pairs.crossed(BRIDGES[name], seed) for seed in range(given.many)]
        cells.append([name, *judged(found[: given.splits]), *judged(found, spread=True)])
    headings = [f"{name}, {count}" for count in (given.splits, given.many) for name in JUDGED]
    return f"{given.splits} splits, and {given.many}", ["bridge", *headings], cells, []


def grid(pairs: Pairs, given: argparse.Namespace) -> Made:
    tried = [dict(zip(GRID, values, strict=True)) for values in product(*GRID.values())]
    found = []  # constants, splits, (cosine, R@1)
    for fields in tried:
        rows = [pairs.crossed({"type": "text_code", **fields}, seed).row for seed in range(given.splits)]
        found.append([[row[COSINE], row[RECALL]] for row in rows])
    every = np.array(found)
    means = every.mean(1)
    harmonic = [harmonic_mean(*mean) for mean in means.tolist()]
    cells: Cells = [
        ["lowest", *means.min(0).tolist(), min(harmonic)],
        ["highest", *means.max(0).tolist(), max(harmonic)],
    ]
    reached = means >= np.array(WANTED) - 1e-9
    for fields, mean, value, both in zip(tried, means.tolist(), harmonic, reached.all(1), strict=True):
        if both:
            cells.append([_named(fields), *mean, value])
    notes = [
        f"{reached[:, 0].sum()} of {len(tried)} reach a cosine of {WANTED[0]:g}, {reached[:, 1].sum()} an R@1 of "
        f"{WANTED[1]:g}, {reached.all(1).sum()} both; these have lines of their own."
    ]
    if given.splits > 2:
        best = max(range(len(tried)), key=lambda i: harmonic_mean(*every[i, :2].mean(0).tolist()))
        for label, chosen in (("chosen on splits 0 and 1", tried[best]), ("the default", DEFAULT)):
            rest = every[tried.index(chosen), 2:].mean(0).tolist()
            cells.append([f"{label} ({_named(chosen)}), on the other splits", *rest, harmonic_mean(*rest)])
        notes[0] += " Chosen by the harmonic mean."
    title = f"{len(tried)} neighbours of the text code's constants ({given.splits} splits)"
    return title, ["constants", *JUDGED], cells, notes


DEFAULT = {"sparsity": 0.05, "spread": 2.0, "sharpen": 0.25, "detail": 0.3}


def _named(fields: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in fields.items())


def sets(pairs: Pairs, given: argparse.Namespace) -> Made:
    cells = []
    for file, arrays in SETS.items():
        other = pairs_of(given.data / "embeddings" / f"{file}.npz", arrays, Plugins.discover())
        for name in (name for name in given.bridges if name in UNPAIRED):
            found = [other.crossed(BRIDGES[name], seed) for seed in range(given.many)]
            cells.append([file, name, *judged(found, spread=True)])
    return f"Pairs of other encoders ({given.many} splits)", ["pairs", "bridge", *JUDGED], cells, []


def oracle(pairs: Pairs, given: argparse.Namespace) -> Made:
    found = [pairs.crossed(BRIDGES["identity"], seed) for seed in range(given.splits)]
    along = [_along(one) for one in found]
    cells = []
    for weight, reached in best_filters(along, WEIGHTS, steps=250):
        means = np.mean(reached, axis=0).tolist()
        cells.append([f"{weight:g}", *means, harmonic_mean(*means)])
    notes = ["Weight: of finding the own text, against cosine, in what the filter was fitted to."]
    return f"Linear filters fitted on the test pairs ({given.splits} splits)", ["weight", *JUDGED], cells, notes


TABLES: dict[str, Callable[[Pairs, argparse.Namespace], Made]] = {
    "hubs": hubs, "gains": gains, "ablation": ablation, "partners": partners, "few": few, "splits": splits,
    "grid": grid, "sets": sets, "oracle": oracle,
}  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
