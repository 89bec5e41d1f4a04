"""The bridges that act on texts in training, or are a few statistics, against numpy."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from modbridge.builtin.bridges.moments import Moments
from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import FitData
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port

DIM = 16
TEXT = toy_embeddings(200, DIM)
IMAGE = toy_embeddings(150, DIM, "image")
T, V = TEXT.values.double().numpy(), IMAGE.values.double().numpy()  # the toy vectors have length 1 already
MT, MV = T.mean(0), V.mean(0)
PAIRS = torch.tensor([i % 150 if i % 7 else -1 for i in range(200)])  # some images have two texts, some texts no image
PT, PV = T[PAIRS >= 0], V[PAIRS[PAIRS >= 0]]

SOURCE_SIDE = [
    {"type": "mean_shift", "direction": "to_source"},
    {"type": "capdec", "modality_offset": True},
    {"type": "close", "adapter": "mean"},
    {"type": "close", "adapter": "linear"},
    {"type": "close", "adapter": "covariance"},
    {"type": "standardise", "direction": "to_source"},
    {"type": "realign"},
]
TEXT_SIDE = [{"type": "standardise"}, {"type": "realign", "direction": "to_text"}]
NOISE_ALONE = [
    {"type": "capdec", "noise": "uniform_ball"},
    {"type": "close"},
    {"type": "close", "adapter": "random"},
]
EVERY = [*SOURCE_SIDE, *TEXT_SIDE, *NOISE_ALONE]


def _n(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _scaled(vectors, factor):
    return Embeddings(vectors.values * factor, vectors.port, vectors.keys)


def _data(config, text=TEXT, source=IMAGE, pairs=PAIRS):
    """What the core would give: only what the bridge asks for."""
    both = "pairs" in config.needs
    text = text if both or "text" in config.needs else text.select([])
    return FitData(text, source if both or "source" in config.needs else None, pairs if both else None)


def _fitted(block, fitting=None, **data):
    bridge = build("bridge", block)
    data = {"text": _scaled(TEXT, 9), "source": _scaled(IMAGE, 3), **data}  # lengths must not count
    bridge.fit(_data(bridge.config, **data), fitting or MemoryFitting())
    return bridge


def _normal(keys, seed=0, epoch=0, purpose="augment", dim=DIM):
    return Draw.of(keys, seed, epoch).named(purpose).normal(dim).double().numpy()


def _close(found, expected, atol=2e-6):
    np.testing.assert_allclose(found.values.numpy(), expected, atol=atol)


def _id(block):
    return "-".join(str(value) for value in block.values())


# --- what all of them owe


@pytest.mark.parametrize("block", SOURCE_SIDE, ids=_id)
def test_texts_carried_among_source_vectors_say_so_on_both_sides(block):
    bridge = _fitted(block)
    assert bridge.config.crosses(IMAGE.port, TEXT.port).frame == "source"
    assert bridge.config.augments(TEXT.port).frame == "source"
    _close(bridge.cross(_scaled(IMAGE, 5)), V)
    moved = bridge.augment(TEXT).values.double().numpy().mean(0)
    assert _n(moved) @ _n(MV) > 0.8 > _n(MT) @ _n(MV)
    with pytest.raises(PortError, match="must come first"):
        bridge.config.augments(TEXT.port.changed(frame="centred"))
    # A decoder trained on these texts refuses raw vectors, however alike the numbers.
    identity = build_config("bridge", "identity")
    assert bridge.augment(TEXT).port.conflict(identity.crosses(IMAGE.port, TEXT.port)) is not None


@pytest.mark.parametrize("block", TEXT_SIDE, ids=_id)
def test_source_vectors_carried_among_texts_leave_texts_alone(block):
    bridge = _fitted(block)
    assert torch.equal(bridge.augment(TEXT).values, TEXT.values)
    assert bridge.cross(IMAGE).port.frame == bridge.augment(TEXT).port.frame == "raw"
    assert bridge.config.augments(TEXT.port.changed(frame="centred")).frame == "centred"


@pytest.mark.parametrize("block", NOISE_ALONE, ids=_id)
def test_noise_needs_nothing_and_works_in_any_frame(block):
    bridge = _fitted(block)
    assert bridge.config.needs == frozenset()
    _close(bridge.cross(_scaled(IMAGE, 5)), V)
    for frame in ("raw", "centred", "source"):
        there = TEXT.port.changed(frame=frame)
        assert bridge.config.augments(there).frame == frame
        assert bridge.config.crosses(IMAGE.port.changed(frame=frame), TEXT.port).frame == frame
    with pytest.raises(PortError, match="another space"):
        bridge.config.crosses(toy_port(DIM, "image", space="elsewhere"), TEXT.port)


@pytest.mark.parametrize("block", EVERY, ids=_id)
def test_an_artefact_gives_the_same_bridge_and_counts_its_numbers(block):
    bridge, again = _fitted(block), build("bridge", block)
    kept = bridge.tensors()
    assert bridge.parameter_count() == again.parameter_count() == sum(value.numel() for value in kept.values())
    if kept:
        with pytest.raises(DataError, match="not been fitted"):
            again.augment(TEXT), again.cross(IMAGE)
        with pytest.raises(ArtefactError, match="another config"):
            again.load_tensors({})
    again.load_tensors(kept)
    assert torch.equal(again.cross(IMAGE).values, bridge.cross(IMAGE).values)
    assert torch.equal(again.augment(TEXT, seed=1).values, bridge.augment(TEXT, seed=1).values)


@pytest.mark.parametrize(
    ("block", "numbers"),
    [
        ({"type": "capdec"}, 0),
        ({"type": "capdec", "modality_offset": True}, 2 * DIM),
        ({"type": "mean_shift"}, 2 * DIM + 1),
        ({"type": "standardise"}, 4 * DIM),
        ({"type": "realign"}, 3 * DIM + 1),
        ({"type": "close", "adapter": "linear"}, DIM * DIM + DIM),
    ],
    ids=lambda value: _id(value) if isinstance(value, dict) else str(value),
)
def test_how_many_numbers_are_kept(block, numbers):
    assert build("bridge", block).parameter_count() == numbers


@pytest.mark.parametrize(
    ("block", "needs"),
    [
        ({"type": "capdec"}, set()),
        ({"type": "capdec", "modality_offset": True}, {"text", "source"}),
        ({"type": "close"}, set()),
        ({"type": "close", "adapter": "random"}, set()),
        ({"type": "close", "adapter": "mean"}, {"text", "source"}),
        ({"type": "close", "adapter": "linear"}, {"text", "source", "pairs"}),
        ({"type": "close", "adapter": "covariance"}, {"text", "source", "pairs"}),
        ({"type": "mean_shift", "direction": "to_source"}, {"text", "source"}),
        ({"type": "standardise"}, {"text", "source"}),
        ({"type": "realign"}, {"text", "source"}),
    ],
    ids=lambda value: _id(value) if isinstance(value, dict) else "needs",
)
def test_what_fitting_needs(block, needs):
    assert build_config("bridge", block).needs == needs


@pytest.mark.parametrize(
    ("block", "word"),
    [
        ({"type": "capdec"}, "noise"),
        ({"type": "capdec", "noise_std": 0}, "none"),
        ({"type": "capdec", "noise_std": 0, "modality_offset": True}, "shift"),
        ({"type": "c3"}, "noise"),
        ({"type": "c3", "noise_std": 0}, "none"),
        ({"type": "close"}, "noise"),
        ({"type": "close", "noise_multiplier": 0}, "none"),
        ({"type": "close", "noise_multiplier": 0, "adapter": "mean"}, "shift"),
        ({"type": "close", "noise_multiplier": 0, "adapter": "linear"}, "shift"),
        ({"type": "close", "noise_multiplier": 0, "adapter": "covariance"}, "noise"),
        ({"type": "close", "noise_multiplier": 0, "adapter": {"type": "covariance", "factor": 0}}, "shift"),
        ({"type": "mean_shift"}, "none"),
        ({"type": "mean_shift", "frame": "centred"}, "none"),
        ({"type": "mean_shift", "direction": "to_source"}, "shift"),
        ({"type": "standardise"}, "none"),
        ({"type": "standardise", "direction": "to_source"}, "shift"),
        ({"type": "realign"}, "shift"),
        ({"type": "realign", "direction": "to_text"}, "none"),
    ],
    ids=lambda value: _id(value) if isinstance(value, dict) else value,
)
def test_what_tables_say_of_the_texts(block, word):
    """And what they say is so: "none" and "shift" are the same every epoch, noise is not."""
    bridge = _fitted(block)
    assert bridge.config.augments_by == word
    epochs = [bridge.augment(TEXT, epoch=epoch).values for epoch in (0, 1)]
    assert torch.equal(*epochs) == (word in ("none", "shift"))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("block", [{"type": "c3"}, *SOURCE_SIDE, *TEXT_SIDE], ids=_id)
def test_vectors_that_are_no_numbers_are_refused(block, value):
    for name, vectors in (("text", TEXT), ("source", IMAGE)):
        values = vectors.values.clone()
        values[5, 3] = value
        with pytest.raises(DataError, match=rf"{vectors.keys[5]}\)"):
            _fitted(block, **{name: Embeddings(values, vectors.port, vectors.keys)})


@pytest.mark.parametrize("block", SOURCE_SIDE + TEXT_SIDE, ids=_id)
def test_fitting_without_source_vectors_is_refused(block):
    bridge = build("bridge", block)
    with pytest.raises(DataError, match="needs source vectors"):
        bridge.fit(FitData(TEXT, None, PAIRS), MemoryFitting())


def test_a_chain_adds_noise_to_standardised_texts():
    """TOMCap's order: statistics first, noise behind."""
    bridge = build(
        "bridge", {"type": "chain", "bridges": [{"type": "standardise", "direction": "to_source"}, "capdec"]}
    )
    assert bridge.config.augments(TEXT.port).frame == bridge.config.crosses(IMAGE.port, TEXT.port).frame == "source"


