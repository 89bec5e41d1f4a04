"""The sources audiocaps and clotho: tables, names of files, missing clips, bad tables."""

from __future__ import annotations

import csv
import gzip
import os
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from modbridge.config.blocks import validate_block
from modbridge.errors import ConfigError, DataError
from modbridge.interfaces.source import Source
from modbridge.plugins.manager import Plugins

HEADER = "audiocap_id,youtube_id,start_time,caption\n"
# Two ids that differ by case, one that begins with "-", one with "_" in it, one video with two clips.
TABLE = HEADER + (
    '1,-abcdefghi_,30,"A dog barks, twice"\n'
    "2,AbCdEfGhIjK,0,Rain\n"
    "3,abcdefghijk,0,Wind blows\n"
    "4,-abcdefghi_,30,A dog\n"
    "5,AbCdEfGhIjK,120,Thunder\n"
)
KEYS = ["-abcdefghi__30", "AbCdEfGhIjK_0", "abcdefghijk_0", "AbCdEfGhIjK_120"]


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover(environ={"MODBRIDGE_PLUGINS": "clap"})


@pytest.fixture
def make(plugins: Plugins, tmp_path: Path) -> Any:
    def make(kind: str, table: str | Path, **block: Any) -> Source[Any]:
        path = table if isinstance(table, Path) else tmp_path / "captions.csv"
        if isinstance(table, str):
            path.write_text(table, encoding="utf-8")
        config = validate_block("source", {"type": kind, "captions": str(path), **block}, plugins.registry)
        source = plugins.registry.get("source", kind).load_impl()(config)
        assert isinstance(source, Source)
        return source

    return make


def folder(path: Path, *names: str) -> str:
    path.mkdir(exist_ok=True)
    for name in names:
        (path / name).write_bytes(b"sound")
    return str(path)


def test_configs_are_light() -> None:
    code = "import sys, modbridge_clap.captioned_clips_config, modbridge_clap.plugin; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "soundfile"} & set(loaded)


@pytest.mark.parametrize(("split", "clips", "each"), [("train", 49838, 1), ("val", 495, 5), ("test", 975, 5)])
def test_audiocaps_itself(make: Any, requires_data: Path, split: str, clips: int, each: int) -> None:
    path = requires_data / "captions" / f"audiocaps_{split}.csv.gz"
    source = make("audiocaps", path)
    assert source.modality == "audio"
    assert len(source) == len(set(source.keys())) == clips
    assert all(len(source.texts(row)) == each for row in range(clips))
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert source.keys()[0] == f"{rows[0]['youtube_id']}_{rows[0]['start_time']}"
    assert sorted(t for row in range(clips) for t in source.texts(row)) == sorted(r["caption"].strip() for r in rows)
    with pytest.raises(DataError, match="Set `audio`"):
        source.media(0)


def test_rows_of_a_clip_are_grouped_and_keys_do_not_depend_on_order(make: Any) -> None:
    source = make("audiocaps", TABLE)
    assert source.keys() == KEYS
    assert source.texts(0) == ("A dog barks, twice", "A dog")
    assert source.skipped == ()
    lines = TABLE.splitlines(keepends=True)
    assert set(make("audiocaps", lines[0] + "".join(lines[:0:-1])).keys()) == set(KEYS)
    assert make("audiocaps", TABLE, limit=2).keys() == KEYS[:2]


NAMINGS = {
    "{y}_{s}": lambda y, s, i: f"{y}_{s}.flac",
    "Y{y}_{s}": lambda y, s, i: f"Y{y}_{s}.WAV",
    "range": lambda y, s, i: f"{y}_{s}_{s + 10}.ogg",
    "ms": lambda y, s, i: f"{y}_{s * 1000}_{(s + 10) * 1000}.mp3",
    "Yms": lambda y, s, i: f"Y{y}_{s * 1000}_{(s + 10) * 1000}.wav",
    "id": lambda y, s, i: f"{i}.opus",
}
CLIPS = [("-abcdefghi_", 30, 4), ("AbCdEfGhIjK", 0, 2), ("abcdefghijk", 0, 3), ("AbCdEfGhIjK", 120, 5)]


