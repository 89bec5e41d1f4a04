"""What an index of FAISS picks out, against numpy; and the bridges and the datastore that ask it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from modbridge.builtin.bridges.memory_file import FileRows, PickedRows, TensorRows
from modbridge.config import search as search_config
from modbridge.config.search import Faiss, advice, require_faiss
from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.interfaces import FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, build_config, toy_port

pytest.importorskip("faiss")
from modbridge.approximate import Index, lists_of

Call = Callable[..., Any]
DIM, COUNT, QUERIES = 16, 3000, 40
ALL = 10**6  # more probes than there are lists
BOTH = ["memory", "nearest_caption"]


def normal(count: int, purpose: str) -> torch.Tensor:
    return Draw.of(tuple(map(str, range(count))), 0).named(purpose).normal(DIM)


def clustered(count: int, purpose: str) -> torch.Tensor:
    """Unit vectors around 60 centres."""
    around = normal(60, "centres")[torch.arange(count) % 60]
    return torch.nn.functional.normalize(around + 0.5 * normal(count, purpose), dim=1)


def embeddings(values: torch.Tensor, modality: str) -> Embeddings:
    return Embeddings(values, toy_port(DIM, modality), tuple(f"{modality}{row}" for row in range(len(values))))


TEXT, IMAGE = embeddings(clustered(COUNT, "texts"), "text"), embeddings(clustered(QUERIES, "images"), "image")
T, V = TEXT.values.double().numpy(), IMAGE.values.double().numpy()


def n(x: np.ndarray) -> np.ndarray:
    unit: np.ndarray = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return unit


def index_of(values: torch.Tensor, block: int = 700) -> Index:
    return Index.build(len(values), DIM, lambda: iter(torch.split(values, block)))


def fitted(block: Any, data: FitData | None = None, fitting: MemoryFitting | None = None) -> Any:
    bridge: Any = build("bridge", block)
    bridge.fit(data or FitData(TEXT, IMAGE), fitting or MemoryFitting())
    return bridge


def close(found: torch.Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found.double().numpy(), expected, atol=5e-6)


def test_few_lists_hold_most_of_the_nearest_and_all_lists_all_of_them() -> None:
    index = index_of(TEXT.values)
    nearest = np.argsort(-(V @ T.T), axis=1)[:, :10]

    def recall(probes: int) -> float:
        found = index.candidates(IMAGE.values, 18, probes).numpy()
        assert (np.diff(found, axis=1) > 0).all()
        return float(np.mean([np.isin(row, of).mean() for row, of in zip(nearest, found, strict=True)]))

    assert recall(ALL) == 1.0
    assert recall(10) > 0.9
    assert recall(1) < recall(10)
    assert index.lists == lists_of(COUNT) == 100
    assert (lists_of(20), lists_of(1_000_000), lists_of(10_000_000)) == (1, 4000, 12649)


def test_an_index_is_the_same_whatever_the_blocks_it_comes_in() -> None:
    found = [index_of(TEXT.values, block).candidates(IMAGE.values, 5, 2) for block in (100, COUNT)]
    assert torch.equal(*found)


def test_where_lists_hold_too_few_more_are_looked_through() -> None:
    index = index_of(TEXT.values)
    assert (index.candidates(IMAGE.values, 400, 1) >= 0).all()
    everything = torch.arange(COUNT).expand(QUERIES, COUNT)
    assert torch.equal(index.candidates(IMAGE.values, COUNT + 5, 1), everything)


@pytest.mark.parametrize("centred", [False, True])
def test_a_softmax_over_all_texts_is_the_exact_one(centred: bool) -> None:
    block = {"type": "memory", "temperature": 0.05, "centred": centred}
    few = fitted({**block, "search": {"probes": 1, "nearest": COUNT}})
    close(few.cross(IMAGE).values, fitted(block).cross(IMAGE).values.double().numpy())


@pytest.mark.parametrize("nearest", [1, 30, 500])
def test_a_softmax_over_the_nearest_texts_and_what_is_lost(nearest: int) -> None:
    tau = 0.1
    search = {"type": "faiss", "probes": ALL, "nearest": nearest}
    found = fitted({"type": "memory", "temperature": tau, "search": search}).cross(IMAGE).values
    cosines = V @ T.T
    order = np.argsort(-cosines, axis=1)
    weights = np.exp((cosines - cosines.max(1, keepdims=True)) / tau)
    kept = np.take_along_axis(weights, order[:, :nearest], 1)
    mixed = np.einsum("bk,bkd->bd", kept / kept.sum(1, keepdims=True), T[order[:, :nearest]])
    close(found, n(mixed))

    whole = weights / weights.sum(1, keepdims=True) @ T
    share = 1 - kept.sum(1) / weights.sum(1)
    bound = 4 * share / (np.linalg.norm(whole, axis=1) + np.linalg.norm(mixed, axis=1))
    assert (np.linalg.norm(n(whole) - n(mixed), axis=1) <= bound).all()
    rest = (COUNT - nearest) * kept[:, -1]
    assert (share <= rest / (kept.sum(1) + rest) + 1e-12).all()


@pytest.mark.parametrize("centred", [False, True])
def test_the_nearest_caption_among_all_lists_is_the_nearest(centred: bool) -> None:
    x, y = (n(V - V.mean(0)), n(T - T.mean(0))) if centred else (V, T)
    block = {"type": "nearest_caption", "centred": centred, "search": {"probes": ALL}}
    close(fitted(block).cross(IMAGE).values, T[(x @ y.T).argmax(1)])


def test_of_equal_texts_the_first_is_found() -> None:
    values = torch.cat([TEXT.values, TEXT.values])
    store = Datastore(values.half(), tuple(map(str, range(2 * COUNT))), ((),) * (2 * COUNT))
    assert store.nearest(IMAGE.values, 7, Faiss(probes=ALL)) == store.nearest(IMAGE.values, 7)
    assert [int(b) - int(a) for a, b in store.nearest(IMAGE.values, 2, Faiss(probes=ALL))] == [COUNT] * QUERIES


def test_a_datastore_scores_what_it_finds_by_its_own_vectors() -> None:
    store = Datastore(TEXT.values.half(), tuple(map(str, range(COUNT))), ((),) * COUNT)
    halves = n(TEXT.values.half().double().numpy())
    for row, found in enumerate(store.nearest_scored(IMAGE.values * 3, 5, Faiss(probes=4))):
        assert [cosine for _, cosine in found] == pytest.approx([V[row] @ halves[int(text)] for text, _ in found])
        assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)


@pytest.mark.parametrize("name", BOTH)
def test_an_artefact_keeps_its_index_and_reads_texts_from_its_file(name: str, tmp_path: Path) -> None:
    block = {"type": name, "search": {"probes": 3}}
    bridge = fitted(block)
    expected = bridge.cross(IMAGE).values
    save_component(bridge, tmp_path / "artefact", {"type": name})
    for held in (0, 1024):
        again: Any = build("bridge", {**block, "held_mib": held})
        manifest = load_component(again, tmp_path / "artefact")
        close(again.cross(IMAGE).values, expected.double().numpy())
        assert "memory.faiss" in manifest["files"]


ELSEWHERE = """
import sys
from collections.abc import Callable
from pathlib import Path
from safetensors.torch import load_file, save_file
from modbridge.datastore import Datastore
from modbridge.config.search import Faiss
from modbridge.store.artefact import load_component
from modbridge.testing import build

