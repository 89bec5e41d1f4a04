"""Images in tar shards and in parquet files: what they hold, as tarfile and pyarrow wrote it, and what is wrong."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.builtin import shard_index
from modbridge.builtin.tar_members import members
from modbridge.cli import main
from modbridge.errors import ConfigError, DataError, SetupError
from modbridge.interfaces import check_keys
from modbridge.interfaces.key_list import KeyList
from modbridge.media import load_image
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.stages.score import data_notes
from modbridge.store.cache import Cache
from modbridge.talk import Talk
from modbridge.testing import build_config

from .conftest import TOY

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def registry() -> Any:
    return Plugins.discover().registry


@pytest.fixture
def make(registry: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))

    def source(**block: Any) -> Any:
        return registry.get("source", block["type"]).load_impl()(build_config("source", block, registry))

    return source


def png(number: int) -> bytes:
    """A picture whose only colour tells its number."""
    out = io.BytesIO()
    Image.new("RGB", (4, 3), (number, 2 * number, 255 - number)).save(out, "PNG")
    return out.getvalue()


def colour(item: Any) -> tuple[int, ...]:
    found = load_image(item).getpixel((1, 1))
    assert isinstance(found, tuple)
    return found


def tar(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT, **about: Any) -> Path:
    with tarfile.open(path, "w", format=form) as out:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for field, value in about.items():
                setattr(info, field, value)
            out.addfile(info, io.BytesIO(content))
    return path


def shards(folder: Path, counts: tuple[int, ...] = (3, 1, 4)) -> str:
    """Shards of pictures numbered through, each with captions and a .json member."""
    number = 0
    for shard, count in enumerate(counts):
        files = {}
        for _ in range(count):
            files[f"{number:06d}.png"] = png(number)
            files[f"{number:06d}.txt"] = f"number {number}\n\n again {number} \n".encode()
            files[f"{number:06d}.json"] = json.dumps({"text": f"told {number}", "all": ["a", "b"]}).encode()
            number += 1
        tar(folder / f"{shard:03d}.tar", files)
    return str(folder / f"{{000..00{len(counts) - 1}}}.tar")


# Tar files.


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("mtime", [1, 1.5])  # webdataset's writer gives fractions, which PAX has headers for
def test_members_are_those_that_tarfile_finds(tmp_path: Path, form: int, mtime: float) -> None:
    names = ["a.jpg", "deep/" * 18 + "b.jpg", "c" * 90 + ".txt", "empty.txt"]
    names += [] if form == tarfile.USTAR_FORMAT else ["d" * 300 + ".jpg", "größe.jpg", "f" * 2000]
    path = tar(tmp_path / "x.tar", {name: os.urandom(700 * i) for i, name in enumerate(names)}, form, mtime=mtime)
    with tarfile.open(path, "a", format=form) as out:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        out.addfile(folder)
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "a.jpg"
        out.addfile(link)
        last = tarfile.TarInfo("last.jpg")
        last.size = 5
        out.addfile(last, io.BytesIO(b"12345"))
    with tarfile.open(path) as found:
        expected = [(one.name, one.offset_data, one.size) for one in found if one.isfile()]
    assert list(members(path)) == expected
    assert [name for name, *_ in expected] == [*names, "last.jpg"]


def test_names_that_are_no_utf8(tmp_path: Path, make: Make) -> None:
    """As tar writes them on a machine of another encoding."""
    with tarfile.open(tmp_path / "x.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as out:
        for name, content in (("é.png", png(1)), ("é.txt", b"t"), ("ê" * 150 + ".png", png(2)), ("e.png", png(3))):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
    source = make(type="webdataset", path=str(tmp_path / "x.tar"), captions=None)
    assert source.keys() == [r"\xe9", r"\xea" * 150, "e"]
    assert [colour(source.media(row))[0] for row in range(3)] == [1, 2, 3]
    assert make(type="webdataset", path=str(tmp_path / "x.tar"), missing="skip").texts(0) == ("t",)


def header(name: bytes, size: bytes, kind: bytes = b"0") -> bytes:
    """A header whose checksum is right, with any bytes as its size."""
    made = bytearray(512)
    made[: len(name)], made[124 : 124 + len(size)], made[156:157], made[257:265] = name, size, kind, b"ustar\00000"
    made[148:156] = b" " * 8
    made[148:156] = b"%06o\0 " % sum(made)
    return bytes(made)


def pax(record: bytes) -> bytes:
    return header(b"pax", b"%011o\0" % len(record), b"x") + record.ljust(512, b"\0")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (header(b"a.png", b"-0000001000"), "no header .* at byte 0"),  # leads back to itself
        (header(b"a.png", b"0000000zzzz"), "no header .* at byte 0"),
        (pax(b"12 size=abc\n") + header(b"a.png", b"0"), "no header .* at byte 1024"),
        (pax(b"14 size=-1024\n") + header(b"a.png", b"0"), "no header .* at byte 1024"),
        (header(b"pax", b"\x80" + (1 << 62).to_bytes(11, "big"), b"x"), "cut short"),
        (header(b"a.png", b"\x80" + (1 << 62).to_bytes(11, "big")), "cut short.*inside the member 'a.png'"),
    ],
)
def test_sizes_that_cannot_be(tmp_path: Path, make: Make, content: bytes, told: str) -> None:
    (tmp_path / "x.tar").write_bytes(content + bytes(2048))
    with pytest.raises(DataError, match=told):
        make(type="webdataset", path=str(tmp_path / "x.tar"))


def test_a_member_of_more_than_eight_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "big.tar"
    size = 9 << 30
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.jpg")
        info.size = size
        head = info.tobuf(form)
        with path.open("wb") as file:  # sparse: nothing of it is on the disk
            file.write(head)
            file.truncate(len(head) + size)
            file.seek(0, os.SEEK_END)
            file.write(bytes(1024))
        assert list(members(path)) == [("big.jpg", len(head), size)]


def test_items_of_shards(tmp_path: Path, make: Make) -> None:
    source = make(type="webdataset", path=shards(tmp_path))
    assert source.keys() == [f"{n:06d}" for n in range(8)]
    assert len(source) == 8
    assert [colour(source.media(row)) for row in range(8)] == [(n, 2 * n, 255 - n) for n in range(8)]
    assert source.texts(5) == ("number 5", "again 5")
    assert list(source.blocks()) == [0, 3, 4]
    assert source.config.captioned
    assert source.modality == "image"
    other = pickle.loads(pickle.dumps(source))
    assert colour(other.media(7)) == colour(source.media(7))
    assert other.keys() == source.keys()
    with pytest.raises(IndexError):
        source.media(8)


@pytest.mark.parametrize(("captions", "expected"), [("text", ("told 2",)), ("all", ("a", "b")), (None, ())])
def test_captions_of_a_json_member_or_none(tmp_path: Path, make: Make, captions: Any, expected: Any) -> None:
    source = make(type="webdataset", path=shards(tmp_path), captions=captions)
    assert source.texts(2) == expected
    assert source.config.captioned == (captions is not None)
    assert colour(source.media(2)) == (2, 4, 253)


def test_patterns(tmp_path: Path, make: Make) -> None:
    path = shards(tmp_path)
    whole = make(type="webdataset", path=path).keys()
    assert make(type="webdataset", path=str(tmp_path / "*.tar")).keys() == whole
    assert make(type="webdataset", path=[str(tmp_path / "{002,000}.tar")]).keys() == [*whole[4:], *whole[:3]]
    assert make(type="webdataset", path=str(tmp_path / "00[12].tar")).keys() == whole[3:]
    (tmp_path / "7.tar").write_bytes((tmp_path / "001.tar").read_bytes())
    assert make(type="webdataset", path=str(tmp_path / "{7..7}.tar")).keys() == whole[3:4]
    for bad, told in {
        str(tmp_path / "*.zip"): "no file is named like",
        str(tmp_path / "{5..3}.tar"): "stands for nothing",
        "pipe:aws s3 cp x -": "read from files",
        "https://here/x.tar": "read from files",
    }.items():
        with pytest.raises(DataError, match=told):
            make(type="webdataset", path=bad)
    with pytest.raises(DataError, match=r"001\.tar is named twice"):
        make(type="webdataset", path=[path, str(tmp_path / "001.tar")])
    for empty in ("", []):
        with pytest.raises(ConfigError, match="names no file"):
            make(type="webdataset", path=empty)


@pytest.mark.parametrize("rows", [(0, 8), (1, 6), (3, 4), (5, 8)])
def test_windows_have_the_blocks_and_items_of_the_whole(tmp_path: Path, make: Make, rows: tuple[int, int]) -> None:
    path = shards(tmp_path)
    start, stop = rows
    part = make(type="webdataset", path=path, rows=rows)
    assert part.keys() == [f"{n:06d}" for n in range(start, stop)]
    assert [colour(part.media(row))[0] for row in range(len(part))] == list(range(start, stop))
    assert list(part.blocks()) == [0, *(first - start for first in (3, 4) if start < first < stop)]
    with pytest.raises(DataError, match="at most 8"):
        make(type="webdataset", path=path, rows=[0, 9])


def test_with_a_limit_shards_behind_it_are_not_looked_at(tmp_path: Path, make: Make) -> None:
    path = shards(tmp_path)
    (tmp_path / "002.tar").unlink()
    assert make(type="webdataset", path=path, limit=4).keys() == [f"{n:06d}" for n in range(4)]
    with pytest.raises(DataError, match=r"002\.tar: no such file"):
        make(type="webdataset", path=path, limit=5)


def test_names_of_members(tmp_path: Path, make: Make) -> None:
    files = {
        "./a/0.left.png": png(1), "./a/0.txt": b"x", "._b.png": b"", "b.PNG": png(2), "b.txt": b"y",
        "__info__.json": b"{}", "no_image.txt": b"z", "plain": b"",
    }  # fmt: skip
    path = str(tar(tmp_path / "x.tar", files))
    assert make(type="webdataset", path=path).keys() == ["b"]
    both = make(type="webdataset", path=path, extensions=[".png", ".left.png"])
    assert both.keys() == ["a/0", "b"]
    assert colour(both.media(0)) == (1, 2, 254)
    tar(tmp_path / "y.tar", {"a.png": png(1), "a.jpg": png(2), "a.txt": b"t"})
    with pytest.raises(DataError, match=r"y\.tar: 'a' has several images: a\.png, a\.jpg.*extensions"):
        make(type="webdataset", path=str(tmp_path / "y.tar"))


def test_a_shard_is_indexed_once_and_again_when_it_changes(
    tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []

    def counted(path: Path) -> Iterator[tuple[str, int, int]]:
        looked.append(path.name)
        return members(path)

    monkeypatch.setattr(shard_index, "members", counted)
    path = shards(tmp_path)
    whole = (tmp_path / "001.tar").read_bytes()
    (tmp_path / "001.tar").write_bytes(whole[:700])
    with pytest.raises(DataError, match=r"001\.tar is cut short"):
        make(type="webdataset", path=path)
    (tmp_path / "001.tar").write_bytes(whole)
    looked.clear()
    first = make(type="webdataset", path=path)
    assert looked == ["001.tar"]  # those that were whole stayed
    again = make(type="webdataset", path=path)
    assert looked == ["001.tar"]
    assert (again.fingerprint(), again.texts(3)) == (first.fingerprint(), ("number 3", "again 3"))
    assert any((tmp_path / "cache" / "shards").iterdir())
    for kept in (tmp_path / "cache" / "shards").iterdir():
        kept.write_bytes(b"no zip file")
    assert make(type="webdataset", path=path).keys() == first.keys()
    assert len(looked) == 4
    tar(tmp_path / "001.tar", {"new.png": png(9), "new.txt": b"new"})
    changed = make(type="webdataset", path=path)
    assert changed.keys()[3] == "new"
    assert changed.fingerprint() != first.fingerprint()


def test_a_damaged_index_is_made_anew(tmp_path: Path, make: Make) -> None:
    path = shards(tmp_path, (3,))
    wanted = list(make(type="webdataset", path=path).keys())
    (kept,) = (tmp_path / "cache" / "shards").iterdir()
    good = kept.read_bytes()
    entry = good.index(b"PK\1\2")  # of the zip file that it is
    for content in (
        b"",
        good[:300],
        good[: entry + 6] + b"\x63" + good[entry + 7 :],  # a version of the form that is yet to come
        good[: entry + 10] + b"\x63" + good[entry + 11 :],  # packed in an unknown way
        good.replace(b"000001", b"000007"),  # what it says of itself no longer fits
    ):
        kept.write_bytes(content)
        assert list(make(type="webdataset", path=path).keys()) == wanted
        assert kept.read_bytes() != content


def test_two_machines_may_index_a_shard_at_a_time(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both in a container, where their processes have one number; the second is done before the first is."""
    path, save = shards(tmp_path, (3,)), np.savez
    monkeypatch.setattr(os, "getpid", lambda: 7)

    def saved(*args: Any, **more: Any) -> None:
        save(*args, **more)
        monkeypatch.setattr(np, "savez", save)
        assert len(make(type="webdataset", path=path)) == 3

    monkeypatch.setattr(np, "savez", saved)
    assert make(type="webdataset", path=path).keys() == [f"{n:06d}" for n in range(3)]
    assert [file.suffix for file in (tmp_path / "cache" / "shards").iterdir()] == [".npz"]


