"""Stored vectors: the encoder and the source."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import BuildContext
from modbridge.plugins.manager import Plugins
from modbridge.testing import build_config

RNG = np.random.default_rng(0)
IMAGE = RNG.normal(size=(3, 4)).astype(np.float16)
TEXT = RNG.normal(size=(4, 4)).astype(np.float32)
VECTORS = {"image": {"array": "image", "keys": "ids"}, "text": {"array": "text", "keys": "owner"}}


@pytest.fixture(scope="module")
def registry():
    return Plugins.discover().registry


@pytest.fixture(scope="module")
def make(registry):
    def component(kind, **block):
        config = build_config(kind, {"type": "precomputed", **block}, registry)
        impl = registry.get(kind, "precomputed").load_impl()
        return impl(config, BuildContext()) if kind == "encoder" else impl(config)

    return component


def _npz(path, **changes):
    arrays = {"image": IMAGE, "text": TEXT, "ids": np.array([7, 8, 9]), "owner": np.array([8, 7, 8, 9]), **changes}
    np.savez_compressed(path, **arrays)
    return str(path)


def _safetensors(path):
    save_file(
        {"image": IMAGE, "text": TEXT, "ids": np.array([7, 8, 9])}, path, metadata={"owner": '["8", "7", "8", "9"]'}
    )
    return str(path)


@pytest.fixture(params=[_npz, _safetensors])
def file(request, tmp_path):
    return request.param(tmp_path / f"v.{request.param.__name__[1:]}")


def test_vectors_are_found_by_key_in_any_order(file, make):
    encoder = make("encoder", file=file, space="toy", vectors=VECTORS)
    image = encoder.encode([None] * 2, "image", keys=["9", "7"])
    np.testing.assert_array_equal(image.values.numpy(), IMAGE[[2, 0]].astype(np.float32))
    assert image.values.dtype == torch.float32
    text = encoder.encode([None] * 4, "text", keys=["7#0", "8#0", "8#1", "9#0"])
    np.testing.assert_array_equal(text.values.numpy(), TEXT[[1, 0, 2, 3]])
    assert encoder.lookup((), "image").shape == (0, 4)
    assert (text.port.space.id, text.port.space.dim, text.port.modality) == ("toy", 4, "text")


def test_vectors_can_be_normalised(file, make):
    encoder = make("encoder", file=file, space="toy", vectors=VECTORS, normalise=True)
    found = encoder.encode([None], "image", keys=["8"])
    row = IMAGE[1].astype(np.float64)
    np.testing.assert_allclose(found.values.numpy()[0], row / np.linalg.norm(row), atol=1e-7)
    assert found.port.space.normalised


def test_without_keys_rows_are_numbered(file, make):
    vectors = {"image": {"array": "image"}, "text": {"array": "text"}}
    encoder = make("encoder", file=file, space="toy", vectors=vectors)
    np.testing.assert_array_equal(encoder.lookup(["2"], "image").numpy(), IMAGE[[2]].astype(np.float32))
    np.testing.assert_array_equal(encoder.lookup(["3#0"], "text").numpy(), TEXT[[3]])


def test_string_keys(tmp_path, make):
    for names in (np.array(["a", "b", "ç"]), np.array([b"a", b"b", "ç".encode()])):
        encoder = make("encoder", file=_npz(tmp_path / "v.npz", ids=names), space="toy", vectors=VECTORS)
        np.testing.assert_array_equal(encoder.lookup(["ç"], "image").numpy(), IMAGE[[2]].astype(np.float32))


def test_a_missing_key_is_named(file, make):
    encoder = make("encoder", file=file, space="toy", vectors=VECTORS)
    with pytest.raises(DataError, match=r"no image vector of 10 \(1 of 2 items\).*named like '7'"):
        encoder.encode([None] * 2, "image", keys=["7", "10"])
    with pytest.raises(DataError, match="8#2"):
        encoder.encode([None], "text", keys=["8#2"])
    with pytest.raises(PortError, match="audio"):
        encoder.encode([None], "audio", keys=["7"])


def test_sequences_have_tokens(tmp_path, make):
    vectors = {"text": {"array": "text"}}
    encoder = make("encoder", file=_npz(tmp_path / "v.npz", text=np.ones((2, 5, 4))), space="toy", vectors=vectors)
    assert encoder.encode([None], "text", keys=["1#0"]).values.shape == (1, 5, 4)
    assert encoder.port("text").tokens == 5


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_sequences_of_different_lengths_have_a_mask(tmp_path, make, suffix, normalise):
    values = RNG.normal(size=(3, 5, 4)).astype(np.float32)
    mask = np.arange(5) < np.array([[2], [5], [1]])
    arrays = {"seq": np.where(mask[..., None], values, np.float32(0)), "there": mask}
    path = tmp_path / f"v.{suffix}"
    np.savez(path, **arrays) if suffix == "npz" else save_file(arrays, path)
    vectors = {"text": {"array": "seq", "mask": "there"}}
    encoder = make("encoder", file=str(path), space="toy", vectors=vectors, normalise=normalise)
    assert (encoder.port("text").tokens, encoder.port("text").ragged) == (5, True)
    found = encoder.encode([None] * 2, "text", keys=["2#0", "0#0"])
    np.testing.assert_array_equal(found.mask.numpy(), mask[[2, 0]])
    expected = values / np.linalg.norm(values, axis=2, keepdims=True) if normalise else values
    np.testing.assert_allclose(found.values.numpy(), np.where(mask[..., None], expected, 0)[[2, 0]], atol=1e-6)


def test_a_mask_must_fit_its_sequences(tmp_path, make):
    mask = np.ones((2, 4), bool)
    path = _npz(tmp_path / "v.npz", text=np.ones((2, 5, 4)), there=mask, numbers=np.ones((2, 5)))
    for vectors, told in (
        ({"array": "text", "mask": "there"}, r"the mask 'there' has the shape \(2, 4\)"),
        ({"array": "image", "mask": "there"}, "the mask 'there' has the shape"),
        ({"array": "text", "mask": "numbers"}, "holds float64; expected bool"),
    ):
        encoder = make("encoder", file=path, space="toy", vectors={"text": vectors})
        with pytest.raises(DataError, match=told):
            encoder.encode([None], "text", keys=["1#0"])


def test_without_a_mask_keys_are_what_they_were(file, make):
    given = make("encoder", file=file, space="toy", vectors=VECTORS).config.key_fields()["vectors"]
    assert given == VECTORS


def test_ports_are_known_without_loading(file):
    code = (
        "import sys; from modbridge.builtin.precomputed_config import PrecomputedConfig as C;"
        f"c = C(type='precomputed', file={file!r}, space='s', vectors={VECTORS!r});"
        "print(c.emits('image').space.dim, {'torch', 'numpy'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "4 set()"


def test_a_file_still_to_be_given_has_no_dimension(registry):
    block = {"type": "precomputed", "file": "${vectors}", "space": "toy", "vectors": VECTORS}
    config = build_config("encoder", block, registry)
    assert config.emits("image").space.dim is None
    assert config.modalities == ("image", "text")


def test_the_content_decides_the_cache_key_and_not_the_name(tmp_path, registry):
    def key(file):
        block = {"type": "precomputed", "file": file, "space": "toy", "vectors": VECTORS}
        return build_config("encoder", block, registry).key_fields()

    one, same = _npz(tmp_path / "a.npz"), _npz(tmp_path / "b.npz")
    other = _npz(tmp_path / "c.npz", image=IMAGE + np.float16(1))
    assert key(one) == key(same) != key(other)


@pytest.mark.parametrize("share", [0.02, 0.5, 0.97])
def test_a_file_cut_short_is_refused(file, make, share, tmp_path):
    path = tmp_path / file.rsplit("/", 1)[1]
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(ArtefactError, match="damaged or cut short"):
        make("encoder", file=file, space="toy", vectors=VECTORS).encode([None], "image", keys=["7"])


def test_flipped_bytes_in_an_npz_are_noticed(tmp_path, make):
    path = tmp_path / "v.npz"
    encoder = make("encoder", file=_npz(path), space="toy", vectors=VECTORS)
    data = bytearray(path.read_bytes())
    start = data.index(b"image.npy") + 60
    data[start : start + 60] = bytes(60)
    path.write_bytes(bytes(data))
    with pytest.raises(ArtefactError, match="damaged"):
        encoder.encode([None], "image", keys=["7"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": np.array([[1, 2], [3, 4], [5, 6]])}, "expected floats"),
        ({"image": np.ones(3)}, "expected .items, dimension"),
        ({"ids": np.array([7, 8])}, "2 ids for the 3 rows"),
        ({"ids": np.array([7, 8, 8])}, "8 stand more than once"),
        ({"ids": np.array([7.0, 8.0, 9.0])}, "cannot serve as item ids"),
        ({"image": np.array([[np.nan, 1], [1, 1], [1, 1]])}, "vectors of 7 hold NaN"),
        ({"image": np.zeros((3, 4))}, "image vectors of 7 are zero"),
    ],
)
def test_arrays_that_cannot_serve_are_refused(tmp_path, make, changes, message):
    file = _npz(tmp_path / "v.npz", **changes)
    with pytest.raises(DataError, match=message):
        make("encoder", file=file, space="toy", vectors=VECTORS, normalise="zero" in message).encode(
            [None], "image", keys=["7"]
        )


def test_a_missing_file_or_array_is_told_with_what_there_is(tmp_path, make, file):
    def encode(path, vectors):
        make("encoder", file=path, space="toy", vectors=vectors).encode([None], "image", keys=["7"])

    with pytest.raises(DataError, match=r"no array 'images'; it holds .*'image'"):
        encode(file, {"image": {"array": "images"}})
    with pytest.raises(DataError, match="no array 'id'"):
        encode(file, {"image": {"array": "image", "keys": "id"}})
    with pytest.raises(DataError, match="no such file"):
        encode(str(tmp_path / "none.npz"), VECTORS)
    with pytest.raises(DataError, match=r"read from \.npz or \.safetensors"):
        encode(str(tmp_path / "v.pt"), VECTORS)


def test_a_source_without_captions_has_empty_texts_where_there_are_vectors(file, make):
    source = make("source", file=file, vectors=VECTORS)
    assert source.keys() == ["7", "8", "9"]
    assert [source.texts(row) for row in range(3)] == [("",), ("", ""), ("",)]
    assert not source.config.captioned
    assert source.modality == "image"
    alone = make("source", file=file, vectors={"image": VECTORS["image"]}, rows=[1, 3])
    assert alone.keys() == ["8", "9"]
    assert alone.texts(0) == ()


def _captions(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_captions_are_joined_and_the_embedded_one_comes_first(file, make, tmp_path):
    captions = _captions(
        tmp_path / "c.jsonl",
        {"id": 9, "captions": ["n0", "n1"], "at": 1, "size": 3},
        {"id": 8, "captions": ["e0", "e1", "e2"], "at": 2},
        {"id": 7, "captions": ["s0"], "at": 0},
        {"id": 6, "captions": ["unused"], "at": 0},
    )
    source = make("source", file=file, vectors=VECTORS, captions=captions, key_field="id", first="at")
    assert [source.texts(row) for row in range(3)] == [("s0",), ("e2", "e0", "e1"), ("n1", "n0")]
    assert [source.embedded_texts(row) for row in range(3)] == [1, 2, 1]
    assert source.shard(1, 2).embedded_texts(0) == 2
    assert source.facts(2) == {"size": 3}


def test_items_and_captions_that_do_not_match_are_told(file, make, tmp_path):
    block = {"file": file, "vectors": VECTORS, "key_field": "id"}
    some = _captions(tmp_path / "a.jsonl", {"id": 7, "captions": "x"}, {"id": 8, "captions": ["x", "y"]})
    with pytest.raises(DataError, match=r"no line for 1 of 3 items: 9"):
        make("source", **block, captions=some)
    skipping = make("source", **block, captions=some, missing="skip")
    assert skipping.keys() == ["7", "8"]
    assert skipping.skipped == ("9",)
    short = _captions(tmp_path / "b.jsonl", *({"id": i, "captions": "x"} for i in (7, 8, 9)))
    with pytest.raises(DataError, match=r"8: more text vectors than captions \(2 for 1"):
        make("source", **block, captions=short)
    bad = _captions(tmp_path / "c.jsonl", {"id": 7, "captions": ["x"], "at": 1}, {"id": 7, "captions": ["x"], "at": 0})
    with pytest.raises(DataError, match=r"c\.jsonl:1: .*'at' holds 1; expected a caption's number, 0 to 0"):
        make("source", **block, captions=bad, first="at")
    twice = _captions(tmp_path / "d.jsonl", *({"id": 7, "captions": ["x"]} for _ in range(2)))
    with pytest.raises(DataError, match=r"d\.jsonl:2: a second line for the item '7'"):
        make("source", **block, captions=twice)


def test_configs_that_contradict_themselves(file, registry):
    block = {"type": "precomputed", "file": file, "vectors": VECTORS}
    with pytest.raises(ConfigError, match="no entry for the modality 'audio'"):
        build_config("source", {**block, "modality": "audio"}, registry)
    with pytest.raises(ConfigError, match="give `captions`"):
        build_config("source", {**block, "first": "at"}, registry)


def test_real_pairs(requires_data, make):
    folder = requires_data / "embeddings"
    place = {"array": "image", "keys": "image_id"}
    block = {
        "file": str(folder / "coco500_clip_vitb16.npz"),
        "vectors": {"image": place, "text": {**place, "array": "text"}},
    }
    source = make(
        "source",
        **block,
        captions=str(folder / "coco500_captions.jsonl"),
        key_field="image_id",
        first="embedded_caption",
        rows=[400, 500],
    )
    assert len(source) == 100
    assert {(len(source.texts(row)), source.embedded_texts(row)) for row in range(100)} == {(5, 1)}
    encoder = make("encoder", **block, space="open_clip/ViT-B-16/openai")
    keys = source.keys()
    found = encoder.encode([source.media(0)], "image", keys=keys[:1])
    texts = encoder.encode(source.texts(0)[:1], "text", keys=[f"{keys[0]}#0"])
    with np.load(block["file"]) as file:
        np.testing.assert_array_equal(found.values.numpy()[0], file["image"][400].astype(np.float32))
        np.testing.assert_array_equal(texts.values.numpy()[0], file["text"][400].astype(np.float32))
    assert found.port.space.dim == 512
