"""The cache: whole or not at all, made once, waiting for another process; and keys."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from modbridge.errors import ArtefactError
from modbridge.store.artefact import read_manifest, write_manifest
from modbridge.store.cache import Cache
from modbridge.store.keys import stable_hash, tensor_hash


def write(out: Path, work: Path) -> None:
    (out / "a.txt").write_text("a")
    write_manifest(out, {"kind": "test", "type": "x"})


def test_a_result_is_made_once(tmp_path: Path) -> None:
    cache, calls = Cache(tmp_path), []
    for _ in range(2):
        cache.make("s", "k", lambda out, work: (calls.append(1), write(out, work))[-1])
    assert calls == [1]
    assert read_manifest(cache.path("s", "k"))["type"] == "x"


def test_a_failed_build_leaves_no_result_but_its_work(tmp_path: Path) -> None:
    cache = Cache(tmp_path)

    def build(out: Path, work: Path) -> None:
        (work / "checkpoint").write_text("half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        cache.make("s", "k", build)
    assert not cache.has("s", "k")

    def finish(out: Path, work: Path) -> None:
        assert (work / "checkpoint").read_text() == "half"
        write(out, work)

    cache.make("s", "k", finish)
    assert not (tmp_path / "work" / "s-k").exists()


def test_a_second_process_waits_for_the_first(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom modbridge.store.cache import Cache\n"
        "from modbridge.store.artefact import write_manifest\n"
        "def build(out, work):\n    print('building', flush=True)\n    time.sleep(1)\n"
        "    write_manifest(out, {'kind': 'test', 'type': 'x'})\n"
        "Cache(Path(sys.argv[1])).make('s', 'k', build)\n"
    )
    first = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None
    assert first.stdout.readline() == "building\n"
    waited: list[bool] = []
    begun = time.monotonic()
    Cache(tmp_path).make("s", "k", lambda out, work: pytest.fail("built twice"), lambda: waited.append(True))
    assert waited == [True]
    assert time.monotonic() - begun > 0.2
    assert first.wait(timeout=30) == 0


def test_threads_make_different_results_side_by_side(tmp_path: Path) -> None:
    threads = [threading.Thread(target=Cache(tmp_path).make, args=("s", str(i), write)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(list((tmp_path / "s").iterdir())) == 4


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "a.txt").write_text("b"), "altered"),
        (lambda f: (f / "a.txt").unlink(), "incomplete"),
        (lambda f: (f / "modbridge.json").write_text("{"), "damaged"),
        (lambda f: (f / "modbridge.json").unlink(), "no modbridge artefact"),
        (lambda f: (f / "modbridge.json").write_text('{"schema": 2}'), "upgrade modbridge"),
        (lambda f: (f / "modbridge.json").write_text("{}"), "names no schema"),
    ],
)
def test_a_harmed_artefact_is_told(tmp_path: Path, harm: object, message: str) -> None:
    write(tmp_path, tmp_path)
    assert callable(harm)
    harm(tmp_path)
    with pytest.raises(ArtefactError, match=message):
        read_manifest(tmp_path)


def test_keys_are_the_same_everywhere_and_see_every_difference() -> None:
    # sha256 of the canonical JSON, computed with coreutils' sha256sum.
    assert stable_hash({"b": [1, 2.5, None], "a": "é"}) == "84afbf1d4853005f9dd0"
    x = torch.arange(6.0).reshape(2, 3)
    assert tensor_hash(x) == tensor_hash(x.clone())
    assert len({tensor_hash(x), tensor_hash(x.reshape(3, 2)), tensor_hash(x.double()), tensor_hash(x + 1)}) == 4
