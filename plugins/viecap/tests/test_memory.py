"""Names found by way of the training captions."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from modbridge_viecap.retrieval_config import Retrieval
from modbridge_viecap.retrievers import Candidate, Side, build_retriever
from pydantic import TypeAdapter

from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError
from modbridge.spaces import Embeddings, Port, Space

# Cosines of the captions with the first axis, along which the items look: .9, .8 ... .3
CAPTIONS = [
    "a dog and a cat",
    "a dog on a boat",
    "the dog the dog",
    "a cat on a sofa",
    "a puppy on a boat",
    "a tree",
    "a bird in a tree",
]
WORDS = ["dog", "cat", "boat", "sofa", "puppy", "tree", "bird"]


def store_of(captions=CAPTIONS, axis=0, cosines=None):
    cosines = torch.tensor(cosines or [0.9 - 0.1 * row for row in range(len(captions))])
    vectors = torch.zeros(len(captions), 4)
    vectors[:, axis], vectors[:, 3] = cosines, (1 - cosines**2).sqrt()
    port = Port(space=Space(id="toy", dim=4), modality="text")
    embeddings = Embeddings(vectors, port, tuple(f"{row}#0" for row in range(len(captions))))
    return Datastore.of(embeddings, captions, torch.device("cpu"))


def extract(texts):
    return [[word for word in text.split() if word in WORDS] for text in texts]


def found_by(config, store=None, vectors=None, queries=((1.0, 0.0, 0.0, 0.0),), sides=None):
    names = torch.eye(len(WORDS)) if vectors is None else vectors
    vocabulary = SimpleNamespace(listed=WORDS, vectors=names, parents=dict)
    retriever = build_retriever(
        TypeAdapter(Retrieval).validate_python(config),
        vocabulary,
        store=store_of() if store is None else store,
        extract=extract,
    )
    sides = [Side(torch.tensor(queries), names)] if sides is None else sides
    return retriever.retrieve(sides, [str(n) for n in range(len(sides[0].queries))], 0)


def rounded(candidates):
    return [(c.name, round(c.score, 4), c.kept) for c in candidates]


def test_frequent_names_are_kept():
    """dog: 3 of the 5 nearest; boat, cat: 2, of which cat has the nearer captions (.9, .6 against .8, .5)."""
    (found,) = found_by({"type": "frequency", "captions": 5, "min_count": 2})
    assert rounded(found) == [
        ("dog", 0.6, True),
        ("cat", 0.4, True),
        ("boat", 0.4, True),
        ("sofa", 0.2, False),
        ("puppy", 0.2, False),
    ]
    (found,) = found_by({"type": "frequency", "captions": 5, "min_count": 2, "most": 2})
    assert [c.name for c in found if c.kept] == ["dog", "cat"]


def test_the_bar_is_set_by_the_names_found():
    """Counts 3, 2, 2, 1, 1: mean 1.8, standard deviation .748."""
    config = {"type": "frequency", "captions": 5}
    kept = {
        alpha: [c.name for c in found_by({**config, "alpha": alpha})[0] if c.kept] for alpha in (0.0, 0.3, 1.5, 1.7)
    }
    assert kept == {0.0: ["dog", "cat", "boat"], 0.3: ["dog"], 1.5: ["dog"], 1.7: []}


def test_by_default_five_of_nine_captions_must_say_it():
    captions = [f"a dog number {n}" for n in range(5)] + [f"a cat number {n}" for n in range(4)]
    (found,) = found_by("frequency", store_of(captions, cosines=[0.9] * 9))
    assert rounded(found) == [("dog", round(5 / 9, 4), True), ("cat", round(4 / 9, 4), False)]


def test_like_concepts_are_one():
    """puppy is like dog once the names' mean is gone: both point one way there, and the better one stays."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.eye(7, 8)
    vectors[WORDS.index("puppy")] = vectors[0] + 0.3 * torch.randn(8, generator=generator)
    vectors = torch.nn.functional.normalize(vectors + 2.0, dim=1)  # a direction that all share, as CLIP's texts do
    (found,) = found_by("memory", vectors=vectors)
    assert rounded(found) == [
        ("dog", 0.6, True),
        ("cat", 0.4, True),
        ("boat", 0.4, True),
        ("sofa", 0.2, True),
        ("puppy", 0.2, False),
    ]
    (apart,) = found_by({"type": "memory", "merge": 1.0, "most": 5}, vectors=vectors)
    assert all(c.kept for c in apart)
    (few,) = found_by({"type": "memory", "most": 2}, vectors=vectors)
    assert [c.name for c in few if c.kept] == ["dog", "cat"]