def test_the_fingerprint_is_of_files_and_fields(tmp_path: Path, make: Make) -> None:
    path = shards(tmp_path)
    prints = [
        make(type="webdataset", path=path, **more).fingerprint()
        for more in ({}, {"captions": None}, {"captions": "text"}, {"limit": 8}, {"index": str(tmp_path / "i")})
    ]
    assert len(set(prints)) == 4
    assert prints[-1] == prints[0]
    os.utime(tmp_path / "000.tar", ns=(1, 1))
    assert make(type="webdataset", path=path).fingerprint() != prints[0]


def test_an_index_that_cannot_be_kept(tmp_path: Path, make: Make) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match=r"another folder by `index`") as told:
        make(type="webdataset", path=shards(tmp_path), index=str(tmp_path / "file" / "folder"))
    assert told.value.exit_code == 4


def test_an_index_takes_few_bytes_an_item(tmp_path: Path, make: Make) -> None:
    count = 3000
    tar(tmp_path / "x.tar", {f"{n:09d}.{e}": b"x" for n in range(count) for e in ("jpg", "txt")})
    source = make(type="webdataset", path=str(tmp_path / "x.tar"))
    assert len(pickle.dumps(source)) < 60 * count  # all that it holds, and what travels to a worker
    assert sys.getsizeof(source.keys()[0]) + 8 > 60  # a list of its names alone would take more