folder = Path(sys.argv[1])
vectors = load_file(folder / "vectors.safetensors")
bridge = build("bridge", {"type": "nearest_caption", "search": {"probes": 1}})
load_component(bridge, folder / "artefact")
texts = tuple(map(str, range(len(vectors["texts"]))))
print(Datastore(vectors["texts"].half(), texts, ((),) * len(texts)).nearest(vectors["queries"], 3, Faiss(probes=1)))
save_file({"found": bridge.recall(vectors["queries"])}, folder / "found.safetensors")
"""


def test_two_processes_find_the_same(tmp_path: Path) -> None:
    bridge = fitted({"type": "nearest_caption", "search": {"probes": 1}})
    save_component(bridge, tmp_path / "artefact", {"type": "nearest_caption"})
    save_file({"texts": TEXT.values, "queries": IMAGE.values}, tmp_path / "vectors.safetensors")
    store = Datastore(TEXT.values.half(), tuple(map(str, range(COUNT))), ((),) * COUNT)
    expected = bridge.cross(IMAGE).values
    assert not torch.equal(expected, fitted("nearest_caption").cross(IMAGE).values), "probes that miss nothing"
    command = [sys.executable, "-c", ELSEWHERE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == str(store.nearest(IMAGE.values, 3, Faiss(probes=1)))
    assert torch.equal(load_file(tmp_path / "found.safetensors")["found"], expected)


def test_a_damaged_index_and_one_of_other_vectors_are_told(tmp_path: Path) -> None:
    index_of(TEXT.values).save(tmp_path / "index")
    with pytest.raises(ArtefactError, match=r"3000 vectors of 16 numbers; expected 3001 of 16"):
        Index.load(tmp_path / "index", COUNT + 1, DIM, mapped=True)
    (tmp_path / "index").write_bytes((tmp_path / "index").read_bytes()[:5000])
    with pytest.raises(ArtefactError, match="cannot be read as an index of FAISS"):
        Index.load(tmp_path / "index", COUNT, DIM, mapped=False)
    with pytest.raises(SetupError, match="cannot be written"):
        index_of(TEXT.values).save(tmp_path / "nowhere" / "index")


@pytest.mark.parametrize("name", BOTH)
def test_a_query_that_is_no_number_is_named(name: str) -> None:
    values = IMAGE.values.clone()
    values[3, 0] = torch.nan
    with pytest.raises(DataError, match="image3"):
        fitted({"type": name, "search": "faiss"}).cross(Embeddings(values, IMAGE.port, IMAGE.keys))


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_rows_by_their_numbers(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.{suffix}"
    values = TEXT.values[:50].half()
    if suffix == "npz":
        np.savez_compressed(path, m=values.numpy())
    else:
        save_file({"other": values[:3] * 2, "m": values}, path)
    numbers = torch.tensor([7, 0, 49, 7])
    for rows in (FileRows(path, "m"), TensorRows(values)):
        assert torch.equal(rows.at(numbers), values[numbers])
        picked = torch.tensor([3, 4, 40])
        assert torch.equal(PickedRows(rows, picked).at(torch.tensor([2, 0])), values[[40, 3]])


def test_of_the_search_fitting_asks_for_the_index_alone() -> None:
    plain = build_config("bridge", "memory")
    assert "search" not in {**plain.key_fields(), **plain.key_fields("cross")}, "results of before it existed stand"
    some, more = (build_config("bridge", {"type": "memory", "search": {"probes": p}}) for p in (8, 16))
    assert some.key_fields() == more.key_fields() != plain.key_fields()
    assert some.key_fields("cross") != more.key_fields("cross")


@pytest.mark.parametrize(
    ("search", "message"),
    [("fast", "search: it must be exact, faiss"), ({"probes": 0}, r"search\.probes"), ({"nearest": 9}, r"nearest: no")],
)
def test_a_search_that_is_none_is_refused(search: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config("bridge", {"type": "nearest_caption", "search": search})


def test_a_missing_package_is_told_before_anything_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    config = build_config("bridge", {"type": "memory", "search": "faiss"})
    with pytest.raises(SetupError, match=r"pip install 'modbridge\[faiss\]'") as told:
        config.crosses(IMAGE.port, TEXT.port)
    assert told.value.exit_code == 4
    require_faiss("exact")
    assert build_config("bridge", "memory").crosses(IMAGE.port, TEXT.port) is not None
    with pytest.raises(SetupError, match="faiss"):
        Datastore(TEXT.values.half(), (), ()).nearest(IMAGE.values, 3, Faiss())


def test_a_run_with_an_index_and_one_on_a_machine_without_it(
    call: Call, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--set", "bridge={type: memory, search: {type: faiss, probes: 2, nearest: 3}}")
    for probes in ("2", "3"):
        result = call("run", world, *asked, "--set", f"bridge.search.probes={probes}")
        assert result.code == 0, result.err
    monkeypatch.setitem(sys.modules, "faiss", None)
    for verb in ("check", "run"):
        result = call(verb, world, *asked)
        assert result.code == 4, result.err
        assert "pip install 'modbridge[faiss]'" in result.err
    assert call("check", world, "--set", "bridge={type: memory}").code == 0


def test_above_ten_million_an_exact_search_is_advised_against(monkeypatch: pytest.MonkeyPatch) -> None:
    assert advice("exact", 10_000_000) is None
    assert advice(Faiss(), 10_000_001) is None
    assert "10,000,001 vectors" in str(advice("exact", 10_000_001))
    monkeypatch.setattr(search_config, "ADVISED_ABOVE", COUNT - 1)
    for block, notes in (("memory", 1), ({"type": "memory", "search": "faiss"}, 0)):
        fitting = MemoryFitting()
        fitted(block, fitting=fitting)
        assert sum("search: faiss" in str(line.get("note")) for line in fitting.logged) == notes
