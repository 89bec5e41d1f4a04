"""The sources `coco_captions` and `flickr30k`: layouts, splits, missing images, fingerprints."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from modbridge_clip.coco import CocoCaptions, Flickr30k
from PIL import Image

from modbridge.errors import ConfigError, DataError
from modbridge.testing import build_config

KARPATHY: dict[str, Any] = {
    "images": [
        {"filename": f"COCO_val2014_00000000000{i}.jpg", "filepath": "val2014", "split": split,
         "sentences": [{"raw": f"item {i}, caption {k} \n"} for k in range(2)]}
        for i, split in enumerate(["train", "restval", "val", "test", "train"])
    ],
    "dataset": "coco",
}  # fmt: skip
OFFICIAL = {
    "images": [{"file_name": "000000000009.jpg", "id": 9}, {"file_name": "000000000007.jpg", "id": 7}],
    "annotations": [
        {"image_id": 7, "id": 3, "caption": "seven, later"},
        {"image_id": 9, "id": 2, "caption": "nine"},
        {"image_id": 7, "id": 1, "caption": "seven, first"},
    ],
}
LINES = [{"image": "b.jpg", "captions": ["bee"]}, {"image": "a.jpg", "captions": ["ay", "A"]}]


def source(**block: Any) -> CocoCaptions:
    return CocoCaptions(build_config("source", {"type": "coco_captions", **block}))


def write(path: Path, content: Any) -> str:
    text = "\n".join(map(json.dumps, content)) if isinstance(content, list) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def photographs(folder: Path, *names: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (4, 4)).save(folder / name)
    return str(folder)


def test_karpathy_splits(tmp_path: Path) -> None:
    file = write(tmp_path / "dataset_coco.json", KARPATHY)
    assert source(captions=file, split="test").keys() == ["COCO_val2014_000000000003"]
    assert len(source(captions=file, split="train+restval")) == 3
    assert source(captions=file, split="val").texts(0) == ("item 2, caption 0", "item 2, caption 1")
    with pytest.raises(DataError, match=r"restval \(1\), test \(1\), train \(2\), val \(1\)"):
        source(captions=file)
    with pytest.raises(DataError, match="no split 'dev'"):
        source(captions=file, split="train+dev")


def test_flickr_has_no_subfolder_and_coco_has(tmp_path: Path) -> None:
    flickr = {"images": [{k: v for k, v in KARPATHY["images"][3].items() if k != "filepath"}], "dataset": "flickr30k"}
    name = "COCO_val2014_000000000003.jpg"
    nested, flat = tmp_path / "nested", tmp_path / "flat"
    photographs(nested / "val2014", name)
    photographs(flat, name)
    coco = write(tmp_path / "dataset_coco.json", KARPATHY)
    found = source(captions=coco, split="test", images=str(nested)).media(0)
    assert found == nested / "val2014" / name
    assert source(captions=write(tmp_path / "f.json", flickr), split="test", images=str(flat)).media(0) == flat / name


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_official_layout_keeps_the_order_of_images_and_of_annotation_ids(tmp_path: Path, suffix: str) -> None:
    found = source(captions=write(tmp_path / f"captions{suffix}", OFFICIAL))
    assert found.keys() == ["000000000009", "000000000007"]
    assert found.texts(1) == ("seven, first", "seven, later")
    with pytest.raises(DataError, match="which split"):
        source(captions=str(found.path), split="val")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_one_object_a_line(tmp_path: Path, suffix: str) -> None:
    found = source(captions=write(tmp_path / f"c{suffix}", LINES))
    assert (found.keys(), found.texts(1)) == (["b", "a"], ("ay", "A"))
    assert source(captions=str(found.path), limit=1).keys() == ["b"]
    with pytest.raises(DataError, match="Set `images`"):
        found.media(0)
    one = write(tmp_path / f"one{suffix}", LINES[:1])
    assert source(captions=one).keys() == ["b"]


def test_missing_images(tmp_path: Path) -> None:
    file, folder = write(tmp_path / "c.jsonl", LINES), photographs(tmp_path / "images", "a.jpg")
    with pytest.raises(DataError, match=r"1 of the 2 images .*: b\.jpg"):
        source(captions=file, images=folder)
    found = source(captions=file, images=folder, missing="skip")
    assert (found.keys(), found.skipped) == (["a"], ["b.jpg"])
    assert found.media(0) == Path(folder) / "a.jpg"
    with pytest.raises(DataError, match="2 of the 2"):
        source(captions=file, images=photographs(tmp_path / "empty"), missing="skip")
    with pytest.raises(DataError, match="no such folder"):
        source(captions=file, images=str(tmp_path / "nowhere"))


def test_malformed_files_are_told(tmp_path: Path) -> None:
    for content, says in (
        ('{"image": "a.jpg", "captions": ["x"]}\n{"image": "b.jpg"}', "line 2"),
        ('{"image": "a.jpg", "captions": "x"}', "expected a list"),
        ('{"pictures": []}', "none of the known layouts"),
        ("no json", "layout"),
        ('{"images": [], "annotations": []}', "empty"),
        ('{"image": "a.jpg", "captions": []}\n{"image": "a.png", "captions": []}', "'a'"),
    ):
        (tmp_path / "c.json").write_text(content)
        with pytest.raises(DataError, match=says):
            source(captions=str(tmp_path / "c.json"))
    with pytest.raises(DataError, match="no such file"):
        source(captions=str(tmp_path / "none.json"))
    (tmp_path / "cut.json.gz").write_bytes(gzip.compress(b"x" * 1000)[:20])
    with pytest.raises(DataError, match=r"cut\.json\.gz"):
        source(captions=str(tmp_path / "cut.json.gz"))
    with pytest.raises(DataError, match="karpathy"):
        source(captions=write(tmp_path / "o.json", OFFICIAL), layout="karpathy")
    with pytest.raises(ConfigError, match="limit"):
        source(captions="x", limit=0)


def test_the_fingerprint_follows_captions_images_and_choices(tmp_path: Path) -> None:
    file, folder = write(tmp_path / "c.jsonl", LINES), photographs(tmp_path / "images", "a.jpg", "b.jpg")
    first = source(captions=file, images=folder).fingerprint()
    assert source(captions=file, images=folder).fingerprint() == first
    assert source(captions=file, images=folder, limit=1).fingerprint() != first
    Image.new("RGB", (9, 9)).save(Path(folder) / "b.jpg")
    second = source(captions=file, images=folder).fingerprint()
    assert second != first
    write(tmp_path / "c.jsonl", [LINES[0], {"image": "a.jpg", "captions": ["other"]}])
    assert source(captions=file, images=folder).fingerprint() != second


def test_a_source_can_be_split_over_workers(tmp_path: Path) -> None:
    found = source(captions=write(tmp_path / "c.jsonl", LINES))
    assert (found.shard(0, 2).keys(), found.shard(1, 2).texts(0)) == (["b"], ("ay", "A"))


def test_real_files(requires_data: Path) -> None:
    captions = requires_data / "captions"
    for name, items, texts in (
        ("mscoco_karpathy_test.jsonl.gz", 5000, 25010),
        ("mscoco_karpathy_val.jsonl.gz", 5000, 25010),
        ("captions_val2017.json.gz", 5000, 25014),
    ):
        found = source(captions=str(captions / name))
        assert len(found) == items
        assert sum(len(found.texts(row)) for row in range(items)) == texts
    folder = requires_data / "images" / "coco_val2017"
    few = source(captions=str(captions / "captions_val2017.json.gz"), images=str(folder), missing="skip")
    listed = source(captions=str(folder / "captions.jsonl"), images=str(folder))
    assert (len(few), len(few.skipped)) == (24, 4976)
    assert sorted(few.keys()) == sorted(listed.keys())
    both = {key: set(listed.texts(row)) for row, key in enumerate(listed.keys())}
    assert all(set(few.texts(row)) == both[key] for row, key in enumerate(few.keys()))


# --- flickr30k

# Karpathy's file of Flickr30k, made up: images named by Flickr's own numbers, no `filepath`, five sentences each.
FLICKR: dict[str, Any] = {
    "images": [
        {"sentids": [5 * i + k for k in range(5)], "imgid": i, "filename": f"{1000092795 + i}.jpg", "split": split,
         "sentences": [{"raw": f"Photograph {i}, sentence {k} .", "imgid": i, "sentid": 5 * i + k} for k in range(5)]}
        for i, split in enumerate(["train", "train", "test", "train", "val"])
    ],
    "dataset": "flickr30k",
}  # fmt: skip


def flickr(**block: Any) -> Flickr30k:
    return Flickr30k(build_config("source", {"type": "flickr30k", **block}))


def test_flickr30k_splits_and_images(tmp_path: Path) -> None:
    file = write(tmp_path / "dataset_flickr30k.json", FLICKR)
    assert flickr(captions=file, split="train").keys() == ["1000092795", "1000092796", "1000092798"]
    assert len(flickr(captions=file, split="val")) == 1
    folder = photographs(tmp_path / "flickr30k-images", "1000092797.jpg")
    test = flickr(captions=file, split="test", images=folder)
    assert test.media(0) == tmp_path / "flickr30k-images" / "1000092797.jpg"
    assert test.texts(0) == tuple(f"Photograph 2, sentence {k} ." for k in range(5))
    photographs(tmp_path / "flickr30k-images", "1000092796.jpg")
    with pytest.raises(DataError, match=r"2 of the 3 images .* 1000092795.jpg, 1000092798.jpg") as caught:
        flickr(captions=file, split="train", images=folder)
    assert "missing: skip" in str(caught.value)


def test_flickr30k_refuses_what_is_not_flickr30k(tmp_path: Path) -> None:
    coco = write(tmp_path / "dataset_coco.json", KARPATHY)
    with pytest.raises(DataError, match=r"dataset 'coco', expected 'flickr30k'. Give dataset_flickr30k.json"):
        flickr(captions=coco, split="train")
    with pytest.raises(DataError, match="karpathy"):
        flickr(captions=write(tmp_path / "o.json", OFFICIAL), split="train")
    with pytest.raises(ConfigError, match=r"split: input should be 'train', 'val' or 'test'; found 'train\+restval'"):
        flickr(captions=coco, split="train+restval")
    with pytest.raises(ConfigError, match="split: is missing"):
        flickr(captions=coco)


def test_a_captions_file_has_one_fingerprint_a_split(tmp_path: Path) -> None:
    file = write(tmp_path / "dataset_flickr30k.json", FLICKR)
    prints = {flickr(captions=file, split=split).fingerprint() for split in ("train", "val", "test")}
    assert len(prints) == 3
