"""A teacher that several components share: built once, trained once, frozen while it teaches, in nobody's artefact."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import modbridge
from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.errors import ArtefactError
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.stages.fit_encoder import encoder
from modbridge.stages.fit_objective import objective_key
from modbridge.store.artefact import load_component, read_manifest
from modbridge.store.cache import Cache
from modbridge.talk import Talk

from .conftest import TOY

TEACHER = Path(__file__).parent / "teacher_plugin.py"
Call = Callable[..., Any]


@pytest.fixture
def taught(world: Path) -> Path:
    """The tiny world's config with an encoder, a bridge and a painter that share a teacher trained by the run."""
    data = world.read_text("utf-8").split("encoder:")[0]
    teacher = "{type: toy_teacher, steps: 80}"
    config = world.with_name("taught.yaml")
    config.write_text(
        f"""{data}
encoder: {{type: toy_taught, objective: {teacher}}}
bridge: {{type: toy_through, teacher: {teacher}}}
decoder: {{type: toy_recite, steps: 30}}
decoders:
  image: {{type: toy_painter, teacher: {teacher}}}
metrics: [bleu]
""",
        encoding="utf-8",
    )
    return config


@pytest.fixture
def opened(taught: Path, tmp_path: Path) -> Callable[..., tuple[Session, Cell]]:
    """A session, as `--set` would change the config, and its cell."""

    def make(*sets: str, cache: str = "cache") -> tuple[Session, Cell]:
        session = Session(Plugins.discover([TOY, TEACHER]), Cache(tmp_path / cache), Talk(quiet=True))
        return session, load_experiment(taught, session.plugins.registry, sets=sets).first

    return make


def parts(session: Session, cell: Cell) -> list[Any]:
    """The teacher, as encoder, bridge and painter hold it."""
    return [
        encoder(session, cell).context.parts["objective"],
        fitted_bridge(session, cell, cell.config.bridge).bridge.context.parts["teacher"],
        fitted_decoder(session, cell.others["image"]).decoder.context.parts["teacher"],
    ]


def trained(cache: Path) -> list[Path]:
    return sorted((cache / "fit_objective").iterdir())


def test_all_that_hold_it_hold_one_object(opened: Any) -> None:
    teachers = parts(*opened())
    assert teachers[0] is teachers[1] is teachers[2]


def test_it_is_trained_once_and_not_touched_by_what_it_teaches(opened: Any, tmp_path: Path) -> None:
    session, cell = opened()
    model = encoder(session, cell)
    (folder,) = trained(tmp_path / "cache")
    kept = load_file(folder / "model.safetensors")
    teacher: Any = model.context.parts["objective"]
    now = teacher.tensors()
    assert kept.keys() == now.keys()
    assert all(torch.equal(kept[name], now[name]) for name in kept)
    parameters = [p for module in teacher.modules().values() for p in module.parameters()]
    assert all(not p.requires_grad and p.grad is None for p in parameters)
    assert not any(module.training for module in teacher.modules().values())
    # What it teaches is learnt: colours come back from the encoder's vectors.
    seen = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2]])
    assert torch.allclose(teacher.paint(model.embed(seen, "image")), seen, atol=0.1)


def test_gradients_pass_through_it(opened: Any) -> None:
    model: Any = encoder(*opened())
    draw = Draw.of(["a", "b"], 0)
    batch = torch.rand(2, 3)
    losses = model.teacher.loss(model.net(batch), batch, draw)
    assert losses.shape == (2,)
    losses.mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.net.parameters())


def test_artefacts_name_it_and_do_not_hold_it(opened: Any, tmp_path: Path) -> None:
    session, cell = opened()
    parts(session, cell)
    (folder,) = trained(tmp_path / "cache")
    assert read_manifest(folder)["identity"] == folder.name
    holders = [*(tmp_path / "cache" / "fit_encoder").iterdir(), *(tmp_path / "cache" / "fit_bridge").iterdir()]
    holders += (tmp_path / "cache" / "fit_decoder").iterdir()
    assert len(holders) == 3
    for holder in holders:
        assert list(read_manifest(holder)["frozen"].values()) == [folder.name]
        tensors = load_file(holder / "model.safetensors") if (holder / "model.safetensors").is_file() else {}
        assert not {"paint", "read"} & {name.split(".")[0] for name in tensors}
        assert [path for path in holder.iterdir() if path.is_dir()] == []


def test_another_teacher_is_refused(opened: Any, tmp_path: Path) -> None:
    one = "bridge.teacher={type: toy_teacher, steps: 0, name: toy/hub@1}"
    session, cell = opened(one)
    folder = fitted_bridge(session, cell, cell.config.bridge).folder
    session, cell = opened(one.replace("@1", "@2"), cache="another")
    other = fitted_bridge(session, cell, cell.config.bridge).bridge
    with pytest.raises(ArtefactError, match=r"the frozen 'teacher' toy/hub@1; found toy/hub@2"):
        load_component(other, folder)


def test_variants_and_seeds_share_what_their_keys_allow(call: Call, taught: Path, tmp_path: Path) -> None:
    def run(*more: str) -> int:
        done = call("run", taught, "--plugin", TEACHER, "--until", "fit_bridge", *more)
        assert done.code == 0, done.err
        return len(trained(tmp_path / "cache"))

    assert run("--vary", "bridge.type=toy_through") == 1
    assert run("--set", "encoder.steps=10") == 1  # another encoder of the same teacher
    assert run("--vary", "seed=0,1") == 2
    assert run("--set", "encoder.seed=0", "--vary", "seed=0,1,2") == 2  # pretraining has a seed of its own
    assert run("--set", "encoder.objective.steps=81") == 3


