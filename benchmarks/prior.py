"""What the denoisers of the `ddpm` prior cost, side by side in one run: the authors' U-Net against the residual MLP.

    uv run python benchmarks/prior.py                        # vectors drawn from a low-rank normal law
    uv run python benchmarks/prior.py --data DIR --json FILE # the texts of DIR/embeddings/coco500_clip_vitb16.npz
    uv run python benchmarks/prior.py --profile smoke        # toy sizes, seconds

Four tables:
- cost at D = 512: multiply-adds a vector (counted), parameters, training steps a second (loss, gradient, Adam);
- time to a held-out cosine: text vectors that were not learnt from are put at noise level 400, and the estimate of the
  clean vector is compared with the clean one, every 10 steps and off the clock. The goal is `--share` of what the
  closed-form Gaussian of the same training texts reaches, or `--target`; after `--limit` seconds of training a denoiser
  gives up. All learn alike (batches of 64, Adam at a constant 1e-3, SNR weight up to 5). On a CPU the U-Net is a narrow
  one (init_dim 8), and drawn vectors have 64 numbers, since at 512 it hardly gets anywhere in minutes; the full one is
  timed where there is a GPU, at 512;
- bridging: vectors refined in one batch against one by one (5 steps from 600);
- matrix rate: refined vectors a second against what the counted operations would allow at the rate of one large matrix
  product of the same device and precision.

One to three minutes on two cores; on a busy machine set OMP_NUM_THREADS=1, and trust the ratios only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from modbridge_diffusion.ddpm import DDPM
from modbridge_diffusion.ddpm_config import DDPMConfig
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from modbridge.geometry import Statistics, centre
from modbridge.interfaces import BuildContext
from modbridge.noise import Draw
from modbridge.spaces import Embeddings, Port, Space
from modbridge.testing import MemoryFitting

Row = dict[str, Any]
RADIUS = 5.0
LEVEL = 400
WALK: dict[str, Any] = {"start_step": 600, "num_steps": 5}
NOT_MEASURED = "not measured"

PROFILES: dict[str, dict[str, Any]] = {
    "full": {
        "dim": 512, "unet": {}, "mlp": {}, "narrow": {"init_dim": 8}, "batch": 64, "race": {"cpu": 64, "cuda": 512},
        "texts": 4000, "limit": 60.0, "every": 10, "steps": {"unet1d": 3, "residual_mlp": 30},
        "bridged": {"unet1d": 8, "residual_mlp": 256}, "matrix": 2048,
    },
    "smoke": {
        "dim": 32, "unet": {"init_dim": 4, "dim_mults": [1, 2]}, "mlp": {"width": 32, "num_blocks": 1},
        "narrow": {"init_dim": 2, "dim_mults": [1, 2]}, "batch": 16, "race": {"cpu": 16, "cuda": 16},
        "texts": 200, "limit": 0.5, "every": 5, "steps": {"unet1d": 2, "residual_mlp": 2},
        "bridged": {"unet1d": 4, "residual_mlp": 4}, "matrix": 128,
    },
}  # fmt: skip


class Reached(Exception):
    """Training has come as far as was asked, or used up its time."""


class Watched(MemoryFitting):
    """Looks at the network every few steps, with the clock stopped, and ends the fit at `target` or after `limit`
    seconds."""

    def __init__(self, look: Callable[[], float], target: float, limit: float, every: int) -> None:
        super().__init__()
        self.look, self.target, self.limit, self.every = look, target, limit, every
        self.seconds, self.step, self.best = 0.0, 0, 0.0
        self.since = time.perf_counter()

    def checkpoint(self, name: str, state: object, *, force: bool = False) -> None:
        self.step += 1
        if self.step % self.every:
            return
        self.seconds += time.perf_counter() - self.since
        self.best = max(self.best, self.look())
        if self.best >= self.target or self.seconds >= self.limit:
            raise Reached
        self.since = time.perf_counter()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with embeddings/coco500_clip_vitb16.npz")
    parser.add_argument("--target", type=float, help="held-out cosine to be reached")
    parser.add_argument("--share", type=float, default=0.8, help="of the Gaussian's cosine, without --target")
    parser.add_argument("--limit", type=float, metavar="SECONDS", help="of training to the cosine, for each denoiser")
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every number there")
    arguments = parser.parse_args(argv)
    profile = PROFILES[arguments.profile]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    clean, held = texts(arguments.data, profile["race"][device.type], profile["texts"])
    dim = profile["dim"]
    full = {"unet1d": {"type": "unet1d", **profile["unet"]}, "residual_mlp": {"type": "residual_mlp", **profile["mlp"]}}
    priors = {name: build(block, dim, device) for name, block in full.items()}
    for prior in priors.values():  # a last layer at zero would refine everything to nothing
        torch.nn.init.normal_(prior.network.output.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    macs = {name: multiply_adds(prior.network, dim, device) for name, prior in priors.items()}
    found: dict[str, Any] = {
        "machine": machine(device),
        "vectors": f"{len(clean)} to learn from, {len(held)} held out, D = {clean.values.shape[1]}, "
        + ("coco500's texts" if arguments.data else f"drawn from a normal law of rank {min(32, dim)}"),
        "networks": f"cost, bridging and matrix rate at D = {dim}",
        "cost": cost(priors, macs, profile, device),
        "time to cosine": race(clean, held, full, arguments, profile, device),
        "bridging": bridging(priors, profile, device),
        "matrix rate": matrix_rate(priors, macs, profile, device),
    }
    print("\n".join(page(found)))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 0


def texts(folder: Path | None, dim: int, count: int) -> tuple[Embeddings, Embeddings]:
    """Text vectors to learn from and held-out ones, centred on the former and of norm `RADIUS`: coco500's (400 and
    100), or `count` and a quarter of it drawn from a normal law of rank 32 at most."""
    if folder is not None:
        raw = torch.from_numpy(np.load(folder / "embeddings" / "coco500_clip_vitb16.npz")["text"]).double()
        raw = raw[torch.from_numpy(np.random.default_rng(0).permutation(len(raw)))]
        count = 400
    else:
        rank = min(32, dim)
        law = Draw.of([f"axis{i}" for i in range(rank)], 0).normal(dim) * torch.linspace(1, 0.1, rank)[:, None]
        raw = (Draw.of([f"text{i}" for i in range(count + count // 4)], 0).normal(rank) @ law).double()
    vectors = RADIUS * centre(raw, Statistics.of(raw[:count]).mean).float()
    keys = tuple(f"text{i}" for i in range(len(raw)))
    port = Port(space=Space(id="benchmark", dim=raw.shape[1]), modality="text")
    return Embeddings(vectors[:count], port, keys[:count]), Embeddings(vectors[count:], port, keys[count:])


def build(denoiser: Any, dim: int, device: torch.device, **fields: Any) -> DDPM:
    """A prior of this denoiser, not fitted."""
    config = DDPMConfig.model_validate({"type": "ddpm", "denoiser": denoiser, "radius": RADIUS, **fields})
    port = Port(space=Space(id="benchmark", dim=dim), modality="text")
    return DDPM(config, BuildContext(device=device, ports={"text": port}))


def multiply_adds(network: torch.nn.Module, dim: int, device: torch.device) -> int:
    """Of one forward pass of one vector. Attention is counted as the matrix products that it is."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(torch.zeros(1, dim, device=device), torch.tensor([LEVEL], device=device))
    return int(counter.get_total_flops()) // 2