# --- mean shift and CapDec


def test_mean_shift_to_the_source():
    bridge = _fitted({"type": "mean_shift", "direction": "to_source"})
    _close(bridge.augment(TEXT), _n(T - MT + MV))
    names, stations = zip(*bridge.trace_vectors(IMAGE.values, Draw.of(IMAGE.keys, 0)), strict=True)
    assert names == ("encoded", "bridged")
    np.testing.assert_allclose(stations[1].numpy(), V, atol=2e-6)


def test_a_centred_mean_shift_has_no_direction():
    with pytest.raises(ConfigError, match="means nothing"):
        build_config("bridge", {"type": "mean_shift", "frame": "centred", "direction": "to_source"})


def test_direction_of_a_fit_that_is_the_same_counts_for_carrying_alone():
    for name, same in (("mean_shift", True), ("standardise", True), ("realign", False)):
        there, back = (build_config("bridge", {"type": name, "direction": d}) for d in ("to_text", "to_source"))
        assert (there.key_fields() == back.key_fields()) == same
        assert there.key_fields("cross") != back.key_fields("cross")
        assert there.key_fields("augment") != back.key_fields("augment")


def test_capdec_in_a_uniform_ball():
    bridge = build("bridge", {"type": "capdec", "noise": "uniform_ball", "noise_std": 0.5})
    direction = _n(_normal(TEXT.keys, 4))
    u = Draw.of(TEXT.keys, 4).named("augment/length").uniform(1).double().numpy()
    _close(bridge.augment(TEXT, seed=4), _n(T + 0.5 * u ** (1 / DIM) * direction))


