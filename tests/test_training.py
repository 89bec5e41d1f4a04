"""The training loop: data order, schedules, resuming, and refusing a loss that is no number."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from modbridge.errors import ArtefactError, DataError
from modbridge.interfaces import WeightsJudge
from modbridge.store.tree import load_tree, save_tree
from modbridge.testing import MemoryFitting
from modbridge.testing.fitting import Interrupted
from modbridge.training import Batches, derived_seed, train, warmup_then


@given(size=st.integers(1, 40), batch=st.integers(1, 50), start=st.integers(0, 30), more=st.integers(0, 30))
@settings(max_examples=50, deadline=None)
def test_batches_go_on_anywhere(size: int, batch: int, start: int, more: int) -> None:
    batches = Batches(size, batch, seed=3)
    whole = [rows.tolist() for _, _, rows in batches.rows(0, start + more)]
    assert [rows.tolist() for _, _, rows in batches.rows(start, start + more)] == whole[start:]
    for first in range(0, len(whole) - batches.per_epoch + 1, batches.per_epoch):
        seen = [row for rows in whole[first : first + batches.per_epoch] for row in rows]
        assert len(seen) == len(set(seen))
        assert all(len(rows) == min(size, batch) for rows in whole)


def test_schedules() -> None:
    linear, cosine = warmup_then("linear", 10, 110), warmup_then("cosine", 10, 110)
    assert [linear(0), linear(9), linear(60), linear(110)] == pytest.approx([0.1, 1.0, 0.5, 0.0])
    assert cosine(35) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)
    assert warmup_then("constant", 0, 5)(1000) == 1.0


def model() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(0.5))


def train_net(net: torch.nn.Module, fitting: MemoryFitting, steps: int, **more: Any) -> None:
    data = torch.arange(80.0).reshape(20, 4) / 80
    options: dict[str, Any] = {
        "loss": lambda step, epoch, rows: net(data[rows]).pow(2).mean(),
        "schedule": warmup_then("cosine", 5, steps),
        "log_every": 10,
    }
    train(
        "toy",
        modules={"net": net},
        optimiser=torch.optim.Adam(net.parameters(), lr=0.01),
        batches=Batches(20, 6, fitting.seed),
        steps=steps,
        fitting=fitting,
        **{**options, **more},
    )


def fit(fitting: MemoryFitting, steps: int = 25, clip: float | None = None) -> torch.nn.Module:
    net = model()
    train_net(net, fitting, steps, clip=clip)
    return net


@pytest.mark.parametrize("stop", [1, 7, 10, 24])
def test_an_interrupted_fit_ends_with_the_same_bytes(stop: int) -> None:
    calm, broken = MemoryFitting(seed=5), MemoryFitting(seed=5, stop_after=stop)
    whole = fit(calm)
    with pytest.raises(Interrupted):
        fit(broken)
    resumed = fit(broken)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert calm.logged[-1] == broken.logged[-1]


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = fit(MemoryFitting(seed=5))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    second = fit(MemoryFitting(seed=5))
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_a_loss_that_is_no_number_stops_before_it_reaches_the_weights() -> None:
    net = torch.nn.Linear(2, 1)
    before = net.weight.detach().clone()
    with pytest.raises(DataError, match="step 0"):
        train(
            "bad",
            modules={"net": net},
            optimiser=torch.optim.SGD(net.parameters(), lr=1.0),
            batches=Batches(4, 2, 0),
            steps=3,
            loss=lambda step, epoch, rows: net(torch.full((2, 2), math.nan)).mean(),
            fitting=MemoryFitting(),
        )
    assert torch.equal(net.weight, before)


def test_derived_seeds_differ_by_purpose() -> None:
    assert derived_seed("order", 1, 2) != derived_seed("order", 12)
    assert derived_seed("a", 1) == derived_seed("a", 1) < 2**56


def test_state_survives_the_disk_without_pickle(tmp_path: Path) -> None:
    net = model()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, betas=(0.8, 0.9))
    net(torch.randn(4, 4)).sum().backward()
    optimiser.step()
    state = {"optimiser": optimiser.state_dict(), "step": 3, "note": "x", "nothing": None, 7: [1.5, True]}
    save_tree(state, tmp_path / "state.safetensors")
    found = load_tree(tmp_path / "state.safetensors")
    assert found["step"] == 3
    assert found[7] == [1.5, True]
    assert found["optimiser"]["param_groups"] == state["optimiser"]["param_groups"]
    for index, values in state["optimiser"]["state"].items():
        for name, value in values.items():
            assert torch.equal(found["optimiser"]["state"][index][name], value)
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
    (tmp_path / "state.safetensors").write_bytes((tmp_path / "state.safetensors").read_bytes()[:100])
    with pytest.raises(ArtefactError, match="remove it to begin anew"):
        load_tree(tmp_path / "state.safetensors")


# --- judged while it goes on


def judged_fit(fitting: Logged, values: list[float], *, every: float = 1.0, higher: bool = False) -> Any:
    """A fit whose judge says `values` in turn: the net, and its state at each judgement."""
    net = model()
    seen: list[dict[str, torch.Tensor]] = []

    def measure() -> float:
        assert not net.training
        assert not torch.is_grad_enabled()
        seen.append({name: value.clone() for name, value in net.state_dict().items()})
        return values[len(fitting.logged_by("toy judge"))]

    judge = WeightsJudge("toy judge", measure, every=every, higher_is_better=higher)
    train_net(net, fitting, 12, judge=judge)
    return net, seen


class Logged(MemoryFitting):
    """Keeps the log of a run that is interrupted, as a stage does."""

    def logged_by(self, judge: str) -> list[dict[str, Any]]:
        return [line for line in self.logged if line.get("select") == judge]

    def restore(self, name: str) -> dict[str, Any] | None:
        state = super().restore(name)
        if state is not None:
            self.logged = state.pop("lines")
        return state

    def checkpoint(self, name: str, state: Any, *, force: bool = False) -> None:
        super().checkpoint(name, lambda: {**state(), "lines": list(self.logged)}, force=force)


@pytest.mark.parametrize(("higher", "best"), [(False, 2), (True, 0)])
def test_the_best_weights_are_put_back(higher: bool, best: int) -> None:
    fitting = Logged(seed=5)
    net, seen = judged_fit(fitting, [4.0, 3.0, 1.0, 1.0], higher=higher)
    lines = fitting.logged_by("toy judge")
    assert [line["step"] for line in lines] == [3, 6, 9, 12]  # epochs of three steps
    assert [line["value"] for line in lines] == [4.0, 3.0, 1.0, 1.0]
    assert lines[-1]["best_step"] == [3, 6, 9, 12][best]  # the first among equals
    for name, value in net.state_dict().items():
        assert torch.equal(value, seen[best][name]), name
    assert not torch.equal(net.state_dict()["0.weight"], seen[-1]["0.weight"])
    assert not net.training


def test_judging_changes_nothing_of_the_training() -> None:
    plain = fit(MemoryFitting(seed=5), steps=12)
    net, _ = judged_fit(Logged(seed=5), [5.0, 4.0, 3.0, 2.0, 1.0], every=0.9)  # the last weights are the best
    for name, value in plain.state_dict().items():
        assert torch.equal(value, net.state_dict()[name]), name


def test_the_last_step_is_judged_too() -> None:
    fitting = Logged()
    judged_fit(fitting, [2.0, 1.0, 3.0], every=5 / 3)
    assert [line["step"] for line in fitting.logged_by("toy judge")] == [5, 10, 12]


@pytest.mark.parametrize("stop", [2, 6, 7, 9, 11, 12])
def test_an_interrupted_choice_ends_with_the_same_bytes(stop: int) -> None:
    values = [4.0, 1.0, 3.0, 2.0]
    calm, broken = Logged(seed=5), Logged(seed=5, stop_after=stop)
    whole, _ = judged_fit(calm, values)
    with pytest.raises(Interrupted):
        judged_fit(broken, values)
    resumed, _ = judged_fit(broken, values)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert calm.logged == broken.logged


def test_the_average_of_the_best_weights_is_put_back_with_them() -> None:
    net = model()
    averaged = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    seen: list[dict[str, torch.Tensor]] = []

    def measure() -> float:
        seen.append({name: value.clone() for name, value in averaged.state_dict().items()})
        return abs(len(seen) - 2.0)

    train_net(net, MemoryFitting(), steps=12, averaged=averaged, judge=WeightsJudge("toy", measure))
    assert all(torch.equal(value, seen[1][name]) for name, value in averaged.state_dict().items())
    assert not torch.equal(averaged.state_dict()["module.0.weight"], seen[-1]["module.0.weight"])


def test_a_judge_without_a_number_is_told() -> None:
    with pytest.raises(DataError, match="toy judge became nan at step 6"):
        judged_fit(Logged(), [1.0, math.nan])


# --- losses that wait on a device


class Far(torch.Tensor):
    """A tensor that says that it is on a GPU."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda:0")