# What is wrong with tar files.


def test_broken_shards(tmp_path: Path, make: Make) -> None:
    path = shards(tmp_path)
    whole = (tmp_path / "000.tar").read_bytes()
    last = len(whole.rstrip(b"\0"))  # inside the last member's content
    for content, told in {
        whole[: last - 3]: r"000\.tar is cut short: it ends inside the member '000002\.json', after '000002\.txt'",
        whole[:1024]: r"cut short: it ends before its end mark, after '000000\.png'",
        whole[:1300]: r"cut short: it ends before its end mark, after '000000\.png'",
        b"": "cut short: .*no member",
        gzip.compress(whole): "is compressed.*Unpack",
        b"no tar at all, but text" * 100: r"no header of a tar file at byte 0",
        whole[:2048] + b"\1" + whole[2049:]: r"no header of a tar file at byte 2048",
    }.items():
        (tmp_path / "000.tar").write_bytes(content)
        with pytest.raises(DataError, match=told) as raised:
            make(type="webdataset", path=path)
        assert "1 of 3 shards cannot be read" in str(raised.value)
        without = make(type="webdataset", path=path, missing="skip")
        assert without.keys()[0] == "000003"
        assert without.skipped == (str(tmp_path / "000.tar"),)
        assert colour(without.media(1))[0] == 4
    with pytest.raises(DataError, match=r"1 of 1 shards cannot be read(?!.*missing: skip)"):
        make(type="webdataset", path=str(tmp_path / "000.tar"), missing="skip")


