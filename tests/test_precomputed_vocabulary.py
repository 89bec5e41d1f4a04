"""Names whose vectors are there already."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from modbridge.errors import DataError, PortError
from modbridge.interfaces import BuildContext
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings, Port, Space
from modbridge.testing import MemoryFitting, build_config

VECTORS = np.array([[2.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 3.0, 4.0], [0.0, 0.0, 1.0]], dtype=np.float32)
NAMES = ["tench, Tinca tinca", "crane", "ship", "crane, lifter"]


@pytest.fixture(scope="module")
def registry():
    return Plugins.discover().registry


def port(space="toy", dim=3, **more):
    return Port(space=Space(id=space, dim=dim), modality="text", **more)


@pytest.fixture
def make(registry, tmp_path):
    def vocabulary(vectors=VECTORS, names=NAMES, suffix=".npz", at=None, **block):
        path, listed = tmp_path / f"vectors{suffix}", tmp_path / "names.json"
        save_file({"v": vectors}, path) if suffix == ".safetensors" else np.savez(path, v=vectors)
        listed.write_text(names if isinstance(names, str) else json.dumps(names))
        block = {"path": str(path), "vectors": "v", "names": str(listed), "space": "toy", **block}
        config = build_config("vocabulary", {"type": "precomputed", **block}, registry)
        impl = registry.get("vocabulary", "precomputed").load_impl()
        return impl(config, BuildContext(ports={"text": at or port()}))

    return vocabulary


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_names_get_the_stored_vectors_at_unit_length(make, suffix):
    vocabulary = make(suffix=suffix, names=["a", "b", "c", "d"])
    vocabulary.index(MemoryFitting())
    assert vocabulary.listed == ["a", "b", "c", "d"]
    expected = [[1, 0, 0], [0, 1, 0], [0, 0.6, 0.8], [0, 0, 1]]
    torch.testing.assert_close(vocabulary.vectors, torch.tensor(expected, dtype=torch.float32))
    items = Embeddings(torch.tensor([[0.0, 4.0, 3.0]]), port(), ("x",))
    (found,) = vocabulary.nearest(items, 2)
    assert [entity.name for entity in found] == ["c", "b"]
    assert found[0].score == pytest.approx((0.6 * 4 + 0.8 * 3) / 5)


def test_a_name_that_stands_twice_is_one(make):
    vocabulary = make(separator=",")
    vocabulary.index(MemoryFitting())
    assert vocabulary.listed == ["tench", "crane", "ship"]
    torch.testing.assert_close(vocabulary.vectors[1], torch.tensor([0.0, 0.5**0.5, 0.5**0.5]))
    assert vocabulary.synonyms() == {"tench": ("Tinca tinca",), "crane": ("lifter",)}


def test_a_word_for_two_names_stands_for_neither(make):
    vocabulary = make(names=["bat, club", "racket, club", "club house, bat", "ship, boat"], separator=",")
    assert vocabulary.synonyms() == {"ship": ("boat",)}


def test_without_separator_entries_are_names(make):
    assert make().names() == NAMES
    assert make().synonyms() == {}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (port("other"), r"another space.*raw 3-d text vectors of toy; found raw 3-d text vectors of other"),
        (port(dim=4), "another dimension"),
        (port(tokens=5), "sequences"),
    ],
)
def test_another_space_is_refused(make, other, message):
    with pytest.raises(PortError, match=message) as caught:
        make().config.check(other)
    assert caught.value.exit_code == 1
    with pytest.raises(PortError, match=message):
        make(at=other).index(MemoryFitting())


def test_what_is_to_be_given_is_not_looked_for(make):
    config = make(path="${paths.vectors}").config
    config.check(port())
    with pytest.raises(PortError, match="another space"):
        config.check(port("other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ["a", "b", "c"]}, "holds 4 vectors, .* 3 names"),
        ({"names": "{}"}, "no list of names"),
        ({"names": "[1, 2]"}, "no list of names"),
        ({"names": "["}, "cannot be read"),
        ({"names": ["a", " ", "c", "d"]}, "entry 2 is empty"),
        ({"names": []}, "holds 4 vectors, .* 0 names"),
        ({"vectors": VECTORS * [[1], [0], [1], [1]]}, "the vector of 'crane' is zero"),
        ({"vectors": VECTORS * [[1], [1], [np.nan], [1]]}, "the vector of 'ship' is zero or not finite"),
        ({"vectors": VECTORS[0]}, r"the shape \(3,\)"),
        ({"vectors": np.ones((4, 3), dtype=np.int64)}, "expected floats"),
    ],
)
def test_files_that_do_not_fit(make, changes, message):
    with pytest.raises(DataError, match=message):
        make(**changes).index(MemoryFitting())


def test_files_count_by_content(make, tmp_path):
    first = make().config.key_fields()
    (tmp_path / "moved.npz").write_bytes((tmp_path / "vectors.npz").read_bytes())
    assert make(path=str(tmp_path / "moved.npz")).config.key_fields() == first
    assert make(names=[*NAMES[:3], "sea"]).config.key_fields() != first


def test_it_is_kept_without_its_files(make, tmp_path):
    vocabulary = make()
    vocabulary.index(MemoryFitting())
    tensors = vocabulary.tensors()
    folder = tmp_path / "kept"
    folder.mkdir()
    vocabulary.save_extra(folder)
    other = make()
    (tmp_path / "names.json").unlink()
    (tmp_path / "vectors.npz").unlink()
    other.load_extra(folder)
    other.load_tensors(tensors)
    assert other.listed == NAMES
    assert torch.equal(other.vectors, vocabulary.vectors)


def test_imagenets_names_by_clip(registry, requires_data):
    folder = requires_data / "embeddings"
    block = {
        "type": "precomputed",
        "path": str(folder / "imagenet1000_clip_text_vitb32.npz"),
        "vectors": "text",
        "names": str(folder / "imagenet1000_names.json"),
        "space": "openai/ViT-B-32",
    }
    config = build_config("vocabulary", block, registry)
    own = port("openai/ViT-B-32", 512)
    config.check(own)
    vocabulary = registry.get("vocabulary", "precomputed").load_impl()(config, BuildContext(ports={"text": own}))
    vocabulary.index(MemoryFitting())
    assert len(vocabulary.listed) == 999  # "crane" is a bird and a machine

    names = json.loads((folder / "imagenet1000_names.json").read_text())
    stored = np.load(folder / "imagenet1000_clip_text_vitb32.npz")["text"].astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    queries = np.load(folder / "clip_vitb32_golden.npz")["text"].astype(np.float64)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    cosines = queries @ stored.T
    found = vocabulary.nearest(Embeddings(torch.from_numpy(queries), own, ("a", "b", "c")), 5)
    for row, entities in zip(cosines, found, strict=True):
        best = np.argsort(-row)[:5]
        assert [entity.name for entity in entities] == [names[i] for i in best]
        np.testing.assert_allclose([entity.score for entity in entities], row[best], atol=1e-6)

    coco = build_config(
        "encoder",
        {
            "type": "precomputed",
            "file": str(folder / "coco500_clip_vitb16.npz"),
            "space": "openai/ViT-B-16",
            "vectors": {"text": {"array": "text", "keys": "image_id"}},
        },
        registry,
    )
    with pytest.raises(PortError, match=r"trained apart.*openai/ViT-B-32; found .*openai/ViT-B-16"):
        config.check(coco.emits("text"))
