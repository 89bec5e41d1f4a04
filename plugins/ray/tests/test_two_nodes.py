"""Embedding and generation over two nodes: the same shards and captions as in one process, whoever dies meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.builtin.engine_config import LocalEngineConfig
from modbridge.builtin.local_engine import LocalEngine
from modbridge.cli import main
from modbridge.errors import SetupError
from modbridge.interfaces import BuildContext, Decoder
from modbridge.stages import generate
from modbridge.stages.cross import crossed
from modbridge.stages.embed import embeddings
from modbridge.stages.embed_shards import Span, Wanted, open_worker
from modbridge.stages.generate import generated

SLOW = Path(__file__).with_name("slow_plugin.py")
Opened = Callable[..., tuple[Session, Cell]]


def store(cache: Path, side: str = "image") -> Path:
    """The one store of a side in a cache."""
    (found,) = [
        path.parent
        for path in (cache / "embed").glob("*/modbridge.json")
        if json.loads(path.read_text("utf-8"))["type"] == side
    ]
    return found


def assert_same_store(one: Path, other: Path) -> None:
    """The same shards of the same rows and keys, and vectors equal to 1e-5."""
    names = sorted(path.name for path in one.glob("shard-*"))
    assert names == sorted(path.name for path in other.glob("shard-*"))
    assert len(names) == 8
    for name in names:
        a, b = load_file(one / name), load_file(other / name)
        assert torch.equal(a["rows"], b["rows"])
        torch.testing.assert_close(a["values"], b["values"], atol=1e-5, rtol=0)
    keys = [json.loads((folder / "index.json").read_text("utf-8"))["keys"] for folder in (one, other)]
    assert keys[0] == keys[1]


def _where() -> Any:
    import ray

    def work(tasks: Any) -> Any:
        for _ in tasks:
            time.sleep(0.3)
            yield ray.get_runtime_context().get_node_id()

    return work


def test_shards_and_captions_are_those_of_one_process(
    cluster: Any, session_of: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "CHUNK", 2)
    monkeypatch.setattr(Decoder, "batch_size", 2)
    session, cell = session_of("here")
    embeddings(session, cell, "train", "image")
    session, cell = session_of("there", {"address": cluster.address, "tasks_per_call": 2})
    embeddings(session, cell, "train", "image")
    assert_same_store(*(store(tmp_path / cache) for cache in ("here", "there")))
    by_cluster, session.engine = session.engine, LocalEngine(LocalEngineConfig(), BuildContext())
    crossed(session, cell)
    here = generated(session, cell)
    session.cache.take_back("generate", here.key)
    session.done.clear()
    session.engine = by_cluster
    there = generated(session, cell)
    assert not session.done[-1].cached
    assert [(one.key, one.text) for one in there.predictions] == [(one.key, one.text) for one in here.predictions]
    assert len(there.predictions) == 8


def test_both_nodes_work(cluster: Any, session_of: Opened) -> None:
    session, _ = session_of("cache", {"address": cluster.address, "tasks_per_call": 1})
    assert len({node for _, node in session.engine.map(_where, (), list(range(6)))}) == 2


def test_a_worker_that_is_killed_in_mid_run(
    cluster: Any, session_of: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    embeddings(*session_of("here", type="slow"), "train", "image")
    mark = tmp_path / "died"
    session, cell = session_of("there", {"address": cluster.address}, type="slow", dies=str(mark))
    embeddings(session, cell, "train", "image")
    assert not Path(f"/proc/{mark.read_text()}").exists()
    assert "a worker was lost" in caplog.text
    assert_same_store(store(tmp_path / "here"), store(tmp_path / "there"))


def test_only_an_altered_shard_is_made_again(cluster: Any, session_of: Opened, tmp_path: Path) -> None:
    engine = {"address": cluster.address}
    embeddings(*session_of("cache", engine, type="slow"), "train", "image")
    folder = store(tmp_path / "cache")
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("shard-*")}
    (folder / "shard-00003.safetensors").write_bytes(b"altered")
    embeddings(*session_of("cache", engine, type="slow"), "train", "image")
    after = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("shard-*")}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["shard-00003.safetensors"]
    assert before["shard-00003.safetensors"][1] == after["shard-00003.safetensors"][1]


DRIVER = """
import sys
from pathlib import Path
from modbridge.assembly.experiment import load_experiment
from modbridge.assembly.session import Session
from modbridge.interfaces import BuildContext
from modbridge.plugins.manager import Plugins
from modbridge.stages.embed import embeddings
from modbridge.store.cache import Cache
from modbridge_ray.config import RayConfig
from modbridge_ray.engine import RayEngine