def test_doubles_among_shards_are_named(tmp_path: Path, make: Make) -> None:
    for name in ("x", "y"):
        tar(tmp_path / f"{name}.tar", {f"{name}.png": png(1), "same.png": png(2)})
    with pytest.raises(DataError, match=r"2 items have the key 'same', in x\.tar, y\.tar"):
        make(type="webdataset", path=str(tmp_path / "*.tar"), captions=None)


def test_items_without_captions(tmp_path: Path, make: Make) -> None:
    tar(tmp_path / "x.tar", {"a.png": png(1), "a.txt": b"t", "b.png": png(2), "c.png": png(3), "c.txt": b""})
    tar(tmp_path / "y.tar", {"d.png": png(4)})
    tar(tmp_path / "z.tar", {"e.png": png(5), "e.txt": b"e"})
    path = str(tmp_path / "{x,y,z}.tar")
    with pytest.raises(DataError, match=r"3 of 5 items have no member \.txt.*x\.tar:b, .*x\.tar:c, .*y\.tar:d"):
        make(type="webdataset", path=path)
    source = make(type="webdataset", path=path, missing="skip")
    assert source.keys() == ["a", "e"]
    assert [colour(source.media(row))[0] for row in (0, 1)] == [1, 5]
    assert list(source.blocks()) == [0, 1]
    assert len(source.skipped) == 3