def test_what_is_no_name_is_like_nothing():
    store = store_of(["a dog and a puppy", "a wolf and a hound"])
    vocabulary = SimpleNamespace(listed=["dog", "hound", "cat"], vectors=torch.eye(3)[[0, 0, 1]], parents=dict)
    retriever = build_retriever(
        TypeAdapter(Retrieval).validate_python({"type": "memory", "merge": 0.5}),
        vocabulary,
        store=store,
        extract=lambda texts: [[word for word in text.split() if len(word) > 3 or word == "dog"] for text in texts],
    )
    (found,) = retriever.retrieve([Side(torch.eye(4)[:1], torch.eye(4))], "a", 0)
    assert {c.name: c.kept for c in found} == {"dog": True, "puppy": True, "hound": False, "wolf": True}


def test_both_sides_look_together():
    """Captions whose mean cosine over both sides is the greatest: .45, .45, .75 and .1."""
    texts = ["a dog", "a cat", "a boat", "a tree"]
    raw, bridged = store_of(texts, cosines=[0.9, 0.0, 0.7, 0.1]), store_of(texts, axis=1, cosines=[0.0, 0.9, 0.8, 0.1])
    sides = [Side(torch.eye(4)[:1], torch.eye(4)), Side(torch.eye(4)[1:2], torch.eye(4))]
    config = {"type": "frequency", "source": "mix", "captions": 1, "min_count": 1}
    assert found_by(config, raw.beside(bridged), sides=sides) == [(Candidate("boat", 1.0, True),)]
    (near,) = raw.beside(bridged).nearest_scored(torch.cat([side.queries for side in sides], dim=1), 4)
    assert [text for text, _ in near] == ["a boat", "a dog", "a cat", "a tree"]
    assert [cosine for _, cosine in near] == pytest.approx([0.75, 0.45, 0.45, 0.1], abs=1e-3)
    with pytest.raises(ArtefactError, match="not the same: 4 captions, and 7"):
        raw.beside(store_of())


def test_captions_are_given_with_their_cosines():
    store = store_of()
    queries = torch.nn.functional.normalize(torch.tensor([[1.0, 0, 0, 0], [0.5, 0, 0, 0.5]]), dim=1)
    found = store.nearest_scored(queries, 3)
    vectors = store.vectors.double().numpy()
    for row, query in zip(found, queries.double().numpy(), strict=True):
        cosines = vectors @ query / (vectors**2).sum(1) ** 0.5
        best = (-cosines).argsort()[:3]
        assert [text for text, _ in row] == [CAPTIONS[i] for i in best]
        assert [cosine for _, cosine in row] == pytest.approx(cosines[best].tolist(), abs=1e-6)
    assert store.nearest(queries, 3) == [[text for text, _ in row] for row in found]
    assert len(store.nearest_scored(queries, 99)[0]) == len(CAPTIONS)
    assert store.nearest_scored(queries[:0], 3) == []


def test_a_store_without_its_mean():
    store = store_of()
    mean = torch.tensor([0.6, 0.0, 0.0, 0.5])
    expected = torch.nn.functional.normalize(store.vectors.double() - mean, dim=1)
    assert torch.allclose(store.centred(mean).vectors.double(), expected, atol=2e-3)
    assert store.centred(mean).texts == store.texts


@pytest.mark.parametrize("config", [{"type": "frequency", "min_count": 1}, "memory"])
def test_a_batch_gives_what_its_items_give_alone_and_inputs_stay(config):
    queries = torch.nn.functional.normalize(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    before = queries.clone()
    together = found_by(config, sides=[Side(queries, torch.eye(7))])
    assert together == [found_by(config, sides=[Side(row[None], torch.eye(7))])[0] for row in queries]
    assert torch.equal(queries, before)


@pytest.mark.parametrize("config", [{"type": "frequency", "captions": 3, "min_count": 1}, {"type": "memory"}])
@pytest.mark.parametrize("source", ["raw", "mix"])
def test_captions_that_an_index_picks_out(config, source):
    """An index of so few has one list, in which nothing is missed."""
    sides = [Side(torch.eye(4)[:2], torch.eye(4)), Side(torch.eye(4)[1:3], torch.eye(4))][: 2 if source == "mix" else 1]
    store = store_of() if source == "raw" else store_of().beside(store_of(axis=1))
    config = {**config, "source": source}
    assert found_by({**config, "search": "faiss"}, store, sides=sides) == found_by(config, store, sides=sides)


def test_without_captions_nothing_is_built():
    vocabulary = SimpleNamespace(listed=WORDS, vectors=torch.eye(7), parents=dict)
    with pytest.raises(ValueError, match="training captions"):
        build_retriever(TypeAdapter(Retrieval).validate_python("memory"), vocabulary, extract=extract)
