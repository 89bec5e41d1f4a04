"""The leaderboards: every bridge is in them, they hold, and on real vectors known answers come out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modbridge.assembly.experiment import Experiment, load_experiment
from modbridge.config.kinds import BridgeConfig
from modbridge.plugins.manager import Plugins

ZOO = Path(__file__).parents[1] / "configs" / "zoo"

# The known answers of these vectors, from elsewhere (numpy): uncentred cosine, gap norm and R@1; centred R@1.
KNOWN = {
    "identity": (0.310, 0.856, 0.736),
    "mean_shift": (0.671, 0.095, 0.462),
    "procrustes": (0.696, 0.089, 0.366),
    "ridge": (0.797, 0.158, 0.248),
    "memory": (0.794, 0.135, 0.280),
}
CENTRED = {"identity": 0.746, "mean_shift": 0.742, "procrustes": 0.474}


def bridges(experiment: Experiment) -> set[str]:
    """The words of all bridges of a config, those in chains too."""
    found: set[str] = set()

    def walk(config: Any) -> None:
        found.add(config.type)
        for _, _, part in config.each_part():
            if isinstance(part, BridgeConfig):
                walk(part)

    for cell in experiment.cells:
        walk(cell.config.bridge)
        walk(cell.config.augmenter)
    return found


@pytest.mark.parametrize("name", ["coco500", "demo"])
def test_every_bridge_is_in_it(name: str) -> None:
    registry = Plugins.discover(environ={}).registry
    experiment = load_experiment(ZOO / f"{name}.yaml", registry)
    assert not experiment.misfits
    # Diffusion-Link is compared in configs/diffusion_link/, with its ablations, on the same vectors; soft_context takes
    # sequences on their way, and no vectors across the gap.
    assert set(registry.names("bridge")) - {"diffusion_link", "soft_context"} <= bridges(experiment)


def test_the_known_answers_come_out(call: Callable[..., Any], requires_data: Path) -> None:
    rows = [word for name in KNOWN for word in ("--rows", name)]
    data = f"paths.data={requires_data}"
    found = call("compare", ZOO / "coco500.yaml", "--set", data, *rows, "--no-cost", "--json", toy=False)
    assert found.code == 0, found.err
    table = {row["row"]: row for row in found.json["rows"]}
    assert set(table) == set(KNOWN)
    for name, (cosine, norm, recall) in KNOWN.items():
        row = table[name]
        assert row["paired_cosine"] == pytest.approx(cosine, abs=0.003)
        assert row["gap_norm"] == pytest.approx(norm, abs=0.003)
        # Each of the 500 test items is .002; directions that 400 pairs leave open move a few.
        assert row["r_at_1"] == pytest.approx(recall, abs=0.006)
    for name, recall in CENTRED.items():
        assert table[name]["centred_r_at_1"] == pytest.approx(recall, abs=0.006)
    assert found.json["seeds"] == [0, 1, 2, 3, 4]
    assert "the pairs determine the rotation in" in found.err


def test_a_corner_of_the_demo_runs_small(call: Callable[..., Any]) -> None:
    found = call(
        "compare", ZOO / "demo.yaml", "--profile", "smoke", "--seeds", "0,", "--rows", "c3/none",
        "--rows", "ridge/none", "--rows", "standardise_to_source+capdec/own", "--rows", "oracle/none", "--json",
        "--set", "compare.resamples=300", toy=False,
    )  # fmt: skip
    assert found.code == 0, found.err
    table = {row["row"]: row for row in found.json["rows"]}
    assert set(table) == {"identity/none", "c3/none", "ridge/none", "standardise_to_source+capdec/own", "oracle/none"}
    assert table["identity/none"]["baseline"]
    assert table["ridge/none"]["group"] == "text + source + pairs"
    assert table["standardise_to_source+capdec/own"]["augment"] == "noise"
    assert table["oracle/none"]["group"] == "true texts"