def cost(priors: dict[str, DDPM], macs: dict[str, int], profile: dict[str, Any], device: torch.device) -> list[Row]:
    """Size and training speed."""
    rates = {}
    for name, prior in priors.items():
        x0, draw = items(prior, profile["batch"])
        t = torch.linspace(0, 999, len(x0), device=device).long()
        optimiser = torch.optim.Adam(prior.network.parameters(), lr=1e-5)
        step = partial(train_step, prior, optimiser, x0, t, draw.named("noise").normal(x0.shape[1]))
        rates[name] = 1 / timed(step, profile["steps"][name] * (20 if device.type == "cuda" else 1), device)
    sizes = {name: prior.parameter_count() for name, prior in priors.items()}
    return [
        row("multiply-adds a vector, millions", {n: round(m / 1e6, 3) for n, m in macs.items()}),
        row("parameters, millions", {n: round(s / 1e6, 3) for n, s in sizes.items()}),
        row(f"training steps a second, batches of {profile['batch']}", {n: round(r, 2) for n, r in rates.items()}),
    ]


def train_step(
    prior: DDPM, optimiser: torch.optim.Optimizer, x0: torch.Tensor, t: torch.Tensor, noise: torch.Tensor
) -> None:
    optimiser.zero_grad(set_to_none=True)
    prior.loss(x0, t, noise).backward()  # type: ignore[no-untyped-call]
    optimiser.step()


