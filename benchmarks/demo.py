"""The demo's claims over seeds: the table, the probe, and how much more of the gap diffusion closes.

    uv run python benchmarks/demo.py --seeds 0 1 2 --write docs/explanation/demo-results.md

World, start step and augmentation step were chosen with `--seeds 10 11 12 --set data.test.split=validation`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.cli.state import cache_folder
from modbridge.demo import demo_config
from modbridge.demo.probe import probe
from modbridge.plugins.manager import Plugins
from modbridge.stages.report import installed_versions
from modbridge.stages.run import run
from modbridge.store.cache import Cache
from modbridge.tables import Row, markdown, summarise

MARGIN = 0.15


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", dest="sets", action="append", default=[], metavar="A.B=VALUE")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark-demo"))
    parser.add_argument("--cache", help="as for modbridge run")
    parser.add_argument("--write", type=Path, metavar="FILE", help="also write the Markdown there")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    plugins = Plugins.discover()
    rows: list[Row] = []
    seeds: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        begun = time.monotonic()
        sets = [f"seed={seed}", *arguments.sets]
        experiment = load_experiment(demo_config("image"), plugins.registry, sets=sets)
        session = Session(plugins, Cache(cache_folder(arguments.cache)))
        result = run(session, experiment, arguments.out / f"seed{seed}")
        rows += result.runs
        fresh = any(not done.cached for done in session.done)
        seconds = time.monotonic() - begun if fresh else None
        seeds.append(
            {"seed": seed, **judged(result.runs), "probe": probe(session, experiment.first), "seconds": seconds}
        )

    table = summarise(rows, "seed")
    if arguments.json:
        json.dump({"rows": table, "runs": rows, "seeds": seeds}, sys.stdout, indent=1)
        return 0
    text = page(table, seeds, arguments, installed_versions(session))
    print(text)
    if arguments.write:
        arguments.write.write_text(text, encoding="utf-8")
    return 0


def judged(rows: list[Row]) -> dict[str, Any]:
    """What the demo claims of one seed."""
    diffusion = next(r for r in rows if (r["bridge"], r["augment"]) == ("diffusion_bridge", "diffusion"))
    without = [r for r in rows if "diffusion" not in r["augment"] and r["bridge"] in ("identity", "mean_shift")]
    best = max(without, key=lambda row: float(row["gap_closed"]))
    gap = next(r["gap_norm"] for r in rows if r["bridge"] == "identity")
    margin = diffusion["gap_closed"] - best["gap_closed"]
    return {
        "gap_norm": gap,
        "gap_closed": diffusion["gap_closed"],
        "best_without": best["gap_closed"],
        "margin": margin,
    }


def page(table: list[Row], seeds: list[dict[str, Any]], arguments: argparse.Namespace, versions: dict[str, str]) -> str:
    """The results as Markdown, with how to get them again."""
    sets = "".join(f" --set {text}" for text in arguments.sets)
    command = f"uv run python benchmarks/demo.py --seeds {' '.join(map(str, arguments.seeds))}{sets}"
    lines = [
        f"Made by `{command}` on two CPU cores (versions: {', '.join(f'{k} {v}' for k, v in versions.items())}).",
        f"Means over the seeds {', '.join(map(str, arguments.seeds))}, ± standard deviation.",
        "",
        markdown(table),
        "| seed | gap norm | probe: objects | colours | shapes | gap closed, diffusion | best without | more |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for seed in seeds:
        shares = " | ".join(f"{seed['probe'][name]:.3f}" for name in ("objects", "colours", "shapes"))
        lines.append(
            f"| {seed['seed']} | {seed['gap_norm']:.3f} | {shares} | {seed['gap_closed']:.3f} | "
            f"{seed['best_without']:.3f} | {seed['margin']:+.3f} |"
        )
    margins = [seed["margin"] for seed in seeds]
    kept = sum(margin >= MARGIN for margin in margins)
    lines += [
        "",
        f"Diffusion Bridge with diffusion-augmented decoder training closes at least {MARGIN} more of the gap than "
        f"the best row without diffusion on {kept} of {len(seeds)} seeds; on average {fmean(margins):.3f}.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