def test_what_cannot_be_read_of_a_member_is_told_with_shard_and_member(tmp_path: Path, make: Make) -> None:
    cut = png(7)[:-30]
    tar(tmp_path / "x.tar", {
        "a.png": b"<html>404</html>", "a.json": b"[1]", "a.txt": b" \n", "b.png": cut, "b.json": b'{"text": 3}',
        "b.txt": b"\xff\xfe", "c.png": png(1), "c.json": b'{"other": "x"}', "c.txt": b"c",
    })  # fmt: skip
    source = make(type="webdataset", path=str(tmp_path / "x.tar"))
    with pytest.raises(DataError, match=r"image .*x\.tar:a\.png: 16 bytes that cannot be read as an image"):
        source.media(0)
    with pytest.raises(DataError, match=r"image .*x\.tar:b: cannot be read"):
        load_image(source.media(1))
    for row, told in enumerate((r"x\.tar:a\.txt: it holds no caption", r"x\.tar:b\.txt: .*utf-8")):
        with pytest.raises(DataError, match=told):
            source.texts(row)
    source = make(type="webdataset", path=str(tmp_path / "x.tar"), captions="text")
    for row, told in enumerate(
        (r"a\.json: expected an object", r"b\.json: the field 'text' holds 3", "no field 'text'")
    ):
        with pytest.raises(DataError, match=told):
            source.texts(row)
    with (tmp_path / "x.tar").open("r+b") as file:
        file.truncate(600)
    with pytest.raises(DataError, match=r"x\.tar: .*cut short or altered after it was opened"):
        source.media(2)


