"""Bridging: many vectors refined in one batch against one after another, and against the device's matrix rate.

The denoisers are those of `benchmarks/prior.py`, at its sizes (D = 512) and its walk: five steps from 600.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from prior import PROFILES, WALK, build, items, multiply_adds, refined

from speed.measure import Row, fastest

NAMES = ("bridging-unet", "bridging-mlp", "bridging-mlp-against-unet", "bridging-matrix-rate")
CPU = torch.device("cpu")


def rows(full: bool) -> Iterator[Row]:
    """256 vectors in one batch, and so many of them one by one as give a rate: the U-Net takes seconds for a few."""
    profile = PROFILES["full" if full else "smoke"]
    count, rounds = (256, 3) if full else (16, 2)
    alone = {"unet1d": 4, "residual_mlp": 32} if full else {"unet1d": 2, "residual_mlp": 8}
    at_once = {"unet1d": count if full else 4, "residual_mlp": count}
    priors = {}
    for name, field in (("unet1d", "unet"), ("residual_mlp", "mlp")):
        priors[name] = build({"type": name, **profile[field]}, profile["dim"], CPU)
        last: Any = priors[name].network.output
        torch.nn.init.normal_(last.weight, std=0.1)  # at zero it would refine to nothing

    def together(name: str) -> Any:
        x, draw = items(priors[name], at_once[name])
        return lambda: refined(priors[name], x, draw)

    def apart(name: str) -> Any:
        x, draw = items(priors[name], alone[name])
        parts = [slice(i, i + 1) for i in range(alone[name])]
        return lambda: [refined(priors[name], x[part], draw.select(part)) for part in parts]

    size = profile["matrix"]
    a = torch.randn(size, size)
    ways = {f"{name} together": together(name) for name in priors}
    ways |= {f"{name} apart": apart(name) for name in priors}
    seconds = fastest({**ways, "matrix": lambda: a @ a}, rounds)
    rate = {f"{name} together": at_once[name] / seconds[f"{name} together"] for name in priors}
    rate |= {f"{name} apart": alone[name] / seconds[f"{name} apart"] for name in priors}
    flops = 2 * size**3 / seconds["matrix"]
    macs = {name: multiply_adds(prior.network, profile["dim"], CPU) for name, prior in priors.items()}
    most = {name: flops / (2 * macs[name] * WALK["num_steps"]) for name in priors}
    told = {"matrix GFLOP/s": round(flops / 1e9, 1), "millions of multiply-adds a vector and step": {
        name: round(each / 1e6, 3) for name, each in macs.items()
    }}  # fmt: skip

    def row(label: str, way: str, other: str, goal: float) -> Row:
        words = {"together": "in one batch", "apart": "one by one"}
        name = {"unet1d": "U-Net", "residual_mlp": "residual MLP"}

        def of(which: str) -> str:
            kind, how = which.split()
            return f"{name[kind]}, {words[how]}" + (f" of {at_once[kind]}" if how == "together" else "")

        kind = way.split()[0]
        limit = f"at the matrix rate {most[kind]:,.0f} vectors/s; reached {rate[way] / most[kind]:.0%}"
        return Row(
            name=label, unit="vectors", rate=rate[way], rate_of=of(way), other=rate[other], other_of=of(other),
            goal=goal, rounds=rounds, limit=limit,
        )  # fmt: skip

    yield row("bridging-unet", "unet1d together", "unet1d apart", 1.5)
    yield row("bridging-mlp", "residual_mlp together", "residual_mlp apart", 5.0)
    yield row("bridging-mlp-against-unet", "residual_mlp together", "unet1d apart", 100.0)
    yield Row(
        name="bridging-matrix-rate", unit="vectors", rate=rate["residual_mlp together"],
        rate_of=f"residual MLP, in one batch of {count}", other=most["residual_mlp"],
        other_of=f"its operations at the rate of one {size} x {size} matrix product", goal=None, rounds=rounds,
        more=told,
    )  # fmt: skip
