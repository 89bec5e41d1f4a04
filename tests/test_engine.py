"""Engines: tasks done elsewhere give the same shards and captions, and what goes wrong there is told as it is here."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from modbridge.assembly import elsewhere
from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.builtin.engine_config import LocalEngineConfig
from modbridge.config.kinds import EngineConfig
from modbridge.errors import DataError, SetupError
from modbridge.interfaces import BuildContext, Decoder, Engine
from modbridge.plugins.manager import Plugins
from modbridge.stages import generate
from modbridge.stages.embed import embeddings
from modbridge.stages.embed_shards import Span, Wanted, open_worker
from modbridge.stages.generate import generated
from modbridge.store.cache import Cache

from .conftest import TOY
from .test_embed import Said, store

TEACHER = Path(__file__).parent / "teacher_plugin.py"


class ApartConfig(EngineConfig):
    """Another process, from the last task to the first."""

    type: str = "apart"
    width: int = 2


class Apart(Engine[ApartConfig]):
    """Nothing reaches its worker but what is pickled."""

    asked: list[int]

    def map(
        self, opened: Callable[..., Any], about: tuple[Any, ...], tasks: Sequence[Any]
    ) -> Iterator[tuple[int, Any]]:
        self.asked = [*getattr(self, "asked", []), len(tasks)]
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("fork")) as pool:
            pool.submit(_open, pickle.dumps((opened, about))).result()
            for at in reversed(range(0, len(tasks), self.config.width)):
                done = pool.submit(_do, tasks[at : at + self.config.width]).result()
                yield from enumerate(done, at)


WORK: list[Any] = []


def _open(job: bytes) -> None:
    torch.set_num_threads(1)
    opened, about = pickle.loads(job)
    WORK[:] = [opened(*about)]


def _do(tasks: Sequence[Any]) -> list[Any]:
    return list(WORK[0](tasks))


@pytest.fixture
def opened(world: Path, tmp_path: Path) -> Callable[..., tuple[Session, Cell]]:
    """A session of the tiny world with a cache of its own, and its one cell."""

    def make(
        cache: str,
        *,
        apart: bool = False,
        rows: int = 5,
        on_error: str = "raise",
        files: Sequence[Path] = (TOY,),
        **encoder: Any,
    ) -> Any:
        plugins = Plugins.discover(files, environ={})
        sets = [f"encoder={json.dumps({'type': 'toy_colours', 'batch_size': 4, **encoder})}"]
        (cell,) = load_experiment(str(world), plugins.registry, sets=sets).cells
        where = Cache(tmp_path / cache)
        session = Session(plugins, where, Said(), device="cpu", shard_rows=rows, on_error=on_error)
        if apart:
            session.engine = Apart(ApartConfig(), BuildContext())
        return session, cell

    return make


Opened = Callable[..., tuple[Session, Cell]]


@pytest.mark.parametrize("side", ["image", "text"])
def test_shards_made_elsewhere_are_the_same(opened: Opened, tmp_path: Path, side: str) -> None:
    here = embeddings(*opened("here"), "train", side)
    session, cell = opened("apart", apart=True)
    there = embeddings(session, cell, "train", side)
    assert there.keys == here.keys
    torch.testing.assert_close(there.values, here.values, atol=1e-5, rtol=0)
    names = [{path.name for path in store(tmp_path / cache, side).iterdir()} for cache in ("here", "apart")]
    assert names[0] == names[1]
    assert session.engine.asked == [5 if side == "image" else 2]
    assert not list((tmp_path / "apart" / "work").iterdir())


def test_only_the_altered_shard_is_made_again(opened: Opened, tmp_path: Path) -> None:
    before = embeddings(*opened("cache", apart=True), "train", "image")
    (store(tmp_path / "cache") / "shard-00001.safetensors").write_bytes(b"cut")
    session, cell = opened("cache", apart=True)
    after = embeddings(session, cell, "train", "image")
    assert session.engine.asked == [1]
    torch.testing.assert_close(after.values, before.values, atol=1e-6, rtol=0)


def test_captions_written_elsewhere_are_the_same(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "CHUNK", 4)
    monkeypatch.setattr(Decoder, "batch_size", 4)
    here = generated(*opened("here"))
    session, cell = opened("apart", apart=True)
    there = generated(session, cell)
    assert [one.text for one in there.predictions] == [one.text for one in here.predictions]
    assert [one.key for one in there.predictions] == [one.key for one in here.predictions]
    assert session.engine.asked[-1] == 3


def test_images_painted_elsewhere_are_the_same(opened: Opened, world: Path) -> None:
    teacher = "{type: toy_teacher, steps: 20}"
    more = f"decoders: {{image: {{type: toy_painter, teacher: {teacher}}}}}\n"
    world.write_text(world.read_text("utf-8") + more, encoding="utf-8")
    found = []
    for cache in ("here", "apart"):
        session, cell = opened(cache, apart=cache == "apart", files=[TOY, TEACHER])
        found.append(generated(session, cell.others["image"]))
    assert [one.key for one in found[0].predictions] == [one.key for one in found[1].predictions]
    assert len(found[0].images) == 9
    assert [file.read_bytes() for file in found[0].images] == [file.read_bytes() for file in found[1].images]


def test_an_item_that_cannot_be_read_elsewhere(opened: Opened, world: Path, tmp_path: Path) -> None:
    (tmp_path / "world" / "images" / "007.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="item '007' cannot be read"):
        embeddings(*opened("cache", apart=True), "train", "image")
    session, cell = opened("cache", apart=True, on_error="skip")
    found = embeddings(session, cell, "train", "image")
    assert len(found) == 23
    assert any("1 unreadable image items left out" in line for line in session.talk.lines)


def test_a_worker_that_does_not_see_the_cache(opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elsewhere, "PATIENCE", 0)
    session, cell = opened("cache")
    about = (session, cell, Wanted("image", cell.config.data.train), tmp_path, tmp_path / "elsewhere" / "token", None)
    with pytest.raises(SetupError, match=r"does not see the cache: .*elsewhere is not there.*--cache"):
        open_worker(*about)
    with elsewhere.token_in(tmp_path) as token:
        elsewhere.require_token(token)
    assert not token.exists()


def test_a_worker_that_sees_other_data(opened: Opened, tmp_path: Path) -> None:
    session, cell = opened("cache")
    work = open_worker(session, cell, Wanted("image", cell.config.data.train), tmp_path, None, None)
    with pytest.raises(DataError, match="sees other data: of its 24 image items number 0 to 4"):
        list(work([Span("shard-00000.safetensors", range(5), ("000", "009"))]))
    with pytest.raises(DataError, match="sees other data"):
        list(work([Span("shard-00005.safetensors", range(25, 30), ("025", "029"))]))
    assert not list(tmp_path.glob("shard*"))


def test_a_worker_tells_that_it_halved_its_batches(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session, cell = opened("cache")
    colours: Any = sys.modules[f"modbridge_file_{TOY.stem}"].Colours
    embed = colours.embed

    def limited(encoder: Any, batch: torch.Tensor, modality: str) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        found: torch.Tensor = embed(encoder, batch, modality)
        return found

    monkeypatch.setattr(colours, "embed", limited)
    spans = [Span("shard-00000.safetensors", range(5), ("000", "004")), Span("b", range(5, 9), ("005", "008"))]
    made = list(open_worker(session, cell, Wanted("image", cell.config.data.train), tmp_path, None, None)(spans))
    assert made[0].said == ("embed image: out of memory on the device; going on with batches of 2",)
    assert made[1].said == ()
    assert len(session.talk.lines) == 0  # it is said by who asked


def test_a_session_is_opened_again_from_what_is_pickled(opened: Opened, tmp_path: Path) -> None:
    session, cell = opened("cache")
    print_ = session.fingerprint(cell.config.data.train)
    again = pickle.loads(pickle.dumps(session))
    assert (again.cache.root, again.device, again.shard_rows) == (tmp_path / "cache", "cpu", 5)
    assert again.plugins.registry.find("encoder", "toy_colours") is not None
    Path(cell.config.data.train.path).unlink()  # it is not asked for again
    assert again.fingerprint(cell.config.data.train) == print_
    assert again.engine.config == LocalEngineConfig()


def test_an_engine_that_is_not_there(call: Callable[..., Any], world: Path) -> None:
    found = call("run", world, "--engine", "locl")
    assert found.code == 1
    assert "--engine: no such engine: 'locl'" in found.err
    assert "did you mean 'local'?" in found.err
    found = call("run", world, "--engine-set", "workers=3")
    assert found.code == 1
    assert "--engine-set workers" in found.err


def test_an_engine_of_a_plugin_that_is_not_installed(
    call: Callable[..., Any], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODBRIDGE_DISABLE", "ray")
    found = call("run", world, "--engine", "ray")
    assert found.code == 1
    assert "no such engine: 'ray'" in found.err
    assert "provided by modbridge-ray, which is not installed" in found.err


def test_comparisons_share_no_cluster_among_processes(call: Callable[..., Any], world: Path) -> None:
    found = call("compare", world, "--engine", "ray", "--jobs", "2")
    assert found.code == 1
    assert "--jobs: each of 2 processes would ask the engine 'ray'" in found.err


def test_shards_that_stand_are_left_as_they_are(opened: Opened, tmp_path: Path) -> None:
    session, cell = opened("cache")
    spans = [
        Span(f"shard-{n:05d}.safetensors", range(5 * n, 5 * n + 5), (f"{5 * n:03d}", f"{5 * n + 4:03d}"))
        for n in range(3)
    ]
    wanted = Wanted("image", cell.config.data.train)
    first = list(open_worker(session, cell, wanted, tmp_path, None, None)([spans[0], spans[2]]))
    stamps = [(tmp_path / span.name).stat().st_mtime_ns for span in (spans[0], spans[2])]
    again = list(open_worker(session, cell, wanted, tmp_path, None, None)(spans))
    assert [again[0].note, again[2].note] == [made.note for made in first]
    assert [(tmp_path / span.name).stat().st_mtime_ns for span in (spans[0], spans[2])] == stamps
    assert (tmp_path / spans[1].name).is_file()