def test_a_config_that_asks_for_what_is_not_there(make: Make) -> None:
    for block, told in (
        ({"modality": "audio"}, "reads images"),
        ({"extensions": ["jpg"]}, "each with its dot"),
        ({"extensions": []}, "at least one"),
        ({"captions": ""}, "an extension"),
    ):
        with pytest.raises(ConfigError, match=told):
            make(type="webdataset", path="x.tar", **block)
    with pytest.raises(ConfigError, match=r"\[3, H, W\] or \[H, W, 3\]; found \[4, 4, 4\]"):
        make(type="parquet", path="x.parquet", shape=[4, 4, 4])


def test_a_broken_shard_ends_with_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
    config = tmp_path / "c.yaml"
    source = f"{{type: webdataset, path: {tmp_path}/x.tar}}"
    config.write_text(f"data: {{train: {source}, test: {source}}}\nencoder: open_clip\nbridge: identity\n")
    assert (
        main(["embed", str(config), "--split", "train", "--set", "encoder={model: ViT-B-32, pretrained: random}"]) == 1
    )
    assert "x.tar: no header of a tar file at byte 0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["webdataset", "parquet"])
def test_what_is_embedded_is_what_files_give(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Any, kind: str
) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))
    images = sorted((world.parent / "world" / "images").glob("*.png"))[:24]
    lines = (world.parent / "world" / "world0.jsonl").read_text().splitlines()
    captions = {row["image"][:-4]: row["captions"] for row in map(json.loads, lines)}
    if kind == "webdataset":
        for shard in range(4):
            tar(tmp_path / f"{shard}.tar", {
                name: content for image in images[6 * shard : 6 * shard + 6]
                for name, content in ((image.name, image.read_bytes()),
                                      (f"{image.stem}.txt", "\n".join(captions[image.stem]).encode()))
            })  # fmt: skip
        block: dict[str, Any] = {"type": kind, "path": str(tmp_path / "{0..3}.tar")}
    else:
        rows = [{"image": one.read_bytes(), "caption": captions[one.stem], "id": one.stem} for one in images]
        block = {"type": kind, "path": table(tmp_path / "x.parquet", rows), "key": "id"}
    plugins = Plugins.discover([str(TOY)])
    found = []
    for sets in ([], [f"data.train={json.dumps(block)}", "encoder={type: toy_colours, workers: 2, batch_size: 4}"]):
        (cell,) = load_experiment(world, plugins.registry, sets=sets).cells
        session = Session(plugins, Cache(tmp_path / "made"), Talk(quiet=True), device="cpu", shard_rows=5)
        found.append([embeddings(session, cell, "train", side) for side in ("image", "text")])
    for files, sharded in zip(*found, strict=True):
        assert sharded.keys == files.keys
        torch.testing.assert_close(sharded.values, files.values, atol=1e-6, rtol=0)