def race(
    clean: Embeddings,
    held: Embeddings,
    full: dict[str, Any],
    arguments: argparse.Namespace,
    profile: dict[str, Any],
    device: torch.device,
) -> list[Row]:
    """Seconds of training to the held-out cosine."""
    dim = clean.values.shape[1]
    gaussian = build("gaussian", dim, device)
    gaussian.fit(clean, MemoryFitting())
    reference = denoised_cosine(gaussian, held)
    target = arguments.target if arguments.target is not None else arguments.share * reference
    limit = arguments.limit if arguments.limit is not None else profile["limit"]
    entries = {
        "narrow U-Net": {"type": "unet1d", **profile["narrow"]},
        "residual MLP": full["residual_mlp"],
        "full U-Net": full["unet1d"] if device.type == "cuda" else None,
    }
    rows: list[Row] = [{"denoiser": "closed-form Gaussian", "goal": round(target, 4), "cosine": round(reference, 4)}]
    for name, block in entries.items():
        if block is None:
            rows.append({"denoiser": name, "goal": round(target, 4), "seconds": f"{NOT_MEASURED} (no GPU)"})
            continue
        training = {"steps": 10**9, "batch_size": 64, "lr": 1e-3, "lr_decay": "constant", "min_snr_gamma": 5.0}
        prior = build(block, dim, device, **training)
        fitting = Watched(lambda prior=prior: denoised_cosine(prior, held), target, limit, profile["every"])  # type: ignore[misc]
        try:
            prior.fit(clean, fitting)
        except Reached:
            reached = fitting.best >= target
            rows.append(
                {
                    "denoiser": name,
                    "goal": round(target, 4),
                    "cosine": round(fitting.best, 4),
                    "steps": fitting.step,
                    "seconds": round(fitting.seconds, 2) if reached else f"not in {fitting.seconds:.0f}",
                }
            )
    fastest = next(one["seconds"] for one in rows if one["denoiser"] == "residual MLP")
    for one in rows:
        if isinstance(fastest, float) and isinstance(one.get("seconds"), float):
            one["times the MLP's"] = round(one["seconds"] / fastest, 1)
    return rows


def denoised_cosine(prior: DDPM, held: Embeddings) -> float:
    """Mean cosine of the estimate at noise level `LEVEL` with the clean vectors."""
    x0 = held.values.to(prior.device)
    was = prior.network.training
    prior.network.eval()
    with torch.inference_mode():
        draw = Draw.of(held.keys, 0, device=prior.device)
        noisy = prior.diffuse(x0, step=LEVEL, draw=draw)
        noisy = RADIUS * torch.nn.functional.normalize(noisy, dim=1)
        guess = prior.estimate(noisy, torch.tensor([LEVEL], device=prior.device))
    prior.network.train(was)
    return float(torch.cosine_similarity(guess, x0).mean())


