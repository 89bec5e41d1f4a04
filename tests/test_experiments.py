"""The experiments of the paper Diffusion Bridge: every config holds, states the paper's figures, and runs in small.

Every smoke run shares one cache: one encoder, one prior and one decoder for each way of training it, as at paper size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from modbridge_metrics.config import MeteorConfig

from modbridge.assembly.experiment import Experiment, load_experiment
from modbridge.config.pipeline import dump
from modbridge.plugins.manager import Plugins

FOLDER = Path(__file__).parents[1] / "configs" / "diffusion_bridge"
CAPTIONS = ("coco", "flickr30k", "coco_to_flickr30k", "flickr30k_to_coco", "ablation", "start_steps")
GAPS = ("similarity", "cost")
OURS = "diffusion_bridge"

# The paper's tables as printed there, in percent; "-": not given. Typed from the tables, not from the configs.
TABLES = {
    "coco": """
        row               bleu_1 bleu_4 meteor rouge_l cider spice
        ZeroCap             49.8    7.0   15.4    31.8  34.5     -
        MAGIC               56.8   12.9   17.4    39.9  47.3  11.3
        ESPER                  -   21.9   21.9       -  78.2     -
        CLIPRe                 -    4.6   13.3       -  25.6   9.2
        DeCap                  -   24.7   25.0       -  91.2  18.7
        CapDec              69.2   26.4   25.1    51.8  91.8     -
        ViECap                 -   27.2   24.8       -  92.9  18.2
        MeaCap                 -   17.7   24.3       -  84.8  18.7
        C3                  71.0   27.7   25.0    52.0  93.3  18.3
        diffusion_bridge    72.3   28.7   25.1    52.4  96.4  18.7""",
    "flickr30k": """
        row               bleu_1 bleu_4 meteor rouge_l cider spice
        ZeroCap             44.7    5.4   11.8    27.3  16.8     -
        MAGIC               44.5    6.4   13.1    31.6  20.4     -
        CLIPRe                 -    9.8   18.2       -  31.7  12.0
        DeCap                  -   21.2   21.8       -  56.7  15.2
        CapDec              55.5   17.7   20.0    27.3  39.1     -
        ViECap                 -   21.4   20.1       -  47.9  13.6
        MeaCap                 -   15.3   20.6       -  50.2  14.5
        diffusion_bridge    66.9   21.4   21.1    46.8  53.0  14.5""",
    "coco_to_flickr30k": """
        row               bleu_4 meteor cider spice
        DeCap               16.3   17.9  35.7  11.1
        CapDec              17.3   18.6  35.7     -
        ViECap              17.4   18.0  38.4  11.2
        MeaCap              13.4   18.5  40.3  12.1
        diffusion_bridge    17.4   18.6  38.5  11.2""",
    "flickr30k_to_coco": """
        row               bleu_4 meteor cider spice
        DeCap               12.1   18.0  44.4  10.9
        CapDec               9.2   16.3  27.3     -
        ViECap              12.6   18.3  54.2  12.5
        MeaCap               9.8   17.4  51.7  12.0
        diffusion_bridge    14.7   18.0  47.1  11.1""",
    "ablation": """
        row               bleu_1 bleu_4 meteor rouge_l cider spice
        plain               44.4    6.1   15.5    33.6  25.2   9.2
        bridging            70.2   25.4   24.3    50.5  88.8  18.2
        augmentation        72.0   28.5   25.1    52.3  95.7  18.7""",
    "start_steps": """
        row               bleu_1 bleu_4 meteor rouge_l cider spice
        start_step_0        44.4    6.1   15.5    33.6  25.2   9.2
        start_step_200      61.0   16.9   22.3    44.8  65.9  16.4
        start_step_400      67.4   22.9   24.4    49.4  83.3  18.2
        start_step_600      70.2   25.5   24.3    50.5  88.8  18.2
        start_step_800      69.6   24.5   24.2    50.2  86.1  18.0""",
    "similarity": """
        row               embedding projector
        a                      30.6      71.4
        b                      23.5      68.4
        c                      65.2      83.3
        d                      60.6      82.6
        e                       0.3      58.8
        f                       5.2      60.4""",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for all runs of this file."""
    return tmp_path_factory.mktemp("experiments")


def load(name: str, profile: str | None = None) -> Experiment:
    return load_experiment(FOLDER / f"{name}.yaml", Plugins.discover(environ={}).registry, profile=profile)


def printed(table: str) -> dict[str, dict[str, float]]:
    """A table as it was typed: {row: {column: percent}}."""
    head, *lines = [line.split() for line in table.strip().splitlines()]
    return {
        name: {column: float(value) for column, value in zip(head[1:], values, strict=True) if value != "-"}
        for name, *values in lines
    }


# --- what the configs say


def test_every_config_is_tested_here() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {"base", *CAPTIONS, *GAPS}