def test_the_ball_is_filled_evenly():
    """In two dimensions a quarter of the points lies within half the radius, and every quadrant has its share. Seen
    through the bridge: from a text vector e the noise's part across e is the sine of the turn."""
    keys = tuple(f"k{i}" for i in range(20_000))
    port = toy_port(2)
    text = Embeddings(torch.tensor([[1.0, 0.0]]).repeat(len(keys), 1), port, keys)
    ports = {"text": port, "source": toy_port(2, "image")}
    bridge = build("bridge", {"type": "capdec", "noise": "uniform_ball", "noise_std": 0.25}, ports=ports)
    turned = bridge.augment(text).values.double().numpy()
    angle = np.arctan2(turned[:, 1], turned[:, 0])
    # Of a disc of radius r around (1, 0), the share seen under an angle beyond a is the part cut off by a ray.
    generator = np.random.default_rng(0)
    disc = generator.uniform(-1, 1, (80_000, 2))
    disc = 0.25 * disc[np.linalg.norm(disc, axis=1) <= 1] + [1, 0]
    expected = np.arctan2(disc[:, 1], disc[:, 0])
    assert np.abs(angle).max() <= np.arcsin(0.25) + 1e-6
    for q in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert np.quantile(angle, q) == pytest.approx(np.quantile(expected, q), abs=0.006)


