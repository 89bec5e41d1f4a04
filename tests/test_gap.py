"""modbridge gap: its columns against numpy, sweeps, the similarity table, cost, the report, and what it refuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.config.kinds import BridgeConfig
from modbridge.cost import cost_of, macs_of, parameters_of, peak_bytes_of
from modbridge.gap_tables import COLUMNS, MORE, bytes_text, similarity_view
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.stages.gap import splits
from modbridge.stages.gap_measures import gap_measures
from modbridge.store.cache import Cache
from modbridge.talk import Talk
from modbridge.testing import build, toy_embeddings, toy_port

Call = Callable[..., Any]
COUNT, FIT, DIM = 40, 28, 12


def _n(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _cos(x: Any, y: Any) -> float:
    return float((_n(x) * _n(y)).sum(1).mean())


def _apart(x: Any, y: Any) -> float:
    cosines = _n(x) @ _n(y).T
    return float(cosines[~np.eye(len(cosines), dtype=bool)].mean())


def _recall(x: Any, y: Any, k: int) -> float:
    cosines = _n(x) @ _n(y).T
    return float(((cosines > np.diag(cosines)[:, None]).sum(1) < k).mean())


def write_vectors(folder: Path, *, texts: int = 1, dim: int = DIM, count: int = COUNT, extra: str = "") -> Path:
    """A config over made-up pairs with `texts` text vectors an item, and no decoder."""
    rng = np.random.default_rng(5)
    meaning = rng.normal(size=(count, dim))
    image = meaning + 0.5 * rng.normal(size=(count, dim)) + 2 * np.eye(dim)[0]
    text = np.repeat(meaning, texts, 0) + 0.5 * rng.normal(size=(count * texts, dim)) + 2 * np.eye(dim)[1]
    ids = np.array([f"i{i:02d}" for i in range(count)])
    np.savez(folder / "v.npz", image=_n(image), text=_n(text), ids=ids, text_ids=np.repeat(ids, texts))
    vectors = "{image: {array: image, keys: ids}, text: {array: text, keys: text_ids}}"
    config = folder / "gap.yaml"
    config.write_text(
        f"name: made\ndata:\n  train: {{type: precomputed, file: {folder}/v.npz, vectors: {vectors}}}\n"
        f"encoder: {{type: precomputed, file: {folder}/v.npz, space: s, vectors: {vectors}}}\n"
        f"bridge: mean_shift\ngap: {{fit: {FIT}}}\n{extra}"
    )
    return config


@pytest.fixture
def made(tmp_path: Path) -> Path:
    return write_vectors(tmp_path)


def _sides(folder: Path, texts: int = 1) -> tuple[Any, ...]:
    """Images and texts of the fit and the test part of split 0, and the arrays as float64."""
    with np.load(folder / "v.npz") as file:
        image, text = file["image"], file["text"].reshape(COUNT, texts, -1)
    order = np.random.default_rng(0).permutation(COUNT)
    fit, test = np.sort(order[:FIT]), np.sort(order[FIT:])
    return image[fit], image[test], text[fit], text[test]


# --- columns


def test_every_column_agrees_with_numpy(call: Call, made: Path, tmp_path: Path) -> None:
    from scipy.stats import skew

    rows = {row["bridge"]: row for row in call("gap", made, "--no-report", "--json").json["rows"]}
    image_fit, image, text_fit, text = _sides(tmp_path)
    text_fit, text = text_fit[:, 0], text[:, 0]
    moved = {
        "identity": (image_fit, image),
        "mean_shift": tuple(_n(x - image_fit.mean(0) + text_fit.mean(0)) for x in (image_fit, image)),
    }
    assert set(rows) == set(moved)
    for name, (x_fit, x) in moved.items():
        row, z, c = rows[name], _n(x - x_fit.mean(0)), _n(text - text_fit.mean(0))
        tens = np.bincount(np.argsort(-(x @ text.T), axis=1)[:, :10].flatten(), minlength=len(x))
        tops = np.bincount(np.argmax(z @ c.T, axis=1), minlength=len(x))
        shift = x.mean(0) - text.mean(0)
        wanted = {
            "centred_unpaired_cosine": _apart(z, c),
            "harmonic_mean": 2 / (1 / _cos(z, c) + 1 / _recall(z, c, 1)),
            "reverse_r_at_5": _recall(text, x, 5),
            "centred_r_at_10": _recall(z, c, 10),
            "centred_reverse_r_at_1": _recall(c, z, 1),
            "hubness": skew(tens),
            "centred_top_answer_share": tops.max() / len(x),
            "gap_share_of_5": np.sort(shift**2)[-5:].sum() / (shift**2).sum(),
            "spread_ratio": np.sqrt(x.var(0).sum() / text.var(0).sum()),
            "nearest_train_text": (z @ _n(text_fit - text_fit.mean(0)).T).max(1).mean(),
            "texts_nearest_train_text": (c @ _n(text_fit - text_fit.mean(0)).T).max(1).mean(),
        }
        for column, value in wanted.items():
            assert row[column] == pytest.approx(value, abs=2e-6), (name, column)
    assert rows["identity"]["separability"] > rows["mean_shift"]["separability"] + 0.1
    assert rows["identity"]["energy_distance"] == pytest.approx(rows["mean_shift"]["energy_distance"], abs=0.05)


@pytest.mark.parametrize(
    "bridge",
    [
        "{type: mean_shift, direction: to_source}",
        "{type: capdec, modality_offset: true}",  # measured without its noise
        "{type: capdec, modality_offset: true, noise: uniform_ball}",
        "[{type: mean_shift, direction: to_source}, capdec]",
    ],
)
def test_where_texts_are_moved_they_are_measured_as_a_decoder_learns_them(
    call: Call, made: Path, tmp_path: Path, bridge: str
) -> None:
    (row,) = [r for r in call("gap", made, "--set", f"bridge={bridge}", "--no-report", "--json").json["rows"]
              if r["bridge"] != "identity"]  # fmt: skip
    image_fit, image, text_fit, text = _sides(tmp_path)
    way = image_fit.mean(0) - text_fit[:, 0].mean(0)
    moved_fit, moved = (_n(t[:, 0] + way) for t in (text_fit, text))
    z, c = _n(image - image_fit.mean(0)), _n(moved - moved_fit.mean(0))
    wanted = {
        "gap_norm": np.linalg.norm(image.mean(0) - moved.mean(0)),
        "paired_cosine": _cos(image, moved),
        "r_at_1": _recall(image, moved, 1),
        "centred_paired_cosine": _cos(z, c),
        "centred_r_at_1": _recall(z, c, 1),
        "nearest_train_text": (z @ _n(moved_fit - moved_fit.mean(0)).T).max(1).mean(),
    }
    for column, value in wanted.items():
        assert row[column] == pytest.approx(value, abs=2e-6), column


def test_the_values_by_item_are_those_that_the_columns_are_means_of(made: Path, tmp_path: Path) -> None:
    plugins = Plugins.discover(environ={})
    experiment = load_experiment(made, plugins.registry, sets=["gap.seeds=[0,1]"])
    cell, session = experiment.first, Session(plugins, Cache(tmp_path / "cache"), Talk(quiet=True))
    image_fit, image, text_fit, text = _sides(tmp_path)
    text_fit, text = text_fit[:, 0], text[:, 0]
    for again in range(2):  # the second time from the cache
        first, second = (gap_measures(session, cell, cell.config.bridge, split) for _, split in splits(session, cell))
        order = np.sort(np.random.default_rng(0).permutation(COUNT)[FIT:])
        assert first.keys == tuple(f"i{i:02d}" for i in order)
        assert first.keys != second.keys
        x = _n(image - image_fit.mean(0) + text_fit.mean(0))
        x_fit = _n(image_fit - image_fit.mean(0) + text_fit.mean(0))
        z, c = _n(x - x_fit.mean(0)), _n(text - text_fit.mean(0))
        wanted = {
            "paired_cosine": (x * text).sum(1),
            "centred_paired_cosine": (z * c).sum(1),
            "r_at_1": np.argmax(x @ text.T, axis=1) == np.arange(len(x)),
            "centred_r_at_1": np.argmax(z @ c.T, axis=1) == np.arange(len(x)),
        }
        assert first.items.keys() == wanted.keys()
        for column, values in wanted.items():
            found = first.items[column]
            assert found.dtype == np.float64
            np.testing.assert_allclose(found, values, atol=2e-6)
            assert found.mean() == pytest.approx(first.columns[column], abs=1e-12)
        assert again == 0 or first.key in {path.name for path in (tmp_path / "cache" / "gap").iterdir()}


def test_before_comes_first_and_only_where_no_bridges_are_listed(call: Call, made: Path) -> None:
    def bridges(*more: str) -> list[str]:
        return [row["bridge"] for row in call("gap", made, "--no-report", "--json", *more).json["rows"]]

    assert bridges() == ["identity", "mean_shift"]
    assert bridges("--set", "bridge=identity") == ["identity"]
    assert bridges("--set", "gap.bridges=[mean_shift]") == ["mean_shift"]
    assert bridges("--set", "evaluate.input=text") == ["mean_shift"]  # the captions' own vectors cross nothing
    # Cells that differ in the bridge alone share the row before it.
    assert bridges("--vary", "bridge=mean_shift,{type: c3, frame: text}") == ["identity", "mean_shift", "c3"]


def test_the_tables_fit_a_terminal_and_name_every_column(call: Call, made: Path) -> None:
    shown = call("gap", made, "--no-report", "--all", "--set", "gap.seeds=[0,1]").out
    assert max(map(len, shown.splitlines())) <= 120
    for group in MORE:
        assert group.title in shown
    short = call("gap", made, "--no-report").out
    assert "centred R@1" in short
    assert MORE[0].title not in short
    row = call("gap", made, "--no-report", "--json", "--set", "gap.cost=true").json["rows"][0]
    unshown = set(row) - COLUMNS - {"cell", "bridge", "needs", "split", "notes"}
    assert not unshown


# --- sweeps


def test_a_sweep_fits_once_and_crosses_often(call: Call, made: Path, tmp_path: Path) -> None:
    prior = "{type: ddpm, denoiser: {type: residual_mlp, width: 8, num_blocks: 1}, steps: 3, batch_size: 8}"
    bridge = f"gap.bridges=[identity, {{type: diffusion_bridge, frame: text, prior: {prior}}}]"
    sweep = "gap.sweep={start_step: [0, 100, 400]}"
    result = call("gap", made, "--json", "--no-report", "--set", bridge, "--set", sweep)
    assert result.code == 0, result.err
    rows = result.json["rows"]
    assert [row.get("fields") for row in rows] == [None, "start_step=0", "start_step=100", "start_step=400"]
    kept = {stage: len(list((tmp_path / "cache" / stage).iterdir())) for stage in ("fit_prior", "fit_bridge", "cross")}
    assert kept == {"fit_prior": 1, "fit_bridge": 2, "cross": 4}
    varied = call(
        "gap", made, "--json", "--no-report", "--set", f"bridge={bridge[len('gap.bridges=[identity, ') : -1]}",
        "--vary", "bridge.start_step=100,400",
    ).json["rows"]  # fmt: skip
    assert [row["gap_norm"] for row in varied[1:]] == [row["gap_norm"] for row in rows[2:]]


@pytest.mark.parametrize(
    ("sweep", "told"),
    [
        ("{start_stp: [0, 100]}", ["gap.sweep.start_stp", "no bridge of the comparison has this field"]),
        ("{frame: [text, raw]}", ["gap.sweep.frame", "'raw'"]),
        ("{frame: []}", ["gap.sweep.frame", "at least 1"]),
        ("{frame: [text, text]}", ["gap.sweep", "twice"]),
        ("{type: [c3, identity]}", ["gap.sweep.type", "no bridge"]),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_any_work(
    call: Call, made: Path, tmp_path: Path, sweep: str, told: list[str]
) -> None:
    for verb in (("gap", "--no-report"), ("check",)):
        result = call(*verb, made, "--set", f"gap.sweep={sweep}")
        assert result.code == 1
        for word in told:
            assert word in result.err
    assert not (tmp_path / "cache").exists()


# --- the similarity table


def test_the_six_rows_agree_with_numpy(call: Call, tmp_path: Path) -> None:
    config = write_vectors(tmp_path, texts=2)
    sets = ("--set", "gap.similarity=true", "--set", "gap.bridges=[mean_shift, {type: c3, frame: centred}]")
    result = call("gap", config, "--json", "--no-report", *sets).json
    image_fit, image, text_fit, texts = _sides(tmp_path, 2)
    mean_text, mean_image = text_fit.reshape(-1, DIM).mean(0), image_fit.mean(0)
    t, other = _n(texts[:, 0] - mean_text), _n(texts[:, 1] - mean_text)
    v = _n(image - mean_image)
    shifted = _n(_n(image - mean_image + mean_text) - mean_text)
    wanted = [
        ("a", None, _cos(t, v)),
        ("b", None, None),
        ("c", None, _cos(t, other)),
        ("d", "mean_shift", _cos(t, shifted)),
        ("d", "c3", _cos(t, v)),
        ("e", None, _apart(t, t)),
        ("f", "mean_shift", _apart(t, shifted)),
        ("f", "c3", _apart(t, v)),
    ]
    assert [(row["row"], row["bridge"]) for row in result["similarity"]] == [w[:2] for w in wanted]
    for row, (letter, _, value) in zip(result["similarity"], wanted, strict=True):
        if value is not None:
            assert row["embedding"] == pytest.approx(value, abs=2e-6), letter
        assert "projector" not in row
    assert result["notes"] == ["projector: left out, the pipeline has no decoder"]


def test_noise_of_variance_016_on_clip_like_texts_gives_the_paper_s_cosine(call: Call, tmp_path: Path) -> None:
    """Row (b) is .235 where unit vectors in 512 dimensions are .692 long once centred (1 / sqrt(1 + 512 s2 / r2))."""
    config = write_vectors(tmp_path, dim=512)
    rng = np.random.default_rng(0)
    spread = _n(np.concatenate([np.zeros((COUNT, 1)), rng.normal(size=(COUNT, 511))], 1))
    text = np.sqrt(1 - 0.692**2) * np.eye(512)[0] + 0.692 * spread
    with np.load(tmp_path / "v.npz") as file:
        np.savez(tmp_path / "v.npz", **{**dict(file), "text": text})
    result = call("gap", config, "--json", "--no-report", "--set", "gap.similarity=true").json
    rows = {row["row"]: row for row in result["similarity"]}
    assert rows["b"]["embedding"] == pytest.approx(0.235, abs=0.015)


def test_one_caption_an_item_leaves_row_c_empty_and_says_so(call: Call, made: Path) -> None:
    result = call("gap", made, "--json", "--no-report", "--set", "gap.similarity=true", "--set", "gap.seeds=[0,1]").json
    rows = {row["row"]: row for row in result["similarity"]}
    assert rows["c"]["embedding"] is None
    assert "(c): 0 of 12 items have two embedded captions" in result["notes"]
    assert rows["a"]["embedding_std"] >= 0
    shown = call("gap", made, "--no-report", "--set", "gap.similarity=true")
    assert shown.code == 0
    assert "(c): 0 of 12" in shown.out


def test_the_projector_column_is_what_the_decoder_s_mapper_makes_of_them(call: Call, tmp_path: Path) -> None:
    config = write_vectors(tmp_path, texts=2)
    captions = tmp_path / "captions.jsonl"
    captions.write_text(
        "".join(
            json.dumps({"key": f"i{i:02d}", "captions": [f"a thing {i}", f"thing {i}"]}) + "\n" for i in range(COUNT)
        )
    )
    vectors = "{image: {array: image, keys: ids}, text: {array: text, keys: text_ids}}"

    def part(rows: str) -> str:
        return f"{{type: precomputed, file: {tmp_path}/v.npz, vectors: {vectors}, captions: {captions}, rows: {rows}}}"

    sets = [
        f"data.train={part('[0, 28]')}", f"data.test={part('[28, 40]')}", "gap={similarity: true, fit: null}",
        "bridge={type: c3, frame: centred}",
        "decoder={type: prefix_lm, lm: {n_layer: 1, n_head: 1, n_embd: 8}, tokenizer: words, steps: 1}",
    ]  # fmt: skip
    arguments = [argument for text in sets for argument in ("--set", text)]
    result = call("gap", config, "--json", "--no-report", *arguments)
    assert result.code == 0, result.err
    (folder,) = (tmp_path / "cache" / "fit_decoder").iterdir()
    weights = {name: value.double().numpy() for name, value in load_file(folder / "model.safetensors").items()}
    one, two = ([weights[f"mapper.layers.{layer}.{what}"] for what in ("weight", "bias")] for layer in (0, 2))
    with np.load(tmp_path / "v.npz") as file:
        image, text = file["image"], file["text"].reshape(COUNT, 2, DIM)
    mean_text, mean_image = text[:28].reshape(-1, DIM).mean(0), image[:28].mean(0)

    def mapped(x: Any) -> Any:
        return np.tanh(x @ one[0].T + one[1]) @ two[0].T + two[1]

    t, other, v = _n(text[28:, 0] - mean_text), _n(text[28:, 1] - mean_text), _n(image[28:] - mean_image)
    wanted = {
        "a": _cos(mapped(t), mapped(v)),
        "c": _cos(mapped(t), mapped(other)),
        "d": _cos(mapped(t), mapped(v)),  # c3 leaves image vectors centred, and no more
        "e": _apart(mapped(t), mapped(t)),
        "f": _apart(mapped(t), mapped(v)),
    }
    for letter, value in wanted.items():
        (row,) = [row for row in result.json["similarity"] if row["row"] == letter and row["bridge"] in (None, "c3")]
        assert row["projector"] == pytest.approx(value, abs=1e-4), letter


def test_reported_cosines_stand_beside_the_measured_ones(call: Call, made: Path) -> None:
    reported = "reported={source: the paper, rows: {a: {embedding: 0.306}, d: {embedding: 0.606}}}"
    shown = call("gap", made, "--no-report", "--set", "gap.similarity=true", "--set", reported)
    assert shown.code == 0, shown.err
    line = next(line for line in shown.out.splitlines() if line.startswith("(d)") and "mean_shift" in line)
    assert line.split()[-1] == "0.606"
    assert "reported: the paper" in shown.out
    headings, _, _ = similarity_view(
        call("gap", made, "--no-report", "--json", "--set", "gap.similarity=true").json["similarity"]
    )
    assert not any("reported" in heading for heading in headings)


# --- cost


class Layers(Bridge[BridgeConfig]):
    """Two linear layers and a convolution, whose multiply-adds can be counted by hand."""

    def __init__(self, config: BridgeConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.net = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16))
        self.conv = torch.nn.Conv1d(1, 4, 7, padding=3)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"net": self.net, "conv": self.conv}

    def fit(self, data: FitData, fitting: Fitting) -> None: ...

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return torch.nn.functional.normalize(self.net(x) + self.conv(x[:, None]).mean(1), dim=1)


def test_the_cost_of_layers_counted_by_hand() -> None:
    ports = {"text": toy_port(16), "source": toy_port(16, "image")}
    bridge = Layers(BridgeConfig(type="layers"), BuildContext(ports=ports))
    source = toy_embeddings(5, 16, "image")
    cost = cost_of(bridge, source, batch=7)
    assert cost.macs == 16 * 32 * 2 + 16 * 4 * 7
    assert cost.parameters == 16 * 32 + 32 + 32 * 16 + 16 + 4 * 7 + 4
    assert cost.batch == 7
    assert 0 < cost.item_seconds < 5
    assert cost.items_per_second > 1


class Keeps(Layers):
    """Allocations that can be counted by hand."""

    def __init__(self, config: BridgeConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.memory = torch.ones(1000, 16)  # there before: not counted, nor are views of it

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        self.memory.T[:, 3:].mul_(1.0)
        big = x.new_zeros(len(x), 1000)  # 4000 bytes a row
        view = big.view(-1)[: len(x)]
        del big
        view += 1  # the whole is still there
        other = torch.empty(50, dtype=torch.float64)  # 400 bytes
        del view, other
        half = torch.einsum("bd,nd->bn", x, self.memory[:300])  # 1200 bytes a row, when what was before is gone
        return half[:, :16].clone()  # 64 bytes a row


def test_the_peak_memory_of_known_allocations() -> None:
    ports = {"text": toy_port(16), "source": toy_port(16, "image")}
    bridge = Keeps(BridgeConfig(type="keeps"), BuildContext(ports=ports))
    cost = cost_of(bridge, toy_embeddings(5, 16, "image"), batch=7)
    assert cost.peak_bytes == 7 * 4000 + 400
    assert cost_of(bridge, toy_embeddings(5, 16, "image"), batch=14).peak_bytes == 14 * 4000 + 400


def test_peak_memory_counts_what_lives_at_once_and_only_that() -> None:
    cpu = torch.device("cpu")
    before = torch.ones(1000)

    def one_after_the_other() -> None:
        for _ in range(5):
            torch.ones(250).add_(1)  # 1000 bytes

    def all_together() -> list[torch.Tensor]:
        return [before[k:] + 1 for k in range(5)]

    assert peak_bytes_of(one_after_the_other, cpu) == 1000
    assert peak_bytes_of(all_together, cpu) == 4 * (5 * 1000 - 10)
    assert peak_bytes_of(lambda: before.view(10, 100).T[3:].mul_(1), cpu) == 0
    assert peak_bytes_of(lambda: torch.add(before, 1, out=torch.empty(0)), cpu) == 4000
    q = torch.ones(8, 4)
    with torch.inference_mode():  # scores and their softmax; by then the result is not there yet
        assert peak_bytes_of(lambda: torch.softmax(q @ q.T, 1) @ q, cpu) == 4 * (64 + 64)


def test_bytes_are_shown_short() -> None:
    assert [bytes_text(n) for n in (0, 512, 28_400, 62_914_560, 5e9)] == ["0 B", "512 B", "28.4 kB", "62.91 MB", "5 GB"]


def test_the_paper_s_cost_is_five_calls_of_its_network() -> None:
    """342.6 M multiply-adds a call, of which 325.8 M in convolutions and linear layers: 5 of these are its 1.63 G."""
    ports = {"text": toy_port(512), "source": toy_port(512, "image")}
    prior = {"type": "ddpm", "denoiser": {"type": "unet1d"}}
    bridge: Any = build("bridge", {"type": "diffusion_bridge", "num_steps": 5, "prior": prior}, ports=ports)
    assert parameters_of(bridge) == 4_037_313
    assert macs_of(bridge, toy_embeddings(1, 512, "image")) / 5 == pytest.approx(342.6e6, rel=1e-3)


def test_cost_is_measured_anew_and_leaves_everything_else_as_it_was(call: Call, made: Path, tmp_path: Path) -> None:
    plain = call("gap", made, "--no-report", "--json").json
    cached = sorted(path.name for path in (tmp_path / "cache").glob("*/*"))
    timed = call("gap", made, "--no-report", "--json", "--set", "gap.cost=true").json
    assert sorted(path.name for path in (tmp_path / "cache").glob("*/*")) == cached
    for before, after in zip(plain["rows"], timed["rows"], strict=True):
        extra = {name: after.pop(name) for name in set(after) - set(before)}
        assert after == before
        assert extra.keys() == {"parameters", "macs", "item_seconds", "items_per_second", "peak_bytes", "batch"}
        assert extra["macs"] == 0
    assert timed["runs"] == plain["runs"]


# --- the report


def test_the_report_is_one_page_with_every_figure(
    call: Call, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)  # as where the extra is not installed
    sweep = (
        "--set",
        "gap.bridges=[identity, {type: capdec}, {type: c3}]",
        "--set",
        "gap.sweep.noise_std=[0.1, 0.2, 0.3]",
    )
    result = call("gap", made, "--json", "--out", tmp_path / "report", "--set", "gap.seeds=[0,1]", *sweep)
    assert result.code == 0, result.err
    folder = tmp_path / "report"
    assert result.json["report"] == str(folder / "report.html")
    table = json.loads((folder / "table.json").read_text())
    assert table["rows"] == result.json["rows"]
    page = (folder / "report.html").read_text()
    figures = {path.name for path in (folder / "figures").iterdir()}
    assert figures == {"plane.png", "pca.png", "cosines.png", "centred_cosines.png", "curve-noise_std.png"}
    assert page.count("<img") == page.count("data:image/png;base64,") == len(figures)
    assert not {"src='http", "<script", "<link"} & {part for part in ("src='http", "<script", "<link") if part in page}
    assert "modbridge[umap]" in page
    for group in MORE:
        assert group.title in page
        assert f"## {group.title}" in (folder / "table.md").read_text()
    dimensions = json.loads((folder / "dimensions.json").read_text())
    assert [len(row["mean_shift"]) for row in dimensions] == [DIM] * len(table["rows"])
    squared = np.array(dimensions[0]["mean_shift"]) ** 2
    assert np.sqrt(squared.sum()) == pytest.approx(table["rows"][0]["gap_norm"], rel=0.1)  # means over two splits

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    again = call("gap", made, "--json", "--out", folder, "--set", "gap.seeds=[0,1]", *sweep)
    assert again.json == result.json
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (folder / "figures" / "pca.png").unlink()
    call("gap", made, "--out", folder, "--set", "gap.seeds=[0,1]", *sweep)
    assert (folder / "figures" / "pca.png").is_file()


def test_folders_of_others_are_left_alone(
    call: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("mine")
    refused = call("gap", world, "--out", theirs)
    assert refused.code == 1
    assert "nothing was written" in refused.err
    assert [path.name for path in theirs.iterdir()] == ["notes.txt"]
    assert not (tmp_path / "cache").exists()  # refused before any work
    assert call("run", world, "--out", tmp_path / "run").code == 0
    assert "holds a run" in call("gap", world, "--out", tmp_path / "run").err
    assert call("gap", world).code == 0
    assert (tmp_path / "runs" / "toy-gap" / "report.html").is_file()
    assert "holds a gap report" in call("run", world, "--out", tmp_path / "runs" / "toy-gap").err


# --- bad input


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"--set": f"gap.fit={COUNT - 1}"}, "at least two held-out items"),
        ({"--set": f"gap.fit={COUNT}"}, "some must be left to test on"),
    ],
)
def test_one_held_out_item_or_none(call: Call, made: Path, change: dict[str, str], told: str) -> None:
    result = call("gap", made, *(word for pair in change.items() for word in pair))
    assert result.code == 1
    assert told in result.err


@pytest.mark.parametrize("side", ["image", "text"])
@pytest.mark.parametrize("bad", ["nan", "same"])
def test_vectors_that_are_no_numbers_or_all_one(call: Call, made: Path, tmp_path: Path, side: str, bad: str) -> None:
    with np.load(tmp_path / "v.npz") as file:
        arrays = dict(file)
    arrays[side][3 if bad == "nan" else slice(None)] = np.nan if bad == "nan" else arrays[side][0]
    np.savez(tmp_path / "v.npz", **arrays)
    result = call("gap", made, "--no-report")
    assert result.code == (1 if bad == "nan" else 3), result.out
    assert ("NaN" if bad == "nan" else "the same vector") in result.err


def test_three_held_out_items_are_too_few_for_a_classifier(call: Call, made: Path) -> None:
    result = call("gap", made, "--no-report", "--json", "--set", f"gap.fit={COUNT - 3}")
    assert result.code == 0, result.err
    assert all(row["separability"] is None for row in result.json["rows"])
    assert "-" in call("gap", made, "--no-report", "--all", "--set", f"gap.fit={COUNT - 3}").out


def test_real_pairs_before_any_bridge(call: Call, requires_data: Path, tmp_path: Path) -> None:
    base = Path(__file__).parents[1] / "configs" / "coco500.yaml"
    config = tmp_path / "identity.yaml"
    config.write_text(f"extends: {base}\nvariants:\ngap: {{similarity: true}}\n")
    result = call("gap", config, "--no-report", "--json", "--set", f"paths.data={requires_data}").json
    (row,) = result["rows"]
    assert row["centred_paired_cosine"] == pytest.approx(0.313, abs=6e-4)
    assert result["similarity"][0]["embedding"] == pytest.approx(row["centred_paired_cosine"])
    assert row["separability"] == 1.0
    assert row["gap_share_of_5"] > 0.5