@pytest.mark.parametrize("profile", [None, "smoke", "paper", "meteor_selection", "paper,smoke"])
@pytest.mark.parametrize("name", ["base", *CAPTIONS, "similarity"])
def test_checks(name: str, profile: str | None) -> None:
    experiment = load(name, profile)
    wanted = {"flickr30k": ["paths.flickr30k"], "coco_to_flickr30k": ["paths.coco", "paths.flickr30k"]}
    wanted["flickr30k_to_coco"] = wanted["coco_to_flickr30k"]
    assert experiment.to_be_given == ([] if "smoke" in (profile or "") else wanted.get(name, ["paths.coco"]))
    reported = experiment.first.config.reported
    assert reported is None or reported.comparable == ("smoke" not in (profile or ""))
    assert all(cell.config.selects_with_pairs == (profile == "meteor_selection") for cell in experiment.cells)


@pytest.mark.parametrize("name", TABLES)
def test_the_papers_figures(name: str) -> None:
    reported = load(name).first.config.reported
    assert reported is not None
    assert "Diffusion Bridge (CVPR 2025), Table" in reported.source
    expected = printed(TABLES[name])
    assert {row: set(figures) for row, figures in reported.rows.items()} == {row: set(f) for row, f in expected.items()}
    for row, figures in reported.rows.items():
        for column, value in figures.items():
            assert math.isclose(100 * value, expected[row][column], abs_tol=1e-9), (row, column)


@pytest.mark.parametrize("name", [*CAPTIONS, "cost"])
def test_the_papers_own_rows_stand_under_rows_of_the_run(name: str) -> None:
    experiment = load(name)
    assert experiment.first.config.reported is not None
    labels = [OURS] if name == "cost" else [cell.label for cell in experiment.cells]
    assert set(labels) <= set(experiment.first.config.reported.rows)


def test_the_authors_settings() -> None:
    """Section 8 of the fact sheet, read from the authors' code."""
    config = dump(load("coco").first.config)
    assert config["encoder"]["model"] == "openai/clip-vit-base-patch32"
    bridge, prior, decoder = config["bridge"], config["bridge"]["prior"], config["decoder"]
    assert (bridge["start_step"], bridge["augment_step"], bridge["num_steps"], bridge["eta"]) == (600, 400, 5, 0.0)
    assert (bridge["centre"], bridge["frame"], config["augment_draws"]) == (True, "centred", 1)
    assert (prior["radius"], prior["timesteps"], prior["schedule"], prior["renormalise"]) == (5.0, 1000, "cosine", True)
    assert (prior["steps"], prior["batch_size"], prior["lr"], prior["lr_decay"]) == (3_000_000, 64, 8e-5, "constant")
    assert (prior["grad_clip"], prior["min_snr_gamma"], prior["ema_decay"]) == (1.0, None, None)
    unet = prior["denoiser"]
    assert (unet["type"], unet["init_dim"], list(unet["dim_mults"])) == ("unet1d", 32, [1, 2, 4, 8])
    assert (decoder["mapper"]["type"], decoder["prefix_length"], decoder["train_lm"]) == ("mlp", 10, "full")
    assert (decoder["epochs"], decoder["batch_size"], decoder["lr"], decoder["warmup"]) == (10, 40, 2e-5, 5000)
    generate = decoder["generate"]
    assert (generate["num_beams"], generate["max_new_tokens"], generate["stop"]) == (1, 39, ".")
    assert config["data"]["train"]["split"] == "train+restval"
    assert dump(load("flickr30k").first.config)["bridge"]["start_step"] == 400
    assert {metric["tokenizer"] for metric in config["metrics"]} == {"ptb"}


def test_what_the_profiles_switch() -> None:
    def changes(profile: str) -> dict[str, Any]:
        before, after = leaves(dump(load("coco").first.config)), leaves(dump(load("coco", profile).first.config))
        return {name: value for name, value in after.items() if before.get(name) != value}

    paper = changes("paper")
    assert paper.pop("bridge.num_steps") == 12
    assert paper.pop("augment_draws") == "fresh"
    assert paper.pop("decoder.mapper.type") == "soft_prompt"
    assert all(name.startswith("decoder.mapper.") for name in paper)
    assert changes("meteor_selection") == {"select.by": "meteor"}


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {path: tree}
    return {k: v for name, item in tree.items() for k, v in leaves(item, f"{path}.{name}".lstrip(".")).items()}


# --- what they give, in small


