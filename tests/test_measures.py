"""The gap measures: against closed forms, against numpy, and against the known answers of real CLIP pairs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modbridge.distributions import Dimensions, energy_distance, separability
from modbridge.errors import DataError
from modbridge.geometry import Statistics, to_text_frame, unit
from modbridge.measures import (
    centred,
    cosine_counts,
    fit_mean,
    gap_norm,
    gap_row,
    harmonic_mean,
    hits_at,
    paired_cosine,
    paired_cosines,
    recall_at,
    unpaired_cosine,
)
from modbridge.neighbours import hubs, nearest_cosine, occurrences


def _random(rows, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(rows, dim))


def _n(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_closed_forms_of_orthogonal_vectors():
    a = torch.eye(4)
    b = torch.eye(4)[[1, 0, 3, 2]] * 7  # lengths do not count
    assert gap_norm(a, b) == pytest.approx(0.0, abs=1e-12)
    assert gap_norm(a[:1], b[:1]) == pytest.approx(2**0.5)
    assert gap_norm(a, -a) == pytest.approx(1.0)  # the mean of 4 orthogonal unit vectors has length 1/2
    assert paired_cosine(a, b) == 0.0
    assert paired_cosine(a, a * 3) == pytest.approx(1.0)
    assert unpaired_cosine(a, b) == pytest.approx(4 / 12)
    assert unpaired_cosine(a, a) == pytest.approx(0.0, abs=1e-12)
    assert recall_at(a, b, (1, 4)) == {1: 0.0, 4: 1.0}


def test_cosines_agree_with_the_full_matrix():
    a, b = _random(30), _random(30, seed=1)
    cosines = _n(a) @ _n(b).T
    off = ~np.eye(30, dtype=bool)
    assert unpaired_cosine(torch.tensor(a), torch.tensor(b)) == pytest.approx(cosines[off].mean())
    assert paired_cosine(torch.tensor(a), torch.tensor(b)) == pytest.approx(np.diag(cosines).mean())


def test_recall_agrees_with_sorting_in_both_directions(monkeypatch):
    monkeypatch.setattr("modbridge.measures.CELLS", 200)  # several pieces
    a = _random(60)
    b = a + _random(60, seed=1)
    cosines = _n(a) @ _n(b).T
    for x, y, matrix in ((a, b, cosines), (b, a, cosines.T)):
        place = (np.argsort(-matrix, axis=1) == np.arange(60)[:, None]).argmax(1)
        found = recall_at(torch.tensor(x), torch.tensor(y))
        assert found == {k: pytest.approx((place < k).mean()) for k in (1, 5, 10)}
    assert 0 < found[1] < found[5] < found[10]


def test_every_query_s_own_hits_and_cosine(monkeypatch):
    monkeypatch.setattr("modbridge.measures.CELLS", 200)  # several pieces
    a = _random(60)
    b = a + _random(60, seed=1)
    cosines = _n(a) @ _n(b).T
    place = (np.argsort(-cosines, axis=1) == np.arange(60)[:, None]).argmax(1)
    hits = hits_at(torch.tensor(a), torch.tensor(b), (1, 7))
    assert hits.dtype == torch.float64
    np.testing.assert_array_equal(hits, [place < 1, place < 7])
    np.testing.assert_allclose(paired_cosines(torch.tensor(a), torch.tensor(b)), np.diag(cosines), atol=1e-12)
    turned = torch.tensor([3, 0, 2, 1])
    items = torch.tensor([0, 0, 1, 2])  # row 0 ties with row 1, which is of its item, and row 2 with row 3, which isn't
    tied = torch.tensor([[1.0, 0], [1, 0], [0, 1], [0, 1]])
    wanted = torch.tensor([1, 1, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(hits_at(tied, tied, (1,), query_items=items, gallery_items=items)[0], wanted)
    found = hits_at(tied[turned], tied, (1,), query_items=items[turned], gallery_items=items)[0]
    torch.testing.assert_close(found, wanted[turned])


def test_ties_are_a_fair_draw():
    same = torch.ones(20, 3)
    assert recall_at(same, same) == {k: pytest.approx(k / 20) for k in (1, 5, 10)}
    items = torch.tensor([0, 0, 1, 1])
    four = torch.ones(4, 3)  # two of four equal answers are right: missing twice has the chance 1/6
    found = recall_at(four, four, (1, 2, 3), query_items=items, gallery_items=items)
    assert found == {1: pytest.approx(1 / 2), 2: pytest.approx(5 / 6), 3: pytest.approx(1.0)}


def test_any_text_of_the_item_is_a_right_answer():
    queries = torch.eye(3)
    gallery = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 1, 0.1], [0, 0, 1]])
    items = torch.tensor([0, 0, 1, 9])
    assert recall_at(queries, gallery, (1, 2, 50), query_items=torch.arange(3), gallery_items=items) == {
        1: pytest.approx(1 / 3),
        2: pytest.approx(2 / 3),
        50: pytest.approx(2 / 3),  # item 2 has no answer at all: never found, however deep
    }


@pytest.mark.parametrize("bad", [torch.zeros(3, 4), torch.ones(2, 4), torch.ones(3, 5), torch.ones(0, 4)])
def test_what_cannot_be_compared_is_refused(bad):
    with pytest.raises(DataError):
        paired_cosine(torch.ones(3, 4), bad)


def test_a_single_pair_has_no_unpaired_cosine():
    with pytest.raises(DataError, match="at least 2"):
        unpaired_cosine(torch.ones(1, 4), torch.ones(1, 4))


def test_statistics_agree_with_numpy_in_any_pieces():
    x = _random(50) + 1
    unit_x = _n(x)
    mean = unit_x.mean(0)
    for chunk in (7, 1000):
        found = Statistics.of(torch.tensor(x), chunk=chunk)
        assert found.mean.dtype == torch.float64
        assert found.count == 50
        np.testing.assert_allclose(found.mean.numpy(), mean, atol=1e-12)
        assert float(found.radius) == pytest.approx(np.linalg.norm(unit_x - mean, axis=1).mean())
    with pytest.raises(DataError, match="0 vectors"):
        Statistics.of(torch.zeros(0, 3))


def test_a_vector_without_direction_is_named():
    with pytest.raises(DataError, match="row 1"):
        unit(torch.tensor([[1.0, 0], [0, 0]]))


def test_the_text_frame_undoes_centring_at_the_mean_radius():
    mean = torch.tensor([0.6, 0.0, 0.0])
    z = torch.tensor([[0.0, 1.0, 0.0]])
    back = to_text_frame(z * 3, mean, 0.8)
    torch.testing.assert_close(back, torch.tensor([[0.6, 0.8, 0.0]]))
    torch.testing.assert_close(centred(back, mean).float(), z)


def test_a_centred_bridge_is_compared_in_the_text_frame():
    text = torch.tensor(_random(40) + 0.7)
    source = torch.tensor(_random(40, seed=3) * 0.3 + text.numpy() - 1.5)
    t, v = Statistics.of(text), Statistics.of(source)
    z = centred(source, v.mean)
    there = {"text_mean": t.mean, "text_radius": t.radius}
    columns = {"text_fit_mean": t.mean, "text_fit_radius": t.radius}
    by_frame = gap_row(z, text, bridged_fit_mean=fit_mean(z, frame="centred", **there), frame="centred", **columns)
    by_hand = torch.nn.functional.normalize(t.radius * z + t.mean, dim=1)
    by_value = gap_row(by_hand, text, bridged_fit_mean=torch.from_numpy(_n(by_hand.numpy()).mean(0)), **columns)
    assert by_frame == pytest.approx(by_value)
    raw = gap_row(source, text, bridged_fit_mean=v.mean, **columns)
    assert by_frame["gap_norm"] < 0.3 * raw["gap_norm"]
    assert list(raw) == [
        "gap_norm",
        "paired_cosine",
        "unpaired_cosine",
        "centred_paired_cosine",
        "r_at_1",
        "r_at_5",
        "r_at_10",
        "centred_r_at_1",
    ]


@pytest.fixture(scope="module")
def coco500(requires_data):
    with np.load(requires_data / "embeddings" / "coco500_clip_vitb16.npz") as file:
        return torch.tensor(file["image"]), torch.tensor(file["text"])


def test_known_gap_of_real_pairs(coco500):
    image, text = coco500
    assert paired_cosine(image, text) == pytest.approx(0.310, abs=5e-4)
    assert unpaired_cosine(image, text) == pytest.approx(0.162, abs=5e-4)
    within = unpaired_cosine(image, image)
    assert within == pytest.approx(0.5315, abs=5e-5)
    assert within * 499 / 500 + 1 / 500 == pytest.approx(0.532, abs=5e-4)  # the known answer counts i = j too
    assert unpaired_cosine(text, text) == pytest.approx(0.515, abs=5e-4)
    assert gap_norm(image, text) == pytest.approx(0.851, abs=5e-4)
    assert recall_at(image, text, (1,))[1] == pytest.approx(0.552)


def test_known_rows_of_identity_and_mean_shift_on_held_out_pairs(coco500):
    from modbridge.interfaces import FitData
    from modbridge.spaces import Embeddings
    from modbridge.testing import MemoryFitting, build, toy_port

    image, text = (x.float() for x in coco500)
    ports = {"text": toy_port(512), "source": toy_port(512, "image")}
    rows = {"identity": [], "mean_shift": []}
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(500)
        fit, test = order[:400], order[400:]
        stats = Statistics.of(text[fit])
        there = {"text_mean": stats.mean, "text_radius": stats.radius}

        def side(name, index):
            values = {"text": text, "source": image}[name][index]
            return Embeddings(values, ports[name], tuple(map(str, index)))

        for name in rows:
            bridge = build("bridge", {"type": name}, ports=ports)
            bridge.fit(FitData(side("text", fit), side("source", fit)), MemoryFitting())
            crossed = bridge.cross(side("source", test))
            own = fit_mean(bridge.cross(side("source", fit)).values, frame=crossed.port.frame, **there)
            # The known answers centre vectors that a bridge moved among the texts by the texts' own mean.
            fitted = stats.mean if name == "mean_shift" else own
            columns = {"text_fit_mean": stats.mean, "text_fit_radius": stats.radius, "frame": crossed.port.frame}
            rows[name].append(gap_row(crossed.values, text[test], bridged_fit_mean=fitted, **columns))
    mean = {name: {c: np.mean([row[c] for row in of]) for c in of[0]} for name, of in rows.items()}
    known = {
        "identity": {"paired_cosine": 0.310, "gap_norm": 0.856, "r_at_1": 0.736, "centred_r_at_1": 0.746},
        "mean_shift": {"paired_cosine": 0.671, "gap_norm": 0.095, "r_at_1": 0.462, "centred_r_at_1": 0.742},
    }
    known["identity"]["centred_paired_cosine"] = 0.313
    for name, columns in known.items():
        for column, value in columns.items():
            assert mean[name][column] == pytest.approx(value, abs=6e-4), (name, column)


def test_vectors_that_are_no_numbers_are_no_hits() -> None:
    broken = torch.randn(5, 8)
    broken[2] = torch.nan
    with pytest.raises(DataError, match="NaN"):
        recall_at(broken, torch.randn(5, 8))


# --- beyond the mean


def _t(x):
    return torch.tensor(x)


def test_energy_distance_is_the_unbiased_statistic_written_out():
    a, b = _random(23, 4), _random(23, 4, seed=1) * 1.3 + 0.2
    total, count = 0.0, 0
    for i in range(23):
        for j in range(23):
            if i != j:
                d = [np.linalg.norm(p - q) for p, q in ((a[i], b[j]), (a[j], b[i]), (a[i], a[j]), (b[i], b[j]))]
                total += d[0] + d[1] - d[2] - d[3]
                count += 1
    assert energy_distance(_t(a), _t(b)) == pytest.approx(total / count)
    assert energy_distance(_t(a), _t(a)) == pytest.approx(0.0, abs=1e-12)
    with pytest.raises(DataError, match="N >= 2"):
        energy_distance(torch.ones(1, 4), torch.ones(1, 4))


def test_energy_distance_agrees_with_scipy_in_one_dimension(monkeypatch):
    from scipy.stats import energy_distance as scipy_distance

    monkeypatch.setattr("modbridge.distributions.CELLS", 500)  # several pieces
    a, b = _random(60, 1), _random(60, 1, seed=1) + 0.5
    # scipy gives the root of the statistic that counts i = j too.
    with_own = 60**2 * scipy_distance(a[:, 0], b[:, 0]) ** 2
    own = 2 * np.abs(a - b).sum()
    assert energy_distance(_t(a), _t(b)) == pytest.approx((with_own - own) / (60 * 59))


def test_energy_distance_of_one_law_is_zero_on_average_even_between_partners():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(300):
        a = rng.normal(size=(12, 3))
        found.append(energy_distance(_t(a), _t(0.9 * a + np.sqrt(1 - 0.81) * rng.normal(size=(12, 3)))))
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(300)
    assert min(found) < 0 < max(found)


@pytest.mark.parametrize("dim", [6, 80])  # fewer and more dimensions than rows
def test_separability_is_a_ridge_classifier_judged_on_the_other_half(dim):
    from sklearn.linear_model import RidgeClassifier

    from modbridge.noise import key_hash

    a, b = _random(40, dim), _random(40, dim, seed=1) + 0.25
    keys = [f"item{i}" for i in range(40)]
    order = sorted(range(40), key=lambda i: key_hash(keys[i]))
    right = 0
    for fit, test in ((order[0::2], order[1::2]), (order[1::2], order[0::2])):
        x = _n(np.concatenate([a[fit], b[fit]]))
        alpha = ((x - x.mean(0)) ** 2).sum() / dim
        classifier = RidgeClassifier(alpha=alpha).fit(x, [1] * 20 + [0] * 20)
        right += (classifier.predict(_n(a[test])) == 1).sum() + (classifier.predict(_n(b[test])) == 0).sum()
    found = separability(_t(a), _t(b), keys)
    assert found == pytest.approx(right / 80)
    assert 0.5 < found < 1.0
    shuffled = np.random.default_rng(3).permutation(40)
    assert separability(_t(a[shuffled]), _t(b[shuffled]), [keys[i] for i in shuffled]) == pytest.approx(found)


def test_separability_of_the_same_and_of_opposite_clouds():
    a = _t(_random(20))
    keys = [str(i) for i in range(20)]
    assert separability(a, a, keys) == 0.5
    assert separability(torch.ones(20, 3), torch.ones(20, 3), keys) == 0.5
    assert separability(a + 50, a - 50, keys) == 1.0
    assert separability(a[:3], a[:3] + 1, keys[:3]) is None
    with pytest.raises(DataError, match="keys"):
        separability(a, a, keys[:4])


def test_hubness_agrees_with_sorting_and_with_scipy_s_skewness(monkeypatch):
    from scipy.stats import skew

    monkeypatch.setattr("modbridge.neighbours.CELLS", 300)
    queries, gallery = _random(50), _random(50, seed=1) + 0.5
    order = np.argsort(-(_n(queries) @ _n(gallery).T), axis=1)
    tens, ones = (np.bincount(order[:, :k].flatten(), minlength=50) for k in (10, 1))
    votes = occurrences(_t(queries), _t(gallery), (10, 1))
    np.testing.assert_allclose(votes[10], tens)
    np.testing.assert_allclose(votes[1], ones)
    skewed, top = hubs(_t(queries), _t(gallery))
    assert skewed == pytest.approx(skew(tens))
    assert top == pytest.approx(ones.max() / 50)


def test_equal_answers_share_their_votes():
    gallery = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    votes = occurrences(torch.tensor([[2.0, 0]]).expand(6, 2), gallery, (1, 2, 9))
    np.testing.assert_allclose(votes[1], [2, 2, 2, 0])
    np.testing.assert_allclose(votes[2], [4, 4, 4, 0])
    np.testing.assert_allclose(votes[9], [6, 6, 6, 6])
    assert hubs(torch.ones(5, 3), torch.ones(7, 3)) == (0.0, pytest.approx(1 / 7))


@pytest.mark.parametrize("chunk", [7, 1000])
def test_the_nearest_of_a_centred_gallery(chunk):
    x, gallery, mean = _random(9), _random(40, seed=1), _random(1, seed=2)[0] * 0.1
    wanted = (_n(x) @ _n(_n(gallery) - mean).T).max(1)
    np.testing.assert_allclose(nearest_cosine(_t(x), _t(gallery), _t(mean), chunk), wanted, atol=1e-12)


def test_dimensions_agree_with_numpy():
    a, b = _random(30) + np.arange(8), _random(30, seed=1)
    x, y = _n(a), _n(b)
    found = Dimensions.of(_t(a), _t(b))
    shift = x.mean(0) - y.mean(0)
    np.testing.assert_allclose(found.mean_shift, shift, atol=1e-12)
    np.testing.assert_allclose(found.std_ratio, x.std(0, ddof=1) / y.std(0, ddof=1))
    assert found.spread_ratio == pytest.approx(np.sqrt(x.var(0).sum() / y.var(0).sum()))
    assert found.share_of_largest(3) == pytest.approx(np.sort(shift**2)[-3:].sum() / (shift**2).sum())
    assert found.share_of_largest(99) == pytest.approx(1.0)
    assert found.std_quantile(0.05) == pytest.approx(np.quantile(x.std(0) / y.std(0), 0.05))
    assert float((found.mean_shift**2).sum() ** 0.5) == pytest.approx(gap_norm(_t(a), _t(b)))


def test_dimensions_without_shift_or_spread_have_no_share():
    same = Dimensions.of(_t(_random(5)), _t(_random(5)))
    assert same.share_of_largest() is None
    flat = Dimensions.of(torch.ones(5, 3), torch.ones(5, 3))
    assert flat.spread_ratio is None
    assert flat.std_quantile(0.5) is None


def test_histograms_agree_with_numpy(monkeypatch):
    monkeypatch.setattr("modbridge.measures.CELLS", 200)
    a, b = _random(40), _random(40, seed=1)
    cosines = _n(a) @ _n(b).T
    paired, unpaired = cosine_counts(_t(a), _t(b), 20)
    off = cosines[~np.eye(40, dtype=bool)]
    np.testing.assert_array_equal(paired, np.histogram(np.diag(cosines), 20, (-1, 1))[0])
    np.testing.assert_array_equal(unpaired, np.histogram(off, 20, (-1, 1))[0])
    assert cosine_counts(_t(a), _t(a), 20)[0][-1] == 40  # a cosine of 1 falls into the last bin


def test_the_harmonic_mean_needs_both():
    import statistics

    assert harmonic_mean(0.5, 0.7) == pytest.approx(statistics.harmonic_mean([0.5, 0.7]))
    assert harmonic_mean(-0.1, 0.9) == harmonic_mean(0.4, 0.0) == 0.0


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_no_measure_takes_vectors_that_are_no_numbers(value):
    broken, whole = torch.ones(6, 3), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    broken[1, 1] = value
    keys = list("abcdef")
    for measure in (
        lambda: separability(broken, whole, keys),
        lambda: hubs(whole, broken),
        lambda: nearest_cosine(broken, whole, torch.zeros(3)),
        lambda: Dimensions.of(whole, broken),
        lambda: cosine_counts(broken, whole),
        lambda: energy_distance(whole, broken),
    ):
        with pytest.raises(DataError, match="NaN"):
            measure()