def test_cells_with_other_data_have_teachers_of_their_own(opened: Any, taught: Path) -> None:
    session, cell = opened()
    sets = ("data.train.path=${paths.data}/world24.jsonl",)
    other = load_experiment(taught, session.plugins.registry, sets=sets).first
    for of in (cell, other):
        key = objective_key(session, of, of.config.encoder.objective)
        assert [part.fitted_as for part in parts(session, of)] == [key] * 3


def test_a_run_killed_while_it_is_trained_goes_on(taught: Path, tmp_path: Path) -> None:
    def command(cache: str, out: str) -> list[str]:
        return [
            sys.executable, "-m", "modbridge", "run", str(taught), "--plugin", str(TOY), "--plugin", str(TEACHER),
            "--cache", str(tmp_path / cache), "--out", str(tmp_path / out), "--checkpoint-seconds", "0",
            "--set", "encoder.objective.pause=0.03", "--set", "bridge.teacher.pause=0.03",
            "--set", "decoders.image.teacher.pause=0.03",
        ]  # fmt: skip

    subprocess.run(command("calm", "undisturbed"), check=True, capture_output=True)
    process = subprocess.Popen(command("cache", "killed"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < deadline:
        if list((tmp_path / "cache").glob("work/fit_objective-*/checkpoint-*")):
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.01)
    assert process.wait() == -signal.SIGKILL
    again = subprocess.run(command("cache", "killed"), check=True, capture_output=True, text=True)
    assert "objective toy_teacher: going on from step" in again.stderr
    made = [{p.relative_to(d): p.read_bytes() for p in d.rglob("*.safetensors")} for d in folders(tmp_path)]
    assert made[0] == made[1]
    made = [{p.relative_to(d): p.read_bytes() for p in d.rglob("images/**/*.png")} for d in folders(tmp_path)]
    assert len(made[0]) == 9
    assert made[0] == made[1]


def folders(tmp_path: Path) -> list[Path]:
    return [tmp_path / "undisturbed", tmp_path / "killed"]


def test_a_trained_teacher_is_taken_as_weights(call: Call, taught: Path, tmp_path: Path) -> None:
    first = call("run", taught, "--plugin", TEACHER, "--out", tmp_path / "run", "--json")
    assert first.code == 0, first.err
    (folder,) = (tmp_path / "run" / "artefacts").glob("objective-*")
    given = f"{{type: toy_teacher, weights: {folder}}}"
    sets = [f"encoder.objective={given}", f"bridge.teacher={given}", f"decoders.image.teacher={given}"]
    flags = [flag for one in sets for flag in ("--set", one)]
    second = call(
        "run", taught, "--plugin", TEACHER, "--out", tmp_path / "again", "--cache", tmp_path / "other", *flags, "--json"
    )
    assert second.code == 0, second.err
    assert [path.name for path in (tmp_path / "other" / "fit_objective").iterdir()] == [folder.name.split("-")[1]]
    assert second.json["rows"] == first.json["rows"]


def test_a_run_alone_serves_with_its_teacher(call: Call, taught: Path, tmp_path: Path) -> None:
    done = call("run", taught, "--plugin", TEACHER, "--out", tmp_path / "run")
    assert done.code == 0, done.err
    (tmp_path / "cache").rename(tmp_path / "gone")
    placed = json.loads((tmp_path / "run" / "run.json").read_text("utf-8"))["cells"]["toy"]
    assert placed["encoder.objective"] == placed["bridge.teacher"] == placed["decoders.image.teacher"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert {"teacher", "taught", "recite"} <= {line.get("fit") for line in lines}
    pipeline = modbridge.load(tmp_path / "run", plugins=Plugins.discover([TOY, TEACHER]))
    teacher: Any = pipeline.encoder.context.parts["objective"]
    assert pipeline.bridge.context.parts["teacher"] is teacher
    assert pipeline.decoder_of("image").context.parts["teacher"] is teacher
    assert not teacher.paint.weight.requires_grad
    kept = load_file(tmp_path / "run" / placed["encoder.objective"] / "model.safetensors")
    assert torch.equal(teacher.paint.weight, kept["paint.weight"])


def test_parts_with_a_teacher_keep_their_promises(call: Call) -> None:
    done = call("test-plugin", TEACHER, toy=False)
    assert done.code == 0, done.out
    assert "gradients_pass" in done.out


def test_two_processes_teach_as_one_does(call: Call, taught: Path, tmp_path: Path) -> None:
    arguments = ["run", taught, "--plugin", TEACHER, "--plugin", TOY, "--until", "fit_encoder"]
    assert call(*arguments, "--cache", tmp_path / "one", toy=False).code == 0
    program = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "modbridge", *arguments]
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "TORCHELASTIC_ERROR_FILE": ""}
    command = [str(word) for word in (*program, "--cache", tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=quiet, check=False)
    assert done.returncode == 0, done.stderr
    for stage in ("fit_objective", "fit_encoder"):
        (one,), (two,) = (list((tmp_path / cache / stage).rglob("*.safetensors")) for cache in ("one", "two"))
        assert one.parent.name == two.parent.name
        ours, theirs = load_file(one), load_file(two)
        for name, value in ours.items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-4)