@pytest.mark.parametrize("way", NAMINGS)
def test_auto_finds_every_customary_name(make: Any, tmp_path: Path, way: str) -> None:
    names = [NAMINGS[way](*clip) for clip in CLIPS]
    source = make("audiocaps", TABLE, audio=folder(tmp_path / "clips", *names, "cover.jpg", "notes.txt"))
    assert [source.media(row).name for row in range(4)] == names
    assert source.media(0).is_file()


@pytest.mark.parametrize("prefix", ["", "Y"])
def test_auto_finds_names_of_the_video_alone(make: Any, tmp_path: Path, prefix: str) -> None:
    table = "".join(TABLE.splitlines(keepends=True)[:5])
    names = [f"{prefix}{clip[0]}.wav" for clip in CLIPS[:3]]
    source = make("audiocaps", table, audio=folder(tmp_path / "clips", *names))
    assert [source.media(row).name for row in range(3)] == names


def test_two_clips_of_a_video_are_never_one_file(make: Any, tmp_path: Path) -> None:
    audio = folder(tmp_path / "clips", "-abcdefghi_.wav", "AbCdEfGhIjK.wav", "abcdefghijk.wav")
    with pytest.raises(DataError, match=r"AbCdEfGhIjK\.wav.*AbCdEfGhIjK_0 and AbCdEfGhIjK_120"):
        make("audiocaps", TABLE, audio=audio)


def test_a_template_and_its_mistakes(make: Any, tmp_path: Path) -> None:
    names = [f"clip-{y}-{s}.wav" for y, s, _ in CLIPS]
    audio = folder(tmp_path / "clips", *names, *(name.replace(".wav", ".flac") for name in names))
    source = make("audiocaps", TABLE, audio=audio, names="clip-{youtube_id}-{start}.wav")
    assert [source.media(row).name for row in range(4)] == names
    with pytest.raises(DataError, match=r"\.flac, .*\.wav for one clip; .*template with a suffix"):
        make("audiocaps", TABLE, audio=audio, names="clip-{youtube_id}-{start}")
    for bad in ("{video}.wav", "{start}.wav", "clip.wav", "{youtube_id.x}", "{youtube_id"):
        with pytest.raises(ConfigError, match="names"):
            make("audiocaps", TABLE, names=bad)


def test_a_folder_named_in_two_ways_is_refused(make: Any, tmp_path: Path) -> None:
    audio = folder(tmp_path / "clips", "-abcdefghi__30.wav", "AbCdEfGhIjK_0.wav", "Yabcdefghijk_0.wav")
    with pytest.raises(DataError, match=r"2 clips named like \{youtube_id\}_\{start\} and 1 others like Y"):
        make("audiocaps", TABLE, audio=audio, missing="skip")


def test_missing_clips_are_an_error_or_counted(make: Any, tmp_path: Path) -> None:
    audio = folder(tmp_path / "clips", "-abcdefghi__30.wav", "AbCdEfGhIjK_120.wav")
    with pytest.raises(DataError, match=r"2 of the 4 clips .*AbCdEfGhIjK_0, abcdefghijk_0\. .*missing: skip"):
        make("audiocaps", TABLE, audio=audio)
    source = make("audiocaps", TABLE, audio=audio, missing="skip")
    assert source.keys() == [KEYS[0], KEYS[3]]
    assert list(source.skipped) == [KEYS[1], KEYS[2]]
    assert source.texts(1) == ("Thunder",)
    assert source.media(1).name == "AbCdEfGhIjK_120.wav"
    first = make("audiocaps", TABLE, audio=audio, limit=1)  # complete as far as it goes
    assert (first.keys(), list(first.skipped)) == (KEYS[:1], [])
    with pytest.raises(DataError, match="4 of the 4 clips"):
        make("audiocaps", TABLE, audio=folder(tmp_path / "empty"), missing="skip")
    with pytest.raises(DataError, match="no such folder"):
        make("audiocaps", TABLE, audio=str(tmp_path / "nowhere"))