def test_capdec_s_offset_comes_behind_the_noise_and_without_it_too():
    noise = _normal(TEXT.keys, 4)
    bridge = _fitted({"type": "capdec", "modality_offset": True})
    _close(bridge.augment(TEXT, seed=4), _n(T + 0.016**0.5 * noise + MV - MT))
    # The authors' code skips both offset and normalisation here.
    quiet = _fitted({"type": "capdec", "modality_offset": True, "noise_std": 0})
    _close(quiet.augment(_scaled(TEXT, 7)), _n(T + MV - MT))


# --- CLOSE


def test_close_multiplies_noise_without_dividing_by_the_dimension():
    bridge = build("bridge", {"type": "close"})
    _close(bridge.augment(_scaled(TEXT, 7), seed=3, epoch=2), _n(T + 0.12 * _normal(TEXT.keys, 3, 2)))


@pytest.mark.parametrize("renormalise", [False, True])
def test_close_by_the_mean(renormalise):
    adapter = {"type": "mean", "scale": 0.5, "renormalise": renormalise}
    bridge = _fitted({"type": "close", "adapter": adapter, "noise_multiplier": 0.2})
    moved = T + 0.5 * (MV - MT)
    moved = _n(moved) if renormalise else moved
    _close(bridge.augment(TEXT, seed=3), _n(moved + 0.2 * _normal(TEXT.keys, 3)))


@pytest.mark.parametrize("renormalise", [False, True])
def test_close_by_one_random_direction(renormalise):
    def augmented(seed):
        adapter = {"type": "random", "seed": seed, "renormalise": renormalise, "scale": 0.5}
        return (
            _fitted({"type": "close", "adapter": adapter, "noise_multiplier": 0}).augment(TEXT).values.double().numpy()
        )

    found = augmented(1)
    shift = _fitted({"type": "close", "adapter": {"type": "random", "seed": 1}}).tensors()["shift"].numpy()
    assert np.linalg.norm(shift) == pytest.approx(1)
    np.testing.assert_allclose(found, _n(T + 0.5 * shift), atol=2e-6)
    assert np.abs(found - augmented(2)).max() > 0.01
    np.testing.assert_array_equal(found, augmented(1))


def test_close_by_a_linear_map():
    bridge = _fitted({"type": "close", "adapter": "linear", "noise_multiplier": 0.2})
    solution, *_ = np.linalg.lstsq(np.c_[PT, np.ones(len(PT))], PV, rcond=None)
    moved = _n(np.c_[T, np.ones(len(T))] @ solution)
    _close(bridge.augment(TEXT, seed=3), _n(moved + 0.2 * _normal(TEXT.keys, 3)), atol=1e-5)


@pytest.mark.parametrize(("ridge", "count"), [(0.3, 200), (None, 10), (0.01, 10)])
def test_a_ridge_term_in_units_of_the_mean_eigenvalue(ridge, count):
    pairs = torch.where(torch.arange(200) < count, torch.arange(200) % 150, -1)
    fitting = MemoryFitting()
    bridge = _fitted(
        {"type": "close", "adapter": {"type": "linear", "ridge": ridge}, "noise_multiplier": 0}, fitting, pairs=pairs
    )
    t, v = T[:count], V[pairs[:count]]
    x, y = t - t.mean(0), v - v.mean(0)
    weight = (1.0 if ridge is None else ridge) * np.trace(x.T @ x) / DIM
    solution = np.linalg.solve(x.T @ x + weight * np.eye(DIM), x.T @ y)
    _close(bridge.augment(TEXT), _n((T - t.mean(0)) @ solution + v.mean(0)), atol=1e-5)
    line = fitting.logged[-1]
    assert (line["pairs"], line["ridge"]) == (count, 1.0 if ridge is None else ridge)
    assert ("ours" in str(line.get("note"))) == (count < DIM)


