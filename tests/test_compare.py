"""modbridge compare: one table of a matrix, with seeds, intervals, tests, ranks, needs and what failed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

QUICK = ("--no-cost", "--set", "compare.resamples=500")


def rows_of(found: Any) -> dict[str, dict[str, Any]]:
    return {row["row"]: row for row in found.json["rows"]}


def strip(rows: Any) -> Any:
    """Rows without what differs from call to call."""
    timed = ("items_per_second", "item_seconds")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


class TestTable:
    def test_means_over_seeds_are_those_of_runs(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--vary", "bridge.type=identity,mean_shift", "--seeds", 3, "--json", *QUICK)
        assert found.code == 0, found.err
        rows = rows_of(found)
        assert set(rows) == {"type=identity", "type=mean_shift"}
        for bridge in ("identity", "mean_shift"):
            alone = call("run", world, "--set", f"bridge={bridge}", "--vary", "seed=0,1,2", "--json").json["runs"]
            row = rows[f"type={bridge}"]
            for column in ("cider", "bleu_1", "centred_paired_cosine", "r_at_1"):
                assert row[column] == pytest.approx(fmean(run[column] for run in alone))
            assert row["seeds"] == [0, 1, 2]
            assert row["cider_low"] <= row["cider"] <= row["cider_high"]
            assert row["n"] == 9
        assert rows["type=identity"]["baseline"]
        assert "cider_p" not in rows["type=identity"]
        shifted = rows["type=mean_shift"]
        assert shifted["cider_difference"] == pytest.approx(shifted["cider"] - rows["type=identity"]["cider"])
        assert 0 < shifted["cider_p"] <= 1

    def test_an_interval_over_items_of_one_seed_is_the_plain_bootstrap(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--set", "bridge=identity", "--json", "--set", "compare.resamples=4000")
        (row,) = found.json["rows"]
        (arrays,) = [load_file(path) for path in Path("cache/gap").glob("*/arrays.safetensors")]
        items = arrays["items/paired_cosine"]
        rng = np.random.default_rng(0)
        means = items[rng.integers(0, len(items), (20000, len(items)))].mean(1)
        low, high = np.quantile(means, [0.025, 0.975])
        spread = items.std() / len(items) ** 0.5
        assert row["paired_cosine"] == pytest.approx(items.mean())
        assert row["paired_cosine_low"] == pytest.approx(low, abs=0.15 * spread)
        assert row["paired_cosine_high"] == pytest.approx(high, abs=0.15 * spread)
        assert low + 0.5 * spread < items.mean() < high - 0.5 * spread

    def test_rows_are_ranked_within_equal_needs(self, call: Any, world: Path) -> None:
        vary = "bridge=identity,mean_shift,capdec,{type: standardise}"
        found = call("compare", world, "--vary", vary, "--rank-by", "paired_cosine", "--json", *QUICK)
        assert found.code == 0, found.err
        rows = found.json["rows"]
        groups = [row["group"] for row in rows]
        assert groups == ["text", "text", "text + source", "text + source"]
        for group in set(groups):
            own = [row for row in rows if row["group"] == group]
            first, second = (row["paired_cosine"] for row in own)
            equal = first == pytest.approx(second, abs=1e-6)
            assert [row["rank"] for row in own] == [1, 1 if equal else 2]
            assert equal or first > second
        assert [row["rank"] for row in rows[:2]] == [1, 1]  # CapDec leaves vectors as they are, as identity does
        assert [row["rank"] for row in rows[2:]] == [1, 2]

    def test_a_measure_where_less_is_better_ranks_upwards(self, call: Any, world: Path) -> None:
        found = call(
            "compare", world, "--vary", "bridge.type=identity,capdec", "--rank-by", "gap_norm", "--json", *QUICK
        )
        norms = [row["gap_norm"] for row in found.json["rows"]]
        assert norms == sorted(norms)

    def test_grids_and_named_rows(self, call: Any, world: Path) -> None:
        grid = (
            "\ngrid:\n  bridge: {none: identity, shift: mean_shift}\n  augment: {plain: identity, noise: capdec}\n"
            "variants: {oracle: {bridge: identity, evaluate: {input: text}}}\n"
        )
        world.write_text(world.read_text() + grid)
        found = call("compare", world, "--json", "--baseline", "shift/plain", *QUICK)
        rows = rows_of(found)
        assert set(rows) == {"oracle", "none/plain", "none/noise", "shift/plain", "shift/noise"}
        assert rows["shift/plain"]["baseline"]
        assert found.json["rows"][-1]["row"] == "oracle"
        assert rows["oracle"]["group"] == "true texts"
        assert rows["none/noise"]["augment"] == "noise"
        few = call("compare", world, "--json", "--rows", "shift/*", "--rows", "oracle", *QUICK)
        assert {row["row"] for row in few.json["rows"]} == {"oracle", "shift/plain", "shift/noise"}

    def test_the_config_says_how_it_judges(self, call: Any, world: Path) -> None:
        world.write_text(world.read_text() + "\ncompare: {seeds: [4, 7], rank_by: bleu_1, level: 0.9, cost: false}\n")
        found = call("compare", world, "--json", "--set", "compare.resamples=300")
        (row,) = found.json["rows"]
        assert row["seeds"] == [4, 7]
        assert found.json["rank_by"] == "bleu_1"
        assert "parameters" not in row
        assert call("compare", world, "--seeds", "3,", "--json", *QUICK).json["rows"][0]["seeds"] == [3]

    def test_costs_are_counted(self, call: Any, world: Path) -> None:
        (row,) = call("compare", world, "--json", "--set", "compare.resamples=300").json["rows"]
        assert row["parameters"] == 2 * 8 + 1  # two means and a radius
        assert row["macs"] == 0
        assert row["items_per_second"] > 0
        assert row["peak_bytes"] > 0

    def test_rounding_makes_no_difference(self, call: Any, world: Path) -> None:
        # In theory the rows are equal; vectors are float32.
        found = call(
            "compare", world, "--vary", "bridge=identity,capdec,[capdec, capdec]", "--seeds", 2, "--json", *QUICK
        )
        for row in found.json["rows"]:
            assert row["rank"] == 1 or row["cider"] != found.json["rows"][0]["cider"]
            if not row.get("baseline"):
                assert abs(row["centred_paired_cosine_difference"]) < 1e-6
                assert row["centred_paired_cosine_p"] == 1

    def test_the_ceiling_is_called_so_and_costs_nothing(self, call: Any, world: Path) -> None:
        world.write_text(
            world.read_text() + "\nvariants: {a: {}, oracle: {bridge: identity, evaluate: {input: text}}}\n"
        )
        rows = rows_of(call("compare", world, "--json", "--set", "compare.resamples=300"))
        assert rows["oracle"]["bridge"] == "oracle"
        assert "parameters" in rows["a"]
        assert "parameters" not in rows["oracle"]

    def test_varied_numbers_are_no_measures(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--vary", "decoder.steps=10,20", "--seeds", 2, "--json", *QUICK)
        assert [row["decoder.steps"] for row in found.json["rows"]] in ([10, 20], [20, 10])
        assert all(isinstance(row["decoder.steps"], int) for row in found.json["rows"])
        assert not any(name.startswith("decoder.steps_") for row in found.json["rows"] for name in row)


def opposite(folder: Path) -> Path:
    """A world in which the second caption of an item speaks of another colour."""
    draw = json.loads
    for name in ("world0", "world24"):
        path = folder / "world" / f"{name}.jsonl"
        lines = [draw(line) for line in path.read_text().splitlines()]
        colours = ["red", "green", "blue"]
        for line in lines:
            own = next(c for c in colours if c in line["captions"][0])
            line["captions"][1] = f"it is all {colours[(colours.index(own) + 1) % 3]}"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder / "toy.yaml"


def test_moved_texts_are_those_of_the_caption_that_is_asked_for(call: Any, world: Path, tmp_path: Path) -> None:
    config = opposite(tmp_path)
    bridge = "bridge={type: mean_shift, direction: to_source}"
    both = call("compare", config, "--set", bridge, "--vary", "evaluate.caption=0,1", "--json", *QUICK)
    alone = call("compare", config, "--set", bridge, "--set", "evaluate.caption=1", "--cache", "new", "--json", *QUICK)
    rows = rows_of(both)
    assert rows["caption=0"]["paired_cosine"] > rows["caption=1"]["paired_cosine"] + 0.1
    assert rows["caption=1"]["paired_cosine"] == pytest.approx(alone.json["rows"][0]["paired_cosine"], abs=1e-9)


class TestSeedsAndRows:
    def test_a_seed_axis_may_stand_anywhere(self, call: Any, world: Path, tmp_path: Path) -> None:
        other = tmp_path / "more"
        other.symlink_to(tmp_path / "world")
        vary = f"paths.data={tmp_path / 'world'},{other}"
        found = call("compare", world, "--vary", "seed=0,1", "--vary", vary, "--json", *QUICK)
        assert [row["seeds"] for row in found.json["rows"]] == [[0, 1], [0, 1]]
        assert len(found.json["rows"]) == 2

    def test_the_baseline_comes_along(self, call: Any, world: Path) -> None:
        vary = ("--vary", "bridge.type=identity,mean_shift,capdec")
        named = ("--baseline", "type=capdec", "--rows", "type=mean_shift")
        rows = rows_of(call("compare", world, *vary, *named, "--json", *QUICK))
        assert set(rows) == {"type=capdec", "type=mean_shift"}
        assert rows["type=capdec"]["baseline"]

    def test_the_plain_row_is_the_baseline_where_none_is_named(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--vary", "bridge.type=mean_shift,capdec,identity", "--json", *QUICK)
        assert found.json["baseline"] == "type=identity"

    def test_items_of_two_worlds_are_not_taken_for_the_same(self, call: Any, world: Path, tmp_path: Path) -> None:
        # The same keys in another world, in which every caption is wrong: nothing is common, so nothing is tested.
        other = tmp_path / "other"
        shutil.copytree(tmp_path / "world", other / "world")
        shutil.copy(world, other / "toy.yaml")
        opposite(other)
        vary = f"paths.data={tmp_path / 'world'},{other / 'world'}"
        found = call("compare", world, "--set", "evaluate.caption=1", "--vary", vary, "--json", *QUICK)
        (row,) = [row for row in found.json["rows"] if not row.get("baseline")]
        assert "paired_cosine_p" not in row

    def test_missing_seeds_are_told_and_take_the_rank(self, call: Any, world: Path, tmp_path: Path) -> None:
        plugin = tmp_path / "fussy.py"
        plugin.write_text(FUSSY)
        found = call(
            "compare", world, "--plugin", plugin, "--vary", "bridge.type=identity,fussy", "--seeds", 3, "--json", *QUICK
        )
        assert found.code == 3
        rows = rows_of(found)
        assert rows["type=fussy"]["seeds"] == [0]
        assert rows["type=fussy"]["rank"] is None
        assert rows["type=fussy"]["cider"] > 0
        assert rows["type=fussy"]["failed"].startswith("2 of 3 seeds failed: ")
        assert "type=fussy (seeds missing)" in Path("runs/toy-compare/table.md").read_text()

    def test_rows_that_do_not_fit_can_be_asked_for(self, call: Any, world: Path) -> None:
        arguments = ("compare", world, "--set", "augment=identity", "--vary", "bridge.type=identity,c3", *QUICK)
        found = call(*arguments, "--rows", "type=c3")
        assert found.code == 1
        assert "centred vectors where raw ones are expected" in found.err

    def test_notes_of_a_fit_stand_under_the_table(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--set", "bridge=coral", *QUICK)
        assert found.code == 0, found.err
        assert "covariances drawn to the identity by" in found.out


FUSSY = """
from modbridge.config.kinds import BridgeConfig
from modbridge.interfaces import Bridge
from modbridge.plugins import ComponentSpec, hookimpl