def test_a_table_says_what_was_left_out(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is broken is no single item."""
    monkeypatch.setenv("MODBRIDGE_CACHE", str(tmp_path / "cache"))
    path = shards(tmp_path)
    (tmp_path / "001.tar").write_bytes(b"")
    block = {"type": "webdataset", "path": path, "missing": "skip"}
    plugins = Plugins.discover([str(TOY)])
    (cell,) = load_experiment(world, plugins.registry, sets=[f"data.train={json.dumps(block)}"]).cells
    session = Session(plugins, Cache(tmp_path / "made"), Talk(quiet=True), device="cpu")
    told = data_notes(session, cell)["data.train"]
    assert told == f"7 items; left out, as missing or broken: 1 (the first {tmp_path / '001.tar'})"


# Parquet.


def table(path: Path, rows: list[dict[str, Any]], group: int = 3) -> str:
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return str(path)


def test_rows_of_parquet_files(tmp_path: Path, make: Make) -> None:
    for file, numbers in enumerate((range(5), range(5, 9))):
        rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "caption": f"number {n}", "id": n} for n in numbers]
        table(tmp_path / f"part-{file}.parquet", rows)
    source = make(type="parquet", path=str(tmp_path / "*.parquet"))
    assert source.keys() == [*(f"part-0-{n}" for n in range(5)), *(f"part-1-{n}" for n in range(4))]
    assert [colour(source.media(row))[0] for row in (8, 0, 4, 5, 2, 7, 1, 3, 6)] == [8, 0, 4, 5, 2, 7, 1, 3, 6]
    assert [source.texts(row) for row in range(9)] == [(f"number {n}",) for n in range(9)]
    assert list(source.blocks()) == [0, 3, 5, 8]
    named = make(type="parquet", path=str(tmp_path / "*.parquet"), key="id", rows=[2, 9], limit=5, captions=None)
    assert named.keys() == ["2", "3", "4", "5", "6"]
    assert list(named.blocks()) == [0, 1, 3]
    assert [colour(named.media(row))[0] for row in range(5)] == [2, 3, 4, 5, 6]
    assert named.texts(0) == ()
    other = pickle.loads(pickle.dumps(source))
    assert colour(other.media(8)) == colour(source.media(8))
    assert other.fingerprint() == source.fingerprint() != named.fingerprint()


def test_images_as_bytes_and_as_bare_pixels(tmp_path: Path, make: Make) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 5), dtype=np.uint8)
    rows = [
        {
            "file": png(n),
            "chw": pixels[n].tobytes(),
            "hwc": pixels[n].transpose(1, 2, 0).tobytes(),
            "listed": pixels[n].tolist(),
            "caption": ["one", "two"],
        }
        for n in range(2)
    ]
    path = table(tmp_path / "x.parquet", rows)
    assert colour(make(type="parquet", path=path, image="file").media(1)) == (1, 2, 254)
    for column, shape in (("chw", [3, 4, 5]), ("hwc", [4, 5, 3]), ("listed", [3, 4, 5])):
        source = make(type="parquet", path=path, image=column, shape=shape)
        assert np.array_equal(source.media(1), pixels[1].transpose(1, 2, 0)), column
        assert np.array_equal(np.asarray(load_image(source.media(0))), pixels[0].transpose(1, 2, 0))
    assert source.texts(0) == ("one", "two")
    with pytest.raises(DataError, match=r"x\.parquet, row 1, 'chw': 60 bytes; expected 48, 3 x 4 x 4"):
        make(type="parquet", path=path, image="chw", shape=[3, 4, 4]).media(1)
    with pytest.raises(DataError, match=r"x\.parquet, row 0, 'chw': 60 bytes that cannot be read.*shape"):
        make(type="parquet", path=path, image="chw").media(0)
    with pytest.raises(DataError, match="found list, expected the bytes"):
        make(type="parquet", path=path, image="listed").media(0)


def test_row_groups_are_read_once_within_a_window(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from modbridge.training import epoch_order

    path = table(tmp_path / "x.parquet", [{"image": png(n % 200)} for n in range(60)])  # 20 groups, 8 of them held
    source = make(type="parquet", path=path, captions=None)
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def counted(self: Any, number: int, **how: Any) -> Any:
        read.append(number)
        return original(self, number, **how)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", counted)
    for row in epoch_order(len(source), 0, 0, source.blocks()).tolist():
        assert colour(source.media(row))[0] == row
    assert sorted(read) == list(range(20))


def test_what_is_wrong_with_parquet_files(tmp_path: Path, make: Make) -> None:
    path = table(
        tmp_path / "x.parquet", [{"image": png(1), "caption": "a", "id": 1}, {"image": None, "caption": " ", "id": 1}]
    )
    with pytest.raises(DataError, match=r"x\.parquet: no column 'picture'; found 'image', 'caption', 'id'"):
        make(type="parquet", path=path, image="picture")
    with pytest.raises(DataError, match=r"no column 'text'.*captions: null"):
        make(type="parquet", path=path, captions="text")
    with pytest.raises(DataError, match=r"2 rows have the key '1': .*row 0, 'id', .*row 1, 'id'"):
        make(type="parquet", path=path, key="id")
    with pytest.raises(DataError, match=r"row 0: the key is b'.*expected a name"):
        make(type="parquet", path=path, key="image")
    source = make(type="parquet", path=path)
    with pytest.raises(DataError, match=r"row 1, 'image': found nothing, expected the bytes"):
        source.media(1)
    with pytest.raises(DataError, match=r"row 1, 'caption': found \[' '\]; expected a caption"):
        source.texts(1)
    whole = Path(path).read_bytes()
    for content, told in ((whole[:-20], "no whole parquet file"), (b"", "no whole parquet file")):
        (tmp_path / "y.parquet").write_bytes(content)
        with pytest.raises(DataError, match=rf"1 of 2 shards.*\n.*y\.parquet.*{told}"):
            make(type="parquet", path=str(tmp_path / "{x,y}.parquet"))
        assert make(type="parquet", path=str(tmp_path / "{x,y}.parquet"), missing="skip").keys() == ["x-0", "x-1"]
    column = pq.read_metadata(path).row_group(0).column(2)
    start = column.dictionary_page_offset or column.data_page_offset
    broken = whole[:start] + b"\xff" * column.total_compressed_size + whole[start + column.total_compressed_size :]
    (tmp_path / "y.parquet").write_bytes(broken)
    with pytest.raises(DataError, match=r"(?s)1 of 1 shards.*y\.parquet, 'id': cannot be read .*Fetch it again"):
        make(type="parquet", path=str(tmp_path / "y.parquet"), key="id")
    with pytest.raises(DataError, match="no such file"):
        make(type="parquet", path=str(tmp_path / "none.parquet"))
    table(tmp_path / "empty.parquet", [{"image": png(1), "caption": "a"}])
    pq.write_table(pq.read_table(tmp_path / "empty.parquet").slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="found no rows"):
        make(type="parquet", path=str(tmp_path / "empty.parquet"))


def test_without_pyarrow(tmp_path: Path, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table(tmp_path / "x.parquet", [{"image": png(1), "caption": "a"}])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(SetupError, match=r"pip install 'modbridge\[parquet\]'") as told:
        make(type="parquet", path=path)
    assert told.value.exit_code == 4


# Lists of keys.


def test_a_key_list_is_like_a_list() -> None:
    names = ["", "a", "größe", "a/b", "0" * 70, *(f"{n:x}" for n in range(9, 300))]
    keys = KeyList.of(names)
    assert list(keys) == names == keys
    assert len(keys) == len(names)
    assert (keys[2], keys[-1], keys[4]) == (names[2], names[-1], names[4])
    for part in (slice(None), slice(3, 50), slice(1, None, 7), slice(None, None, -1), slice(5, 5)):
        assert list(keys[part]) == names[part]
    for rows in ([4, 0, 4], [1, 3, 2, 4], [2, 2, 4], [7]):
        assert list(keys.take(np.array(rows))) == [names[row] for row in rows]
    assert list(KeyList.joined([keys[:9], keys[9:9], keys[9:]])) == names
    assert (keys.index("größe"), "b" in keys, "zz" in keys) == (2, True, False)
    assert keys != names[:-1]
    assert keys != [*names[:-1], "other"]
    with pytest.raises(IndexError):
        keys[len(names)]


def test_two_items_with_one_key_are_found() -> None:
    names = [f"{n:05d}" for n in range(70_000)]
    assert KeyList.of(names).double() is None
    assert check_keys(KeyList.of(names), "here") == names
    assert KeyList.of([*names, "00123"]).double() == "00123"
    assert KeyList.of(["a", "aa", "a\0", "", "b", "aa"]).double() == "aa"
    assert KeyList.of(["a", "a\0", "", "\0"]).double() is None
    with pytest.raises(DataError, match="here: two items have the key '00123'"):
        check_keys(KeyList.of([*names, "00123"]), "here")
    with pytest.raises(DataError, match="found no items"):
        check_keys(KeyList.of([]), "here")