def test_plain_least_squares_with_too_few_pairs_is_refused():
    pairs = torch.where(torch.arange(200) < 16, torch.arange(200) % 150, -1)  # 16 pairs have 15 differences
    with pytest.raises(DataError, match="16 pairs do not determine"):
        _fitted({"type": "close", "adapter": {"type": "linear", "ridge": 0}}, pairs=pairs)
    one = torch.where(torch.arange(200) < 1, 0, -1)
    with pytest.raises(DataError, match="one direction"):
        _fitted({"type": "close", "adapter": "linear"}, pairs=one)


@pytest.mark.parametrize("count", [200, 9])
def test_close_by_the_covariance_of_pairs(count):
    """Over many epochs the part that the adapter adds has the mean and covariance of v - t, three times the deviation;
    with 9 pairs it has no part outside their span."""
    pairs = PAIRS if count == 200 else torch.where(torch.arange(200) < count, torch.arange(200), -1)
    bridge = _fitted({"type": "close", "adapter": "covariance", "noise_multiplier": 0.2}, pairs=pairs)
    difference = V[pairs[pairs >= 0]] - T[pairs >= 0]
    kept = {name: value.numpy() for name, value in bridge.tensors().items()}
    np.testing.assert_allclose(kept["shift"], difference.mean(0), atol=1e-8)
    covariance = np.cov(difference.T, bias=True)
    np.testing.assert_allclose(kept["root"] @ kept["root"].T, covariance, atol=1e-7)
    assert np.linalg.matrix_rank(kept["root"] @ kept["root"].T, tol=1e-10) == min(DIM, count - 1)
    own = _normal(TEXT.keys, 3, purpose="augment/covariance") @ kept["root"].T
    _close(bridge.augment(TEXT, seed=3), _n(T + difference.mean(0) + 3 * own + 0.2 * _normal(TEXT.keys, 3)), atol=1e-5)
    sample = np.concatenate([_normal(TEXT.keys, e, purpose="augment/covariance") @ kept["root"].T for e in range(200)])
    np.testing.assert_allclose(np.cov(sample.T), covariance, atol=0.05 * np.trace(covariance) / DIM + 1e-3)


@pytest.mark.parametrize("adapter", ["linear", "covariance"])
def test_pairs_are_asked_for(adapter):
    bridge = build("bridge", {"type": "close", "adapter": adapter})
    for pairs in (None, torch.full((200,), -1)):
        with pytest.raises(DataError, match="needs pairs"):
            bridge.fit(FitData(TEXT, IMAGE, pairs), MemoryFitting())
    with pytest.raises(DataError, match="150"):
        bridge.fit(FitData(TEXT, IMAGE, torch.full((200,), 150)), MemoryFitting())


def test_one_pair_has_no_covariance():
    with pytest.raises(DataError, match="at least two"):
        _fitted({"type": "close", "adapter": "covariance"}, pairs=torch.where(torch.arange(200) < 1, 0, -1))


def test_adapters_are_told_apart_by_their_word():
    word, block = (build_config("bridge", {"type": "close", "adapter": a}) for a in ("mean", {"type": "mean"}))
    assert word == block
    with pytest.raises(ConfigError, match="none, mean, random, linear or covariance"):
        build_config("bridge", {"type": "close", "adapter": "quadratic"})
    with pytest.raises(ConfigError, match="scale"):
        build_config("bridge", {"type": "close", "adapter": {"type": "linear", "scale": 2}})
    with pytest.raises(ConfigError, match="noise_multiplier"):
        build_config("bridge", {"type": "close", "noise_multiplier": -0.1})


# --- standardise and ReAlign