def bridging(priors: dict[str, DDPM], profile: dict[str, Any], device: torch.device) -> list[Row]:
    """One batch against one by one, and how far the results lie apart."""
    rows: list[Row] = []
    for name, prior in priors.items():
        count = profile["bridged"][name]
        x, draw = items(prior, count)
        parts = [slice(i, i + 1) for i in range(count)]
        refined(prior, x[:1], draw.select(parts[0]))  # warm
        begun = time.perf_counter()
        apart = torch.cat([refined(prior, x[part], draw.select(part)) for part in parts])
        wait(device)
        single = time.perf_counter() - begun
        together = refined(prior, x, draw)
        begun = time.perf_counter()
        refined(prior, x, draw)
        wait(device)
        batch = time.perf_counter() - begun
        rows.append(
            {
                "denoiser": name,
                "vectors": count,
                "in one batch, vectors a second": round(count / batch, 1),
                "one by one": round(count / single, 1),
                "ratio": round(single / batch, 2),
                "largest difference": float(f"{(together - apart).abs().max():.1e}"),
            }
        )
    return rows


def matrix_rate(
    priors: dict[str, DDPM], macs: dict[str, int], profile: dict[str, Any], device: torch.device
) -> list[Row]:
    """How much of the device's matrix rate refining reaches, in float32 as it runs."""
    size = profile["matrix"] * (4 if device.type == "cuda" else 1)
    a = torch.randn(size, size, device=device)
    rate = size**3 / min(timed(lambda: a @ a, 1, device) for _ in range(5))  # multiply-adds a second, at best
    rows: list[Row] = []
    for name, prior in priors.items():
        count = 4096 if device.type == "cuda" else profile["bridged"][name]
        x, draw = items(prior, count)
        reached = count / min(timed(partial(refined, prior, x, draw), 1, device) for _ in range(2))
        limit = rate / (macs[name] * WALK["num_steps"])
        rows.append(
            {
                "denoiser": name,
                "batch": count,
                "vectors a second": round(reached, 1),
                "limit": round(limit, 1),
                "share": f"{reached / limit:.1%}",
                "matrix product, TFLOP/s": round(2 * rate / 1e12, 3),
            }
        )
    return rows


def items(prior: DDPM, count: int) -> tuple[torch.Tensor, Draw]:
    """Vectors to be refined, and their draw."""
    draw = Draw.of([f"item{i}" for i in range(count)], 0, device=prior.device)
    return RADIUS * torch.nn.functional.normalize(draw.normal(prior.context.dim()), dim=1), draw


def refined(prior: DDPM, x: torch.Tensor, draw: Draw) -> torch.Tensor:
    with torch.inference_mode():
        return prior.refine(x, draw=draw, **WALK)


def timed(function: Callable[[], object], count: int, device: torch.device) -> float:
    """Seconds of one call, after one that does not count."""
    function()
    wait(device)
    begun = time.perf_counter()
    for _ in range(count):
        function()
    wait(device)
    return (time.perf_counter() - begun) / count


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def row(what: str, values: dict[str, float]) -> Row:
    return {"": what, **values, "U-Net / MLP": round(values["unet1d"] / values["residual_mlp"], 3)}


def machine(device: torch.device) -> str:
    """In words, without any host's name."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    return (
        f"{name}, {os.cpu_count()} CPU cores ({torch.get_num_threads()} threads), {platform.machine()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def page(found: dict[str, Any]) -> list[str]:
    lines = [f"Machine: {found['machine']}.", f"Vectors: {found['vectors']}; {found['networks']}.", ""]
    for name, rows in found.items():
        if isinstance(rows, list):
            columns = list(dict.fromkeys(column for one in rows for column in one))
            cells = [[str(one.get(column, "")) for column in columns] for one in rows]
            lines += [
                f"## {name}",
                "",
                *("| " + " | ".join(line) + " |" for line in [columns, ["---"] * len(columns), *cells]),
                "",
            ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