@pytest.mark.parametrize("name", CAPTIONS)
def test_runs_in_small(name: str, call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call("run", FOLDER / f"{name}.yaml", "--profile", "smoke", "--cache", cache, "--out", out, toy=False)
    assert done.code == 0, done.err
    expected = printed(TABLES[name])
    written = json.loads((out / "table.json").read_text("utf-8"))
    # What was measured and what was reported stand apart.
    cells = [cell.label for cell in load(name, "smoke").cells]
    assert [row["cell"] for row in written["rows"]] == cells
    assert set(written["reported"]["rows"]) == set(expected)
    for row in written["rows"]:
        assert all(math.isfinite(row[column]) for column in ("bleu_1", "bleu_4", "rouge_l", "cider", "paired_cosine"))
        assert "spice" not in row, "smoke does not measure it, and what the paper reports is not taken for it"
    # On the terminal each stands under its own, others after them, and the reader is warned.
    lines = [line.split()[:2] for line in done.out.splitlines()]
    own = [[label, figures] for label in cells for figures in ("measured", "reported")]
    others = [[label, "reported"] for label in expected if label not in cells]
    assert lines[1 : 1 + len(own) + len(others)] == own + others
    for text in (done.out, (out / "table.md").read_text("utf-8"), (out / "report.html").read_text("utf-8")):
        assert "Diffusion Bridge (CVPR 2025), Table" in text
        assert "toy world" in text
        assert "not measured here" in text


def test_the_runs_share_one_encoder_one_prior_and_two_decoders(
    call: Callable[..., Any], cache: Path, tmp_path: Path
) -> None:
    """As the docs count them: what is shared here is shared at paper size too."""
    for name in ("coco", "ablation", "start_steps"):
        arguments = ("--profile", "smoke", "--cache", cache, "--out", tmp_path / name)
        assert call("run", FOLDER / f"{name}.yaml", *arguments, toy=False).code == 0
    found = {stage: len(list((cache / stage).iterdir())) for stage in ("fit_encoder", "fit_prior", "fit_decoder")}
    assert found == {"fit_encoder": 1, "fit_prior": 1, "fit_decoder": 2}


def test_similarity_in_small(call: Callable[..., Any], cache: Path) -> None:
    command = ("gap", FOLDER / "similarity.yaml", "--profile", "smoke", "--cache", cache, "--no-report")
    done = call(*command, toy=False)
    assert done.code == 0, done.err
    assert "toy world" in done.out
    written = call(*command, "--json", toy=False).json
    assert [row["row"] for row in written["similarity"]] == ["a", "b", "c", "d", "d", "e", "f", "f"]
    assert all(math.isfinite(row[column]) for row in written["similarity"] for column in ("embedding", "projector"))
    for letter, figures in printed(TABLES["similarity"]).items():
        (line,) = [line for line in done.out.splitlines() if line.startswith(f"({letter})") and "identity" not in line]
        assert line.split()[-2:] == [f"{figures[c] / 100:.3f}" for c in ("embedding", "projector")]


def test_cost_of_the_authors_network(call: Callable[..., Any], cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs neither data nor weights, so this is the network at its full size, timed once. 342.6 M multiply-adds a
    call, counted by hand from the layers; the paper's 1.63 G leave out those inside its attention."""
    monkeypatch.setattr("modbridge.cost.BATCH", {"cpu": 2})
    monkeypatch.setattr("modbridge.cost.REPEATS", 1)
    done = call("gap", FOLDER / "cost.yaml", "--cache", cache, "--no-report", "--json", toy=False)
    assert done.code == 0, done.err
    (row,) = [row for row in done.json["rows"] if row["bridge"] == OURS]
    assert row["parameters"] == 4_037_313
    assert row["macs"] == pytest.approx(5 * 342.6e6, rel=1e-3)
    assert row["item_seconds"] > 0
    reported = done.json["reported"]["rows"]
    assert reported == {OURS: {"macs": 1.63e9, "item_seconds": 0.27}}


def test_cost_in_small(call: Callable[..., Any], cache: Path) -> None:
    done = call("gap", FOLDER / "cost.yaml", "--profile", "smoke", "--cache", cache, "--no-report", toy=False)
    assert done.code == 0, done.err
    assert "toy world" in done.out
    assert "1.63 G" in done.out


def test_the_papers_wording_in_small(call: Callable[..., Any], cache: Path, tmp_path: Path) -> None:
    config, out = FOLDER / "coco.yaml", tmp_path / "run"
    done = call("run", config, "--profile", "paper,smoke", "--cache", cache, "--out", out, "--json", toy=False)
    assert done.code == 0, done.err
    resolved = json.loads((out / "resolved.json").read_text("utf-8"))[OURS]
    assert (resolved["bridge"]["num_steps"], resolved["decoder"]["mapper"]["type"]) == (12, "soft_prompt")
    assert resolved["encoder"]["type"] == "open_clip"


@pytest.mark.skipif(MeteorConfig(type="meteor").missing() is not None, reason="METEOR needs Java, which is not here")
def test_selection_by_meteor_in_small_says_that_it_takes_pairs(
    call: Callable[..., Any], cache: Path, tmp_path: Path
) -> None:
    profile = ("--profile", "meteor_selection,smoke")
    done = call("run", FOLDER / "coco.yaml", *profile, "--cache", cache, "--out", tmp_path / "run", toy=False)
    assert done.code == 0, done.err
    assert "pairs" in done.out


def test_yaml_reads_the_figures_as_numbers() -> None:
    for path in FOLDER.glob("*.yaml"):
        rows = (yaml.safe_load(path.read_text("utf-8")).get("reported") or {}).get("rows", {})
        assert all(isinstance(value, float) for figures in rows.values() for value in figures.values()), path