def test_standardise_in_both_directions():
    there = _fitted({"type": "standardise"})
    _close(there.cross(IMAGE), _n((V - MV) / V.std(0) * T.std(0) + MT))
    back = _fitted({"type": "standardise", "direction": "to_source"})
    _close(back.augment(TEXT), _n((T - MT) / T.std(0) * V.std(0) + MV))


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_a_dimension_that_never_varies_is_only_shifted(value):
    image = _n(np.c_[V[:, :2] * 0 + value, V[:, 2:] / np.linalg.norm(V[:, 2:], axis=1, keepdims=True)])
    source = Embeddings(torch.tensor(image, dtype=torch.float32), IMAGE.port, IMAGE.keys)
    fitting = MemoryFitting()
    bridge = _fitted({"type": "standardise"}, fitting, source=source)
    z = image - image.mean(0)
    z[:, 2:] *= T.std(0)[2:] / image.std(0)[2:]
    moved = _n(z + MT)
    _close(bridge.cross(source), moved, atol=1e-5)
    assert [line["constant_dimensions"] for line in fitting.logged] == [2]
    assert "only shifted" in str(fitting.logged[0]["note"])


def test_a_deviation_takes_two_vectors():
    with pytest.raises(DataError, match="found 1"):
        _fitted({"type": "standardise"}, source=IMAGE.select([0]))


def _realigned(x, start, end):
    def one(y):
        spread = np.sqrt(np.trace(np.cov(end.T, bias=True)) / np.trace(np.cov(start.T, bias=True)))
        return _n((y - start.mean(0)) * spread + end.mean(0))

    return _n(one(x) - one(start).mean(0) + end.mean(0))


def test_realign_in_both_directions():
    there = _fitted({"type": "realign"})
    _close(there.augment(TEXT), _realigned(T, T, V))
    _close(
        there.augment(TEXT.select(range(7))), _realigned(T[:7], T, V)
    )  # by the training texts' mean, not the batch's
    back = _fitted({"type": "realign", "direction": "to_text"})
    _close(back.cross(IMAGE), _realigned(V, V, T))


def test_realign_needs_vectors_that_differ():
    same = Embeddings(TEXT.values[:1].repeat(50, 1), TEXT.port, TEXT.keys[:50])
    with pytest.raises(DataError, match="one direction"):
        _fitted({"type": "realign"}, text=same)


# --- many vectors


def test_statistics_are_the_same_in_chunks():
    found = Moments.of(_scaled(TEXT, 9), "the test", chunk=7)
    np.testing.assert_allclose(found.mean, MT, atol=1e-8)
    np.testing.assert_allclose(found.variance, T.var(0), atol=1e-8)
    assert float(found.trace) == pytest.approx(np.trace(np.cov(T.T, bias=True)), abs=1e-8)


@pytest.mark.parametrize("block", [{"type": "realign"}, {"type": "standardise", "direction": "to_source"}], ids=_id)
def test_more_texts_than_a_chunk_holds(block):
    """100,000 half-precision texts: sums in the stored type would be off in the second digit."""
    text = toy_embeddings(100_000, 8, seed=3)
    text = Embeddings(text.values.half(), text.port, text.keys)
    image = toy_embeddings(500, 8, "image")
    bridge = build("bridge", block, ports={"text": text.port, "source": image.port})
    bridge.fit(FitData(text, image), MemoryFitting())
    t, v = _n(text.values.double().numpy()), image.values.double().numpy()
    part = text.select(range(100))
    if block["type"] == "realign":
        expected = _realigned(t[:100], t, v)
    else:
        expected = _n((t[:100] - t.mean(0)) / t.std(0) * v.std(0) + v.mean(0))
    _close(bridge.augment(part), expected)


# --- in a run


@pytest.mark.parametrize(
    ("block", "word", "again"),
    [("realign", "shift", set()), ("{type: close, adapter: mean}", "noise", {"fit_decoder", "generate", "score"})],
)
def test_texts_that_are_shifted_alike_are_prepared_once(call, world, tmp_path, block, word, again):
    """How many draws of the noise a decoder sees counts where there is noise, and only there."""

    def done(*more):
        result = call("run", world, "--out", tmp_path / "run", "--json", "--set", f"bridge={block}", *more)
        assert result.code == 0, result.err
        (row,) = result.json["rows"]
        assert (row["augment"], row["needs"]) == (word, ["source", "text"])
        return {path.relative_to(tmp_path / "cache").parts[:2] for path in (tmp_path / "cache").glob("[!w]*/*")}

    before = done()
    assert {stage for stage, _ in done("--set", "augment_draws=2") - before if stage != "locks"} == again