class FussyConfig(BridgeConfig):
    pass

class Fussy(Bridge):
    def fit(self, data, fitting):
        if fitting.seed:
            raise RuntimeError("only seed 0")
    def cross_vectors(self, x, draw):
        return x

@hookimpl
def modbridge_components(register):
    register(ComponentSpec(kind="bridge", name="fussy", config="modbridge_file_fussy:FussyConfig",
                           impl="modbridge_file_fussy:Fussy", summary="fussy"))
"""


class TestUnpaired:
    def test_source_vectors_come_from_elsewhere(self, call: Any, world: Path) -> None:
        data = "data.unpaired={type: folder, path: world/images}"
        found = call("compare", world, "--set", data, "--vary", "bridge.type=identity,mean_shift", "--json", *QUICK)
        assert found.code == 0, found.err
        paired = call("compare", world, "--vary", "bridge.type=identity,mean_shift", "--json", *QUICK)
        # The folder holds the test images too, so its mean is another.
        a, b = rows_of(found)["type=mean_shift"], rows_of(paired)["type=mean_shift"]
        assert a["paired_cosine"] != b["paired_cosine"]
        assert rows_of(found)["type=identity"]["paired_cosine"] == rows_of(paired)["type=identity"]["paired_cosine"]
        assert "unpaired" in found.json["fingerprints"]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--set", "bridge=ridge"],
                "'ridge' is fitted on pairs, and data.unpaired gives media that no text belongs",
            ),
            (["--set", "augment={type: close, adapter: linear}"], "'close' is fitted on pairs"),
            (["--set", "gap.fit=10"], "gap.fit: splits the items of data.train"),
            (["--set", "data.test=null", "--set", "decoder=null"], "data.test: is missing"),
        ],
    )
    def test_what_cannot_be_had(self, call: Any, world: Path, arguments: list[str], message: str) -> None:
        data = "data.unpaired={type: folder, path: world/images}"
        found = call("compare", world, "--set", data, *arguments)
        assert found.code == 1
        assert message in found.err


class TestFolder:
    def test_every_form_holds_the_same_rows(self, call: Any, world: Path) -> None:
        found = call("compare", world, "--vary", "bridge.type=identity,c3", "--seeds", 2, "--out", "table", *QUICK)
        assert found.code == 0, found.err
        folder = Path("table")
        table = json.loads((folder / "table.json").read_text())
        with (folder / "table.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        assert [line["row"] for line in lines] == [row["row"] for row in table["rows"]]
        for line, row in zip(lines, table["rows"], strict=True):
            assert float(line["cider"]) == row["cider"]
            assert float(line["cider_low"]) == row["cider_low"]
        for name in ("table.md", "table.tex", "report.html"):
            text = (folder / name).read_text()
            assert "type=c3" in text
            assert "--vary" in text or "-{}-{}vary" in text or "-{}-vary" in text
        assert {path.name for path in (folder / "figures").glob("*.png")} >= {"frontier.png", "ranking.png"}
        assert len(table["runs"]) == 4

    def test_what_predicts_captions_is_asked_only_where_captions_rank(self, call: Any, world: Path) -> None:
        for rank_by, asked in (("cider", True), ("r_at_1", False), ("energy_distance", False)):
            call("compare", world, "--vary", "bridge.type=identity,c3", "--rank-by", rank_by, "--out", rank_by, *QUICK)
            assert bool(list(Path(rank_by, "figures").glob("agreement-*.png"))) == asked

    def test_places_of_data_are_not_told(self, call: Any, world: Path, tmp_path: Path) -> None:
        call("compare", world, "--set", f"paths.data={tmp_path / 'world'}", "--out", "table", *QUICK)
        assert "paths.data=DIR" in Path("table/table.md").read_text()
        assert str(tmp_path) not in Path("table/table.md").read_text()

    def test_a_folder_of_something_else_is_left_alone(self, call: Any, world: Path) -> None:
        Path("other").mkdir()
        (Path("other") / "thesis.txt").write_text("mine")
        found = call("compare", world, "--out", "other", *QUICK)
        assert found.code == 1
        assert "comparison should go" in found.err
        assert [path.name for path in Path("other").iterdir()] == ["thesis.txt"]


class TestWork:
    def test_a_second_call_does_nothing_anew(self, call: Any, world: Path) -> None:
        arguments = ("compare", world, "--vary", "bridge.type=identity,mean_shift", "--seeds", 2, "--json", *QUICK)
        first, second = call(*arguments), call(*arguments)
        assert strip(first.json["rows"]) == strip(second.json["rows"])
        assert "0 stages done here" in second.err

    def test_shared_stages_run_once(self, call: Any, world: Path) -> None:
        call("compare", world, "--vary", "bridge.type=identity,mean_shift", "--set", "augment=identity", *QUICK)
        made = {stage: len(list(Path("cache", stage).iterdir())) for stage in ("embed", "fit_decoder", "generate")}
        assert made == {"embed": 4, "fit_decoder": 1, "generate": 2}

    def test_processes_give_the_same_table(self, call: Any, world: Path) -> None:
        arguments = ("compare", world, "--vary", "bridge.type=identity,mean_shift", "--seeds", 2, "--json", *QUICK)
        alone = call(*arguments, "--cache", "one")
        several = call(*arguments, "--cache", "two", "--jobs", 2)
        assert several.code == 0, several.err
        assert strip(alone.json["rows"]) == strip(several.json["rows"])
        assert "0 stages done here" in several.err

    @pytest.mark.parametrize("jobs", [1, 2])
    def test_a_failing_cell_is_told_and_the_others_go_on(self, call: Any, world: Path, jobs: int) -> None:
        vary = "encoder.fail_on=null,red"
        found = call("compare", world, "--vary", vary, "--seeds", 2, "--jobs", jobs, "--json", *QUICK)
        assert found.code == 3
        rows = rows_of(found)
        assert rows["fail_on=null"]["cider"] > 0
        assert "a stranger's bug" in rows["fail_on=red"]["failed"]
        assert rows["fail_on=red"]["rank"] is None
        assert "failed: fail_on=red,seed=0" in found.err
        kept = json.loads(Path("runs/toy-compare/table.json").read_text())["failures"]
        assert kept.keys() == {"fail_on=red,seed=0", "fail_on=red,seed=1"}
        assert all(failure.keys() == {"message", "exit_code"} for failure in kept.values())

    def test_parts_that_do_not_fit_are_a_row_that_says_so(self, call: Any, world: Path) -> None:
        found = call(
            "compare", world, "--set", "augment=identity", "--vary", "bridge.type=identity,c3", "--json", *QUICK
        )
        assert found.code == 1
        rows = rows_of(found)
        assert "centred vectors where raw ones are expected" in rows["type=c3"]["failed"]
        assert rows["type=identity"]["cider"] > 0
        none = call("compare", world, "--set", "augment=identity", "--set", "bridge=c3", *QUICK)
        assert none.code == 1
        assert "centred vectors where raw ones are expected" in none.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--vary", "bridg.type=identity,c3"], "no such field"),
        (["--vary", "bridge.typo=1,2"], "--vary: bridge.typo: no such field"),
        (["--vary", "bridge.type=identity", "--vary", "bridge.type=c3"], "is varied twice"),
        (["--vary", "bridge=identity,c3", "--vary", "bridge.type=c3"], "is varied twice"),
        (["--vary", "seed=1,2", "--seeds", "2"], "is varied twice"),
        (["--vary", "bridge.type=identity,identty"], "identty"),
        (["--baseline", "toi"], "there is no row 'toi'"),
        (["--rank-by", "cidre"], "did you mean 'cider'"),
        (["--seeds", "0"], "expected a number of seeds"),
        (["--seeds", "two"], "expected a number of seeds"),
        (["--seeds", "1,1"], "twice"),
        (["--rows", "nothing*"], "no row is like 'nothing*'"),
    ],
)
def test_wrong_input_is_told_before_any_work(call: Any, world: Path, arguments: list[str], message: str) -> None:
    found = call("compare", world, *arguments)
    assert found.code == 1
    assert message in found.err
    assert not Path("cache").exists()
