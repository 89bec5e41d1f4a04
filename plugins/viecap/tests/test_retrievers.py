"""Names found for items by their vectors."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from modbridge_viecap.calibration import Calibrated
from modbridge_viecap.retrieval_config import Retrieval
from modbridge_viecap.retrievers import Candidate, Side, build_retriever
from pydantic import TypeAdapter, ValidationError

from modbridge.errors import ArtefactError, DataError, PortError

CONFIG = TypeAdapter(Retrieval)
NAMES = ["dog", "cat", "bird", "boat"]


def retriever(config, names=NAMES, parents=None, **surroundings):
    vocabulary = SimpleNamespace(listed=list(names), parents=lambda: parents or {})
    return build_retriever(CONFIG.validate_python(config), vocabulary, **surroundings)


def side_of(*cosines):
    """A side whose items have these cosines with the names: each name has an axis of its own, and there is one more."""
    table = torch.tensor(cosines, dtype=torch.float64)
    rest = (1 - table.square().sum(dim=1, keepdim=True)).sqrt()
    return Side(torch.cat([table, rest], dim=1).float(), torch.eye(table.shape[1], table.shape[1] + 1))


def rough_side(items=40, names=60, dim=24, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries, listed = (torch.randn(n, dim, generator=generator) for n in (items, names))
    unit = torch.nn.functional.normalize
    return Side(unit(queries + 0.5, dim=1), unit(listed, dim=1))


def keys(side):
    return [str(row) for row in range(len(side.queries))]


def numpy_softmax(side, temperature, standardise=False):
    queries, names = (np.asarray(x.numpy(), dtype=np.float64) for x in (side.queries, side.names))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    names /= np.linalg.norm(names, axis=1, keepdims=True)
    logits = queries @ names.T
    if standardise:
        logits = (logits - logits.mean(1, keepdims=True)) / logits.std(1, keepdims=True)
    e = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    return e / e.sum(1, keepdims=True)


def compare(found, scores, names, kept=None):
    """Candidates against a whole table of scores: ranking, scores, and what is kept."""
    for candidates, row in zip(found, scores, strict=True):
        best = np.argsort(-row, kind="stable")[: len(candidates)]
        assert [c.name for c in candidates] == [names[i] for i in best]
        np.testing.assert_allclose([c.score for c in candidates], row[best], atol=1e-6)
        assert [c.kept for c in candidates] == [True if kept is None else bool(row[i] >= kept) for i in best]


@pytest.fixture(scope="module")
def imagenet(requires_data):
    folder = requires_data / "embeddings"
    stored = np.load(folder / "imagenet1000_clip_text_vitb32.npz")["text"].astype(np.float32)
    golden = np.load(folder / "clip_vitb32_golden.npz")
    queries = torch.from_numpy(np.concatenate([golden["image"], golden["text"]]))
    names = [
        f"{number} {name}" for number, name in enumerate(json.loads((folder / "imagenet1000_names.json").read_text()))
    ]
    unit = torch.nn.functional.normalize
    return Side(unit(queries, dim=1), unit(torch.from_numpy(stored), dim=1)), names


@pytest.mark.parametrize("standardise", [False, True])
def test_the_likeliest_of_a_thousand_names_by_clip(imagenet, standardise):
    side, names = imagenet
    temperature = 0.25 if standardise else 0.01
    config = {"type": "softmax", "top_k": 5, "temperature": temperature, "threshold": 0.05, "standardise": standardise}
    found = retriever(config, names).retrieve([side], keys(side), 0)
    scores = numpy_softmax(side, temperature, standardise)
    compare(found, scores, names, kept=0.05)
    assert any(c.kept for row in found for c in row)
    assert not all(c.kept for row in found for c in row)


def test_the_nearest_of_a_thousand_names_by_clip(imagenet):
    side, names = imagenet
    found = retriever({"type": "cosine", "top_k": 7}, names).retrieve([side], keys(side), 0)
    compare(found, side.queries.double().numpy() @ side.names.double().numpy().T, names)


def test_names_below_the_threshold_come_close():
    side = side_of([0.30, 0.31, 0.10, 0.0])
    (found,) = retriever({"type": "softmax", "temperature": 0.05, "threshold": 0.4, "top_k": 3}).retrieve(
        [side], "a", 0
    )
    e = np.exp(np.array([0.31, 0.30, 0.10]) / 0.05)
    expected = e / (e.sum() + 1)
    assert [(c.name, c.kept) for c in found] == [("cat", True), ("dog", True), ("bird", False)]
    np.testing.assert_allclose([c.score for c in found], expected, atol=1e-6)


def test_a_name_at_the_threshold_is_kept():
    side = side_of([0.5, 0.5, -0.5, -0.5])
    (found,) = retriever({"type": "softmax", "temperature": 0.001, "threshold": 0.5, "top_k": 3}).retrieve(
        [side], "a", 0
    )
    assert found == (Candidate("dog", 0.5, True), Candidate("cat", 0.5, True), Candidate("bird", 0.0, False))


def test_level_names_stand_in_the_vocabularys_order():
    side = side_of([0.2, 0.4, 0.4, 0.4], [0.1, 0.1, 0.1, 0.1])
    first, second = retriever({"type": "cosine", "top_k": 2}).retrieve([side], "ab", 0)
    assert [c.name for c in first] == ["cat", "bird"]
    assert [c.name for c in second] == ["dog", "cat"]


def test_where_probabilities_vanish_cosines_still_rank():
    side = side_of([0.1, 0.2, 0.3, 0.8])
    (found,) = retriever({"type": "softmax", "temperature": 0.002, "top_k": 4}).retrieve([side], "a", 0)
    assert [c.name for c in found] == ["boat", "bird", "cat", "dog"]


def test_more_names_asked_for_than_there_are():
    (found,) = retriever({"type": "cosine", "top_k": 9}).retrieve([side_of([0.1, 0.2, 0.3, 0.4])], "a", 0)
    assert len(found) == 4


@pytest.mark.parametrize(
    "config",
    [
        "softmax",
        {"type": "softmax", "standardise": True, "temperature": 0.5, "threshold": 0.05, "top_k": 6},
        {"type": "cosine", "top_k": 5},
        "random",
    ],
)
def test_a_batch_gives_what_its_items_give_alone(config):
    side = rough_side()
    names = [str(n) for n in range(60)]
    found = retriever(config, names).retrieve([side], keys(side), 3)
    alone = [
        retriever(config, names).retrieve([Side(side.queries[i : i + 1], side.names)], [key], 3)[0]
        for i, key in enumerate(keys(side))
    ]
    assert found == alone


def test_inputs_stay_as_they_are():
    side = rough_side()
    before = side.queries.clone(), side.names.clone()
    for config in ("softmax", "cosine", {"type": "softmax", "standardise": True, "temperature": 1.0}):
        retriever(config, [str(n) for n in range(60)]).retrieve([side], keys(side), 0)
    assert torch.equal(side.queries, before[0])
    assert torch.equal(side.names, before[1])


def test_a_mix_is_the_mean_of_both():
    raw, bridged = rough_side(seed=1), rough_side(seed=2)
    names = [str(n) for n in range(60)]
    made = [Calibrated(t, 0.1, 0, 0, 0, 1) for t in (0.05, 0.2)]
    config = {"type": "softmax", "source": "mix", "temperature": "auto", "threshold": "auto", "top_k": 6}
    found = retriever(config, names, calibrated=made).retrieve([raw, bridged], keys(raw), 0)
    compare(found, (numpy_softmax(raw, 0.05) + numpy_softmax(bridged, 0.2)) / 2, names, kept=0.1)
    found = retriever({"type": "cosine", "source": "mix"}, names).retrieve([raw, bridged], keys(raw), 0)
    each = [side.queries.double().numpy() @ side.names.double().numpy().T for side in (raw, bridged)]
    compare(found, sum(each) / 2, names)


def test_standardised_a_gap_common_to_all_names_changes_nothing():
    table = torch.tensor([[0.30, 0.20, 0.10, 0.05], [0.1, 0.3, 0.28, 0.0]])
    config = {"type": "softmax", "standardise": True, "temperature": 0.4, "top_k": 4}
    shapes = [table, table - 0.2, 0.3 * table + 0.1]
    found = [retriever(config).retrieve([side_of(*shape.tolist())], "ab", 0) for shape in shapes]
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            assert [(c.name, c.kept) for c in one] == [(c.name, c.kept) for c in another]
            assert [c.score for c in one] == pytest.approx([c.score for c in another], abs=1e-5)
    plain = {"type": "softmax", "temperature": 0.1, "top_k": 4}
    scores = [retriever(plain).retrieve([side_of(*shape.tolist())], "ab", 0)[0][0].score for shape in shapes]
    assert abs(scores[0] - scores[2]) > 0.1


def test_an_item_like_no_name_more_than_another_is_no_error():
    config = {"type": "softmax", "standardise": True, "temperature": 0.4, "threshold": 0.3}
    (found,) = retriever(config).retrieve([side_of([0.2, 0.2, 0.2, 0.2])], "a", 0)
    assert [(c.name, c.score, c.kept) for c in found] == [(n, 0.25, False) for n in ("dog", "cat", "bird")]


def test_a_broader_name_is_left_out_beside_a_narrower_one():
    names = ["speech", "male speech", "animal", "music"]
    parents = {"male speech": frozenset({"speech"}), "dog": frozenset({"animal"})}
    side = side_of([0.5, 0.4, 0.3, 0.2], [0.5, 0.1, 0.3, 0.2])
    config = {"type": "cosine", "top_k": 3, "suppress_parents": True}
    first, second = retriever(config, names, parents).retrieve([side], "ab", 0)
    assert [(c.name, c.kept) for c in first] == [("speech", False), ("male speech", True), ("animal", True)]
    assert [(c.name, c.kept) for c in second] == [("speech", True), ("animal", True), ("music", True)]
    (all_kept, _) = retriever({**config, "suppress_parents": False}, names, parents).retrieve([side], "ab", 0)
    assert all(c.kept for c in all_kept)


def test_an_oracle_says_what_the_captions_say():
    oracle = retriever("oracle", extract=lambda texts: [[w for w in t.split() if w in NAMES] for t in texts])
    oracle.tell({"a": ["a cat", "dog dog on a boat", "the dog"], "b": []})
    found = oracle.retrieve([], ["b", "a"], 0)
    assert found == [(), tuple(Candidate(name, 1.0, True) for name in ("dog", "cat", "boat"))]
    with pytest.raises(DataError, match="knows none of 1 items, the first 'c'"):
        oracle.retrieve([], ["a", "c"], 0)


def test_random_names_are_drawn_by_seed_and_item():
    names = [str(n) for n in range(30)]
    items = [f"item {n}" for n in range(400)]
    one, again, other = (retriever("random", names).retrieve([], items, seed) for seed in (0, 0, 1))
    assert one == again
    assert one != other
    assert all(len({c.name for c in row}) == 3 and all(c.kept for c in row) for row in one)
    drawn = [c.name for row in one for c in row]
    assert all(15 < drawn.count(name) < 70 for name in names)  # 40 expected of each


def test_none_finds_nothing():
    assert retriever("none").retrieve([], ["a", "b"], 0) == [(), ()]


def test_vectors_of_another_size_are_refused():
    side = rough_side()
    with pytest.raises(PortError, match=r"24 numbers; found \(12,\)"):
        retriever("softmax").retrieve([Side(side.queries[:, :12], side.names)], keys(side), 0)
    with pytest.raises(DataError, match="NaN"):
        retriever("softmax").retrieve([Side(side.queries * torch.nan, side.names)], keys(side), 0)


def test_automatic_values_must_have_been_chosen():
    with pytest.raises(ArtefactError, match="0 of 1"):
        retriever({"type": "softmax", "threshold": "auto"})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"type": "softmax", "standardise": True}, "standard deviations"),
        ({"type": "softmax", "temperature": 0}, "greater than 0"),
        ({"type": "oracle", "source": "raw"}, "Extra inputs"),
        ({"type": "frequency", "min_count": 3, "alpha": 1.0}, "two rules"),
        ({"type": "frequency", "captions": 4}, "more than the 4 captions"),
        ("nearest", "nearest"),
    ],
)
def test_configs_that_cannot_be_meant(config, message):
    with pytest.raises(ValidationError, match=message):
        CONFIG.validate_python(config)


def test_which_sides_are_looked_at():
    sides = {
        c if isinstance(c, str) else c["source"]: CONFIG.validate_python(c).sides
        for c in ("softmax", "oracle", {"type": "memory", "source": "mix"}, {"type": "cosine", "source": "bridged"})
    }
    assert sides == {"softmax": ("raw",), "oracle": (), "mix": ("raw", "bridged"), "bridged": ("bridged",)}
