"""Two processes of `torchrun` or `accelerate launch` end with what one ends with, and one takes over from two.

Weights are compared to 1e-5: summing gradients over halves of a batch rounds differently than over the whole, by some
1e-8 a step here, and Adam's division may enlarge that by a hundred.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from modbridge.assembly.session import Session, StageFitting
from modbridge.cli import main
from modbridge.distributed import World
from modbridge.plugins.manager import Plugins
from modbridge.store.cache import Cache
from modbridge.testing.fitting import Interrupted

from .conftest import TOY, draw_world

Call = Callable[..., Any]
CHECKS = Path(__file__).parent / "rank_checks.py"
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
STOP = 9  # checkpoints of the decoder, one a step


def launch(*command: object) -> subprocess.CompletedProcess[str]:
    """Both processes, of one thread each."""
    quiet = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TORCHELASTIC_ERROR_FILE": ""}
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, env=quiet)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The recipe at toy size, with batches that two processes cannot halve, no dropout, and a choice among weights."""
    folder = tmp_path / "world"
    for start, count in ((0, 24), (24, 9), (33, 9)):
        draw_world(folder, count, start=start)
    path = tmp_path / "two.yaml"
    path.write_text(
        f"""\
name: two
data:
  train: {{type: jsonl, path: {folder}/world0.jsonl, root: {folder}/images}}
  validation: {{type: jsonl, path: {folder}/world33.jsonl, root: {folder}/images}}
  test: {{type: jsonl, path: {folder}/world24.jsonl, root: {folder}/images}}
encoder: toy_colours
bridge:
  type: diffusion_bridge
  start_step: 50
  num_steps: 5
  prior: {{type: ddpm, denoiser: {{type: residual_mlp}}, steps: 30, batch_size: 7, ema_decay: 0.9}}
decoder:
  type: prefix_lm
  steps: 20
  batch_size: 7
  prefix_length: 2
  tokenizer: words
  lr: 0.01
  lm: {{n_layer: 1, n_head: 2, n_embd: 16, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0}}
  generate: {{max_new_tokens: 6}}
select: {{by: text_loss, every: 1}}
metrics: [bleu]
""",
        encoding="utf-8",
    )
    return path


def arguments(config: Path, tmp_path: Path, name: str) -> list[str]:
    return [
        "run", str(config), "--cache", str(tmp_path / name), "--out", str(tmp_path / f"run-{name}"),
        "--checkpoint-seconds", "0",
    ]  # fmt: skip


def same_weights(one: Path, other: Path, stage: str) -> None:
    files = sorted(path.relative_to(one) for path in (one / stage).rglob("*.safetensors"))
    assert files
    for file in files:
        ours, theirs = load_file(one / file), load_file(other / file)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            found = theirs[name]
            if name.endswith("attn.c_attn.bias"):
                # A softmax does not see the keys' bias: its gradient is rounding alone, which Adam makes full steps of.
                value, found = (torch.stack(each.chunk(3))[[0, 2]] for each in (value, found))
            torch.testing.assert_close(value, found, rtol=0, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.usefixtures("one_thread")
def test_two_processes_and_one_take_over_from_each_other(
    call: Call, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(*arguments(config, tmp_path, "one")).code == 0
    one = tmp_path / "one"
    plugin = ["--plugin", str(TOY)]

    # Two processes fit the prior and the first steps of the decoder; one goes on.
    stopped = launch(*TORCHRUN, CHECKS, STOP, *arguments(config, tmp_path, "two"), *plugin)
    assert stopped.returncode == 1
    assert len(list((tmp_path / "two" / "work").glob("fit_decoder-*/checkpoint-*"))) == 1, stopped.stderr
    same_weights(one, tmp_path / "two", "fit_prior")
    result = call(*arguments(config, tmp_path, "two"))
    assert result.code == 0
    assert f"going on from step {STOP}" in result.err
    same_weights(one, tmp_path / "two", "fit_decoder")

    # One process begins the decoder; two go on, and finish the run.
    checkpoint, count = StageFitting.checkpoint, [0]

    def counted(self: StageFitting, name: str, state: Any, *, force: bool = False) -> None:
        checkpoint(self, name, state, force=force)
        count[0] += name == "prefix_lm"
        if count[0] == STOP:
            raise Interrupted(name)

    monkeypatch.setattr(StageFitting, "checkpoint", counted)
    assert call(*arguments(config, tmp_path, "three")).code == 3
    finished = launch(*ACCELERATE, "-m", "modbridge", *arguments(config, tmp_path, "three"), *plugin)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.count(f"going on from step {STOP}") == 1  # one process speaks
    assert finished.stdout.count("diffusion_bridge") == 1  # and prints
    same_weights(one, tmp_path / "three", "fit_decoder")
    assert not list((tmp_path / "three" / "work").iterdir())
    for name in ("table.json", "metrics.jsonl", "predictions.jsonl", "report.html"):
        assert (tmp_path / "run-three" / name).is_file(), name


def test_the_combination_on_two_processes() -> None:
    done = launch(*TORCHRUN, CHECKS)
    assert done.returncode == 0, done.stderr
    names = {line.split("(")[0][4:] for line in CHECKS.read_text().splitlines() if line.startswith("def check_")}
    assert set(done.stdout.split()) == names


def test_other_verbs_refuse_to_be_started_several_times(call: Call, world: Path, monkeypatch: Any) -> None:
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    for verb in (["compare", world, "--jobs", "2"], ["demo"], ["caption", "a.png"]):
        result = call(*verb)
        assert result.code == 1
        assert "works in one process" in result.err


def test_an_error_of_a_config_is_told_once(tmp_path: Path) -> None:
    wrong = launch(*TORCHRUN, "-m", "modbridge", "run", tmp_path / "nowhere.yaml")
    assert wrong.returncode == 1
    assert wrong.stderr.count("error: ") == 1
    assert "nowhere.yaml" in wrong.stderr
    assert wrong.stdout == ""


class Waited(World):
    """The first of two processes, whose other one hears everything and says nothing."""

    def _broadcast(self, value: Any) -> Any:
        return value


def test_what_one_process_made_alone_is_made_again_together(tmp_path: Path) -> None:
    session = Session(Plugins.discover(), Cache(tmp_path), world=Waited(0, 2))
    made: list[str] = []

    def make(name: str) -> Callable[[], str]:
        def of() -> str:
            made.append(name)
            return name

        return of

    assert session.remember("a", make("a together"), among="x") == "a together"
    assert session.world.first(lambda: session.remember("a", make("a alone"), among="x")) == "a together"
    for _ in range(2):
        assert session.world.first(lambda: session.remember("b", make("b alone"), among="x")) == "b alone"
    assert session.remember("a", make("a again"), among="x") == "a together"  # b, known to one, did not push it out
    assert session.remember("b", make("b together"), among="x") == "b together"
    assert made == ["a together", "b alone", "b together"]


def test_a_process_without_a_launcher_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert World.of_launch().size == 1
    monkeypatch.setenv("WORLD_SIZE", "8")  # a queue's own variable, without a rank, says nothing
    assert World.of_launch().size == 1
    assert main(["--version"]) == 0