def test_a_decoder_of_moved_texts_is_not_given_raw_vectors(call, world):
    told = call("check", world, "--set", "bridge=identity", "--set", "augment=realign")
    assert told.code == 1
    assert "raw vectors where source ones are expected" in told.err


# --- real vectors


@pytest.fixture(scope="module")
def coco(requires_data):
    with np.load(requires_data / "embeddings/coco500_clip_vitb16.npz") as file:
        return _n(file["image"].astype(np.float64)), _n(file["text"].astype(np.float64))


def _split(coco, s):
    order = np.random.default_rng(s).permutation(500)
    return [(x[order[:400]], x[order[400:]]) for x in coco]


def _of(values, modality):
    keys = tuple(f"{modality}{i}" for i in range(len(values)))
    return Embeddings(torch.tensor(values, dtype=torch.float32), toy_port(512, modality, "clip"), keys)


def _on_coco(block, coco, s):
    """Text (training) and source (test) vectors of the 100 held-out pairs, as a decoder would see them."""
    (v, held_v), (t, held_t) = _split(coco, s)
    text, source = _of(t, "text"), _of(v, "image")
    bridge = build("bridge", block, ports={"text": text.port, "source": source.port})
    bridge.fit(_data(bridge.config, text, source, torch.arange(400)), MemoryFitting())
    found = bridge.augment(_of(held_t, "text")), bridge.cross(_of(held_v, "image"))
    return [vectors.values.double().numpy() for vectors in found]


@pytest.mark.parametrize(
    ("block", "cosine", "gap"),
    [
        ({"type": "close", "noise_multiplier": 0}, 0.310, 0.856),  # the identity's known answers
        ({"type": "mean_shift"}, 0.671, 0.095),
    ],
    ids=["identity", "mean_shift"],
)
def test_the_known_answers_of_coco500(coco, block, cosine, gap):
    found = [_on_coco(block, coco, s) for s in range(5)]
    assert np.mean([(t * v).sum(1).mean() for t, v in found]) == pytest.approx(cosine, abs=0.001)
    assert np.mean([np.linalg.norm(t.mean(0) - v.mean(0)) for t, v in found]) == pytest.approx(gap, abs=0.001)


@pytest.mark.parametrize("block", [b for b in SOURCE_SIDE if b["type"] not in ("capdec", "close")] + TEXT_SIDE, ids=_id)
def test_the_gap_of_coco500_falls_to_what_two_samples_differ_by(coco, block):
    """Between a sample of 100 and one of 400 the gap norm is .08 to .09 (shared/data/README.md)."""
    gaps = [np.linalg.norm(t.mean(0) - v.mean(0)) for t, v in (_on_coco(block, coco, s) for s in range(5))]
    assert np.mean(gaps) < 0.11


def test_a_linear_map_of_400_pairs_in_512_dimensions(coco):
    """Fewer pairs than dimensions: a ridge term, and the cosine that ridge gets in the other direction or better."""
    block = {"type": "close", "adapter": "linear", "noise_multiplier": 0}
    cosines = []
    for s in range(2):
        t, v = _on_coco(block, coco, s)
        (_, _), (fit_t, held_t) = _split(coco, s)
        fit_v = _split(coco, s)[0][0]
        x, y = fit_t - fit_t.mean(0), fit_v - fit_v.mean(0)
        solution = np.linalg.solve(x.T @ x + np.trace(x.T @ x) / 512 * np.eye(512), x.T @ y)
        np.testing.assert_allclose(t, _n((held_t - fit_t.mean(0)) @ solution + fit_v.mean(0)), atol=1e-5)
        cosines.append((t * v).sum(1).mean())
    assert np.mean(cosines) > 0.671, json.dumps(cosines)  # better than the mean shift