def test_fingerprint_tells_content(make: Any, tmp_path: Path) -> None:
    audio = folder(tmp_path / "clips", *(f"{key}.wav" for key in KEYS))
    whole = make("audiocaps", TABLE, audio=audio)
    assert whole.fingerprint() == make("audiocaps", TABLE, audio=audio).fingerprint()
    prints = {whole.fingerprint(), make("audiocaps", TABLE).fingerprint()}
    prints.add(make("audiocaps", TABLE, audio=audio, limit=3).fingerprint())
    (tmp_path / "clips" / f"{KEYS[0]}.wav").write_bytes(b"another sound")
    prints.add(make("audiocaps", TABLE, audio=audio).fingerprint())
    os.remove(tmp_path / "clips" / f"{KEYS[1]}.wav")
    prints.add(make("audiocaps", TABLE, audio=audio, missing="skip").fingerprint())
    prints.add(make("audiocaps", TABLE.replace("Rain", "Hail")).fingerprint())
    assert len(prints) == 6


CLOTHO = "file_name,caption_1,caption_2,caption_3,caption_4,caption_5,keywords\n"


def test_clotho(make: Any, tmp_path: Path) -> None:
    odd = "Café – rain (take #2), 01.wav"
    table = CLOTHO + f'"{odd}",a,b,c,d,e,\n plain.wav ,f,g,h,i,"j, k",wind;rain\n'
    texts = make("clotho", table)
    assert texts.keys() == [odd[:-4], "plain"]
    assert texts.texts(1) == ("f", "g", "h", "i", "j, k")
    audio = folder(tmp_path / "clips", unicodedata.normalize("NFD", odd), "plain.flac")
    source = make("clotho", table, audio=audio)
    assert source.media(0).is_file()
    assert source.media(1).name == "plain.flac"
    (tmp_path / "clips" / "plain.flac").unlink()
    with pytest.raises(DataError, match="1 of the 2 clips"):
        make("clotho", table, audio=audio)
    assert list(make("clotho", table, audio=audio, missing="skip").skipped) == ["plain"]


@pytest.mark.parametrize(
    ("kind", "table", "message"),
    [
        ("audiocaps", "", r"captions\.csv:1: found nothing; expected a first line"),
        ("audiocaps", "1,abc,0,Rain\n", r":1: found 1, abc, 0, Rain; expected .*audiocap_id"),
        ("audiocaps", "audiocap_id,youtube_id,start_time\n1,abc,0\n", r":1: .*caption"),
        ("audiocaps", HEADER, ":2: found no rows"),
        ("audiocaps", HEADER + "1,abc,0,Rain\n2,def,0, \n", ":3: found an empty caption"),
        ("audiocaps", HEADER + "1,abc,soon,Rain\n", ":2: found start_time 'soon'"),
        ("audiocaps", HEADER + "1,abc,0,Rain, wind\n", ":2: found 5 cells; expected 4 .*quotes"),
        ("audiocaps", HEADER + "1,abc,0,Rain\n1,def,0,Hail\n", ":3: found audiocap_id '1', which line 2 has too"),
        ("audiocaps", HEADER + '1,abc,0,"Rain\n', "no CSV"),
        ("clotho", "file_name,text\na.wav,Rain\n", ":1: .*caption_1"),
        ("clotho", CLOTHO + "a.wav,a,b,,d,e,\n", ":2: found an empty caption_3"),
        ("clotho", CLOTHO + "a.wav,a,b,c,d,e,\na.wav,a,b,c,d,e,\n", ":3: found the clip 'a', which line 2 has too"),
    ],
)
def test_bad_tables(make: Any, kind: str, table: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make(kind, table)


def test_tables_that_cannot_be_read(make: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        make("clotho", tmp_path / "nowhere.csv")
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(TABLE.encode())[:-9])
    with pytest.raises(DataError, match="cannot be read"):
        make("audiocaps", tmp_path / "cut.csv.gz")
    (tmp_path / "latin.csv").write_bytes(TABLE.replace("Rain", "Café").encode("latin-1"))
    with pytest.raises(DataError, match="cannot be read"):
        make("audiocaps", tmp_path / "latin.csv")
