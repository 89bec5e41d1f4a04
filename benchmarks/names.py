"""What names do to captions: the captions of two rows of a finished comparison, sorted by which names came through.

    uv run modbridge compare configs/combined/demo.yaml
    uv run python benchmarks/names.py configs/combined/demo.yaml --named diffusion_bridge/raw --seeds 0,1,2,3,4

For every test item of every seed: whether only true names came through into the named row's prompt, a false one among
them, or none; and whether each row's caption has every object right (as `objects_exact` counts). Works on the made-up
worlds, whose items say what is there. What was made is taken from the cache; what was not is made.
"""

from __future__ import annotations

import argparse
from collections import Counter

from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.cli.state import cache_folder
from modbridge.demo.objects import named_objects
from modbridge.plugins.manager import Plugins
from modbridge.stages.generate import generated
from modbridge.store.cache import Cache
from modbridge.talk import Talk

GROUPS = ("only true names", "a false name among them", "none")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("config")
    parser.add_argument("--named", default="diffusion_bridge/raw")
    parser.add_argument("--plain", default="diffusion_bridge/none")
    parser.add_argument("--seeds", default="0,1,2,3,4")
    options = parser.parse_args()
    plugins = Plugins.discover()
    session = Session(plugins, Cache(cache_folder(None)), Talk())
    counts: Counter[tuple[str, str]] = Counter()
    for seed in options.seeds.split(","):
        experiment = load_experiment(options.config, plugins.registry, sets=[f"seed={seed}"])
        cells = {cell.label: cell for cell in experiment.cells}
        sort(session, cells[options.named], cells[options.plain], counts)
    show(counts, options.named, options.plain)
    return 0


def sort(session: Session, named: Cell, plain: Cell, counts: Counter[tuple[str, str]]) -> None:
    """Count one seed's items by group, and in each those that the two rows have right."""
    assert named.config.data.test is not None
    source = session.source(named.config.data.test)
    there = {key: {tuple(pair) for pair in source.facts(row)["objects"]} for row, key in enumerate(source.keys())}
    both = zip(generated(session, named).predictions, generated(session, plain).predictions, strict=True)
    for one, other in both:
        kept = [entity["name"] for entity in one.details["entities"] if entity["kept"]]
        true = [name for name in kept if tuple(name.split()) in there[one.key]]
        group = GROUPS[2] if not kept else GROUPS[0] if len(true) == len(kept) else GROUPS[1]
        counts[group, "items"] += 1
        for row, decoded in (("named", one), ("plain", other)):
            said = named_objects(decoded.text)
            counts[group, row] += bool(said) and said <= there[decoded.key]


def show(counts: Counter[tuple[str, str]], named: str, plain: str) -> None:
    total = sum(counts[group, "items"] for group in GROUPS)
    print(f"| what came through | of {total} items | {named}: all objects right | {plain} |\n|---|---|---|---|")
    for group in GROUPS:
        items = counts[group, "items"]
        shares = " | ".join(f"{counts[group, row] / items:.3f}" if items else "-" for row in ("named", "plain"))
        print(f"| {group} | {items / total:.3f} | {shares} |")


if __name__ == "__main__":
    raise SystemExit(main())