config, plugin, cache, address = sys.argv[1:]
plugins = Plugins.discover([plugin])
(cell,) = load_experiment(config, plugins.registry, sets=["encoder={type: slow, pause: 0.15}"]).cells
engine = RayEngine(RayConfig(address=address), BuildContext())
session = Session(plugins, Cache(Path(cache)), device="cpu", shard_rows=4, engine=engine)
embeddings(session, cell, "train", "image")
"""


def test_a_killed_driver_goes_on_from_whole_shards(
    cluster: Any, session_of: Opened, world: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    process = subprocess.Popen([sys.executable, "-c", DRIVER, str(world), str(SLOW), str(cache), cluster.address])
    work = _first_shard(cache).parent
    process.kill()
    process.wait()
    time.sleep(0.5)  # workers end with their driver
    before = {path.name: path.stat().st_mtime_ns for path in work.glob("shard-*.safetensors")}
    assert 0 < len(before) < 8
    embeddings(*session_of("cache", {"address": cluster.address}, type="slow"), "train", "image")
    after = {path.name: path.stat().st_mtime_ns for path in store(cache).glob("shard-*")}
    assert len(after) == 8
    assert before.items() <= after.items()


def _first_shard(cache: Path) -> Path:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for path in cache.glob("work/embed-*/shard-*.safetensors.json"):
            return path
        time.sleep(0.05)
    raise AssertionError("no shard was written")


def test_an_item_that_cannot_be_read(
    cluster: Any, session_of: Opened, world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split, side in (("train", "text"), ("test", "image"), ("test", "text")):  # so that one stage is left
        embeddings(*session_of("cache", type="slow"), split, side)
    (tmp_path / "images" / "007.png").write_bytes(b"no image")
    arguments = ["gap", str(world), "--set", "encoder=slow", "--set", "decoder=null", "--plugin", str(SLOW), "--json"]
    arguments += ["--cache", str(tmp_path / "cache"), "--engine", "ray", "--engine-set", f"address={cluster.address}"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "error: item '007' cannot be read" in told.err
    assert "Traceback" not in told.err
    assert main([*arguments, "--on-error", "skip"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["rows"]
    assert "1 unreadable image items left out, the first '007'" in told.err


def test_a_node_that_does_not_see_the_cache(cluster: Any, session_of: Opened, tmp_path: Path) -> None:
    session, cell = session_of("cache", {"address": cluster.address}, type="slow")
    token = tmp_path / "not shared" / "token"
    about = (session, cell, Wanted("image", cell.config.data.train), tmp_path, token, None)
    with pytest.raises(SetupError, match=r"does not see the cache: .*not shared is not there on that machine"):
        list(session.engine.map(open_worker, about, [Span("a", range(4), ("001", "005"))]))


def test_a_node_that_goes_in_mid_run(cluster: Any, session_of: Opened, tmp_path: Path) -> None:
    embeddings(*session_of("here", type="slow"), "train", "image")
    node = next(node for node in cluster.list_all_nodes() if not node.is_head())

    def remove() -> None:
        _first_shard(tmp_path / "there")
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        session, cell = session_of("there", {"address": cluster.address, "tasks_per_call": 2}, type="slow", pause=0.2)
        embeddings(session, cell, "train", "image")
        thread.join()
        assert len(cluster.list_all_nodes()) == 1
        assert_same_store(store(tmp_path / "here"), store(tmp_path / "there"))
    finally:
        thread.join()
        cluster.add_node(num_cpus=1, object_store_memory=80 << 20)
        cluster.wait_for_nodes()