def far_fit(fitting: MemoryFitting, bad: int | None = None, judge: WeightsJudge | None = None) -> torch.nn.Module:
    net = model()

    def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
        value = net(torch.ones(6, 4) * (step + 1)).pow(2).mean()
        return (value * (math.nan if step == bad else 1.0)).as_subclass(Far)

    train_net(net, fitting, steps=25, loss=loss, judge=judge)
    return net


def test_losses_on_a_device_are_logged_and_resumed_as_on_a_cpu() -> None:
    calm, broken, near = (Logged(seed=5, stop_after=stop) for stop in (None, 13, None))
    whole = far_fit(calm)
    with pytest.raises(Interrupted):
        far_fit(broken)
    resumed = far_fit(broken)
    assert calm.logged == broken.logged
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
    net = model()
    train_net(net, near, steps=25, loss=lambda step, _, rows: net(torch.ones(6, 4) * (step + 1)).pow(2).mean())
    assert near.logged == calm.logged


def test_a_bad_loss_on_a_device_is_told_with_its_step_and_never_saved() -> None:
    fitting = MemoryFitting()
    with pytest.raises(DataError, match="nan at step 12"):
        far_fit(fitting, bad=12)
    assert fitting.saved["toy"]["step"] == 12
    assert all(torch.isfinite(value).all() for value in fitting.saved["toy"]["modules"]["net"].values())


class Careless(MemoryFitting):
    """Finds no time for checkpoints, but counts how often it was asked to make one: once a step."""

    steps = 0

    def checkpoint(self, name: str, state: Any, *, force: bool = False) -> None:
        self.steps += 1


def test_a_bad_loss_on_a_device_is_told_before_the_next_log_line_and_judgement() -> None:
    fitting = Careless()
    with pytest.raises(DataError, match="nan at step 12"):
        far_fit(fitting, bad=12)
    assert [line["step"] for line in fitting.logged] == [10]
    assert fitting.steps == 19  # told at the log line of the twentieth

    def never() -> float:
        raise AssertionError("spoiled weights were judged")

    fitting = Careless()
    with pytest.raises(DataError, match="nan at step 3"):
        far_fit(fitting, bad=3, judge=WeightsJudge("toy", never, every=2))  # at step 6, before the log line at 10
    assert fitting.steps == 5
