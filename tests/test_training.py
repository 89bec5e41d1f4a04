"""The training loop: data order, schedules, resuming, and refusing a loss that is no number."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modbridge.errors import ArtefactError, DataError
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


def fit(fitting: MemoryFitting, steps: int = 25, clip: float | None = None) -> torch.nn.Module:
    net = model()
    data = torch.arange(80.0).reshape(20, 4) / 80
    train(
        "toy",
        modules={"net": net},
        optimiser=torch.optim.Adam(net.parameters(), lr=0.01),
        batches=Batches(20, 6, fitting.seed),
        steps=steps,
        loss=lambda step, epoch, rows: net(data[rows]).pow(2).mean(),
        fitting=fitting,
        schedule=warmup_then("cosine", 5, steps),
        clip=clip,
        log_every=10,
    )
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
