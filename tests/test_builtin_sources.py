"""The folder and jsonl sources."""

from __future__ import annotations

import gzip
import json
import os

import pytest

from modbridge.errors import ConfigError, DataError
from modbridge.plugins.manager import Plugins
from modbridge.testing import build_config


@pytest.fixture(scope="module")
def make():
    registry = Plugins.discover().registry

    def source(**block):
        return registry.get("source", block["type"]).load_impl()(build_config("source", block, registry))

    return source


def _touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())


def _jsonl(path, *rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def test_a_folder_in_order_without_hidden_and_foreign_files(tmp_path, make):
    _touch(tmp_path, "b.PNG", "a.jpg", "sub/c.jpeg", "notes.txt", "._a.jpg", ".cache/d.jpg", "e.wav")
    source = make(type="folder", path=str(tmp_path))
    assert source.keys() == ["a", "b", "sub/c"]
    assert source.media(2) == tmp_path / "sub/c.jpeg"
    assert source.texts(0) == ()
    assert not source.config.captioned
    assert make(type="folder", path=str(tmp_path), recursive=False).keys() == ["a", "b"]
    assert make(type="folder", path=str(tmp_path), modality="audio").keys() == ["e"]
    assert make(type="folder", path=str(tmp_path), modality="audio").modality == "audio"
    assert make(type="folder", path=str(tmp_path), extensions=[".txt"]).keys() == ["notes"]


def test_files_that_differ_in_their_suffix_only_keep_it(tmp_path, make):
    _touch(tmp_path, "a.jpg", "a.png", "b.jpg")
    assert make(type="folder", path=str(tmp_path)).keys() == ["a.jpg", "a.png", "b.jpg"]


def test_rows_then_limit(tmp_path, make):
    _touch(tmp_path, *(f"{i}.jpg" for i in range(6)))
    assert make(type="folder", path=str(tmp_path), rows=[1, 5], limit=2).keys() == ["1", "2"]
    with pytest.raises(DataError, match="at most 6"):
        make(type="folder", path=str(tmp_path), rows=[0, 7])
    with pytest.raises(ConfigError, match="start < stop"):
        make(type="folder", path=str(tmp_path), rows=[3, 3])


def test_captions_beside_the_files(tmp_path, make):
    _touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.txt").write_text("a dog\n\n  two dogs \n")
    block = {"type": "folder", "path": str(tmp_path), "captions": "sidecar"}
    with pytest.raises(DataError, match=r"1 of 2 caption files are missing: .*b\.txt"):
        make(**block)
    source = make(**block, missing="skip")
    assert source.keys() == ["a"]
    assert source.texts(0) == ("a dog", "two dogs")
    assert source.embedded_texts(0) == 2
    assert source.skipped == (str(tmp_path / "b.txt"),)
    (tmp_path / "b.txt").write_text(" \n")
    with pytest.raises(DataError, match="no caption"):
        make(**block)


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_items_is_refused(tmp_path, make, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=name):
        make(type="folder", path=str(tmp_path / name))


def test_a_fingerprint_changes_with_the_content(tmp_path, make):
    _touch(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "a.txt").write_text("a dog")
    (tmp_path / "b.txt").write_text("a cat")

    def print_():
        return make(type="folder", path=str(tmp_path), captions="sidecar").fingerprint()

    seen = [print_()]
    assert print_() == seen[0]
    (tmp_path / "a.txt").write_text("a hog")
    seen.append(print_())
    os.utime(tmp_path / "b.jpg", ns=(1, 1))
    seen.append(print_())
    _touch(tmp_path, "c.jpg")
    (tmp_path / "c.txt").write_text("new")
    seen.append(print_())
    assert len(set(seen)) == 4


@pytest.mark.parametrize("name", ["items.jsonl", "items.jsonl.gz"])
def test_a_jsonl_file(tmp_path, make, name):
    _touch(tmp_path, "x/1.jpg", "x/2.jpg")
    path = _jsonl(
        tmp_path / name,
        {"image": "x/1.jpg", "captions": ["one", "uno"], "objects": ["dog"]},
        "",
        {"image": "x/2.jpg", "captions": "two"},
    )
    source = make(type="jsonl", path=path)
    assert source.keys() == ["x/1", "x/2"]
    assert source.texts(0) == ("one", "uno")
    assert source.texts(1) == ("two",)
    assert source.facts(0) == {"objects": ["dog"]}
    assert source.facts(1) == {}
    assert source.media(0) == tmp_path / "x/1.jpg"
    assert source.shard(1, 2).embedded_texts(0) == 1


def test_the_names_of_fields_can_be_given(tmp_path, make):
    _touch(tmp_path / "media", "1.wav")
    path = _jsonl(tmp_path / "i.jsonl", {"file": "1.wav", "id": 7, "text": "a bark"})
    block = {"type": "jsonl", "path": path, "root": str(tmp_path / "media"), "modality": "audio", "media": "file"}
    source = make(**block, key="id", captions="text")
    assert source.keys() == ["7"]
    assert source.texts(0) == ("a bark",)
    assert source.facts(0) == {}
    bare = make(**block, captions=None)
    assert bare.keys() == ["1"]
    assert bare.texts(0) == ()
    assert not bare.config.captioned


def test_every_bad_line_is_told_with_its_number(tmp_path, make):
    path = _jsonl(
        tmp_path / "i.jsonl",
        {"image": "1.jpg", "captions": ["x"]},
        {"img": "2.jpg", "captions": ["x"]},
        {"image": "3.jpg", "captions": []},
        {"image": "4.jpg", "captions": ["x", 5]},
    )
    with pytest.raises(DataError) as error:
        make(type="jsonl", path=path)
    assert [f"{path}:{line}:" in str(error.value) for line in (1, 2, 3, 4)] == [False, True, True, True]
    assert "'img'" in str(error.value)
    broken = _jsonl(tmp_path / "j.jsonl", "{", '"text"', {"image": "1.jpg"})
    with pytest.raises(DataError, match=r"j\.jsonl:1: not JSON[\s\S]*j\.jsonl:2: expected an object"):
        make(type="jsonl", path=broken)


def test_missing_media_are_counted_or_skipped(tmp_path, make):
    _touch(tmp_path, "2.jpg")
    path = _jsonl(tmp_path / "i.jsonl", *({"image": f"{i}.jpg", "captions": "x"} for i in range(6)))
    with pytest.raises(DataError, match=r"5 of 6 image files are missing: .*0\.jpg, .*1\.jpg, .*3\.jpg and 2 more"):
        make(type="jsonl", path=path)
    source = make(type="jsonl", path=path, missing="skip")
    assert source.keys() == ["2"]
    assert len(source.skipped) == 5
    with pytest.raises(DataError, match="is empty"):
        make(type="jsonl", path=path, missing="skip", limit=1)


def test_doubled_keys_and_damaged_files_are_refused(tmp_path, make):
    _touch(tmp_path, "1.jpg", "2.jpg")
    rows = [{"image": "1.jpg", "id": "a", "captions": "x"}, {"image": "2.jpg", "id": "a", "captions": "x"}]
    with pytest.raises(DataError, match="two items have the key 'a'"):
        make(type="jsonl", path=_jsonl(tmp_path / "i.jsonl", *rows), key="id")
    _jsonl(tmp_path / "k.jsonl.gz", *rows * 50)
    whole = (tmp_path / "k.jsonl.gz").read_bytes()
    (tmp_path / "k.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        make(type="jsonl", path=str(tmp_path / "k.jsonl.gz"))
    with pytest.raises(DataError, match="no such file"):
        make(type="jsonl", path=str(tmp_path / "nowhere.jsonl"))


def test_real_photographs(requires_data, make):
    folder = requires_data / "images" / "coco_val2017"
    source = make(type="jsonl", path=str(folder / "captions.jsonl"))
    assert len(source) == 24
    assert source.keys()[0] == "000000012280"
    assert all(len(source.texts(row)) == 5 for row in range(24))
    assert source.media(0).is_file()
