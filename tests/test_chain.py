"""Chains of bridges, against the same bridges put together by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import modbridge
from modbridge.assembly.session import StageFitting
from modbridge.builtin.bridges.chain import ChainBridge
from modbridge.builtin.bridges.chain_config import ChainConfig
from modbridge.config.blocks import validate_block
from modbridge.config.kinds import BridgeConfig
from modbridge.cost import parameters_of
from modbridge.errors import ConfigError, DataError, PortError
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port
from modbridge.testing.fitting import Interrupted

from .conftest import TOY

DIM = 16
TEXT = toy_embeddings(200, DIM)
IMAGE = toy_embeddings(150, DIM, "image")
T, V = TEXT.values.double().numpy(), IMAGE.values.double().numpy()
Call = Callable[..., Any]


def _n(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _shift(x: Any) -> Any:
    """Mean shift fitted on `x` itself."""
    return _n(x - x.mean(0) + T.mean(0))


def _chain(*bridges: Any, fitted: bool = True, **more: Any) -> Any:
    found = build("bridge", {"type": "chain", "bridges": list(bridges), **more})
    if fitted:
        assert isinstance(found, ChainBridge)
        found.fit(FitData(TEXT, IMAGE), MemoryFitting())
    return found


def _close(found: Embeddings, expected: Any) -> None:
    np.testing.assert_allclose(found.values.numpy(), expected, atol=2e-6)


class StubConfig(BridgeConfig):
    wants: tuple[str, ...] = ()

    @property
    def needs(self) -> frozenset[str]:
        return frozenset(self.wants)


class Stub(Bridge[StubConfig]):
    """Notes what it is fitted on; turns vectors by one place."""

    seen: FitData | None = None

    def fit(self, data: FitData, fitting: Fitting) -> None:
        self.seen = data

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x.roll(1, dims=1)


class NoisyConfig(BridgeConfig):
    augmentation: ClassVar[Any] = "noise"


class Noisy(Bridge[NoisyConfig]):
    """Noise both ways, from a draw that it names itself; `noted` is what it drew."""

    def fit(self, data: FitData, fitting: Fitting) -> None:
        self.fitted_on = data

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        self.noted = draw.named("offset").normal(x.shape[1])
        return x + self.noted

    augment_vectors = cross_vectors


def _of(*members: Bridge[Any]) -> ChainBridge:
    """A chain of bridges that no registry knows."""
    config = ChainConfig(type="chain", bridges=[member.config for member in members])
    parts = {f"bridges.{i}": member for i, member in enumerate(members)}
    ports = {"text": toy_port(DIM), "source": toy_port(DIM, "image")}
    return ChainBridge(config, BuildContext(ports=ports, parts=parts))


def _stub(*wants: str) -> Stub:
    return Stub(StubConfig(type="stub", wants=wants), BuildContext())


# ---- the formula ------------------------------------------------------------------------------------------------


def test_vectors_pass_through_every_member_in_order() -> None:
    chain = _chain("mean_shift", {"type": "c3", "noise_std": 0})
    shifted = _shift(V)
    _close(chain.cross(IMAGE), _n(shifted - shifted.mean(0)))  # the second member centres what the first one gives
    _close(chain.augment(TEXT), _n(T - T.mean(0)))
    assert chain.cross(IMAGE).port.frame == chain.augment(TEXT).port.frame == "centred"
    assert chain.cross(IMAGE).port.bridge == chain.augment(TEXT).port.bridge == "mean_shift + c3"
    other = _chain("identity", "mean_shift", "mean_shift")
    _close(other.cross(IMAGE), _shift(_shift(V)))
    assert np.abs(_shift(_shift(V)) - _shift(V)).max() > 1e-3  # the second shift is no empty one


def test_noise_on_texts_follows_the_members_before_it() -> None:
    chain = _chain("mean_shift", {"type": "capdec", "noise_std": 0.2})
    _close(chain.cross(IMAGE), _shift(V))
    augmented = chain.augment(TEXT, seed=3, epoch=1).values.double().numpy()
    # n(t + .2 e): e without its part along t is seen by scaling back.
    seen = augmented / (augmented * T).sum(1, keepdims=True) - T
    length = np.sqrt(DIM - 1) * 0.2
    assert np.linalg.norm(seen, axis=1).mean() == pytest.approx(length, rel=0.15)
    assert not np.allclose(augmented, chain.augment(TEXT, seed=3, epoch=2).values.numpy(), atol=1e-2)


def test_members_draw_noise_of_their_own_in_nested_chains_too() -> None:
    members = [Noisy(NoisyConfig(type="noisy"), BuildContext()) for _ in range(4)]
    chain = _of(_of(members[0], members[1]), _of(members[2]), members[3])
    for carry, given, start in ((chain.cross, IMAGE, V), (chain.augment, TEXT, T)):
        found = carry(given, seed=1).values.double()
        drawn = [member.noted.double() for member in members]
        for a in range(4):
            for b in range(a):
                assert abs(float((drawn[a] * drawn[b]).mean())) < 0.1
        np.testing.assert_allclose((found - sum(drawn)).numpy(), start, atol=1e-5)


@pytest.mark.parametrize("size", [1, 7])
def test_batches_and_order_change_nothing(size: int) -> None:
    chain = _chain("mean_shift", {"type": "capdec", "noise_std": 0.3}, ["identity", {"type": "c3", "noise_std": 0.3}])
    order = list(range(20, 0, -1))
    for whole, carry, given in (
        (chain.cross(IMAGE, seed=2), chain.cross, IMAGE),
        (chain.augment(TEXT, seed=2), chain.augment, TEXT),
    ):
        parts = [carry(given.select(order[i : i + size]), seed=2).values for i in range(0, len(order), size)]
        torch.testing.assert_close(torch.cat(parts), whole.values[order], atol=1e-6, rtol=0)


def test_stations_of_a_crossing() -> None:
    chain = _chain("mean_shift", "c3", "capdec")
    names, stations = zip(*chain.trace_vectors(IMAGE.values, Draw.of(IMAGE.keys, 0).named("cross")), strict=True)
    assert names == ("encoded", "0 mean_shift: bridged", "bridged")
    np.testing.assert_allclose(stations[1].numpy(), _shift(V), atol=2e-6)
    radius = np.linalg.norm(T - T.mean(0), axis=1).mean()
    in_text_frame = _n(radius * _n(_shift(V) - _shift(V).mean(0)) + T.mean(0))
    np.testing.assert_allclose(stations[2].numpy(), in_text_frame, atol=2e-6)


# ---- fitting ----------------------------------------------------------------------------------------------------


def test_each_member_gets_what_its_needs_name_and_nothing_more() -> None:
    members = [_stub("text"), _stub(), _stub("source"), _stub("pairs"), _stub("text", "source")]
    chain = _of(*members)
    assert chain.config.needs == {"text", "source", "pairs"}
    pairs = torch.arange(200) % 150
    chain.fit(FitData(TEXT, IMAGE, pairs), MemoryFitting())
    seen = [member.seen for member in members]
    assert [None if one is None else len(one.text) for one in seen] == [200, 0, 0, 200, 200]
    assert [one is not None and one.source is not None for one in seen] == [False, False, True, True, True]
    assert [one is not None and one.pairs is not None for one in seen] == [False, False, False, True, False]
    for turned, one in enumerate(seen):
        if one is not None and one.source is not None:
            assert torch.equal(one.source.values, IMAGE.values.roll(turned, dims=1))
            assert one.source.keys == IMAGE.keys
            assert not one.source.values.is_inference()  # a member may train on them


def test_members_are_fitted_on_vectors_as_the_chain_carries_them() -> None:
    """With the noise of the fitting's seed, chunk by chunk."""
    noisy, last = Noisy(NoisyConfig(type="noisy"), BuildContext()), _stub("source")
    chain = _of(_stub(), noisy, last)
    many = toy_embeddings(5000, DIM, "image")
    chain.fit(FitData(TEXT, many), MemoryFitting(seed=4))
    assert last.seen is not None
    assert last.seen.source is not None
    expected = chain.cross(many, seed=4).values.roll(-1, dims=1)  # before the last member turns them
    torch.testing.assert_close(last.seen.source.values, expected, atol=0, rtol=0)


def test_vectors_that_a_member_spoils_are_told_of() -> None:
    class Broken(Stub):
        def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
            return x / 0.0

    chain = _of(Broken(StubConfig(type="broken"), BuildContext()), _stub("source"))
    with pytest.raises(DataError, match="'broken' gave NaN or infinity for image0"):
        chain.fit(FitData(TEXT, IMAGE), MemoryFitting())
    with pytest.raises(DataError, match="needs source vectors"):
        _chain("capdec", "mean_shift", fitted=False).fit(FitData(TEXT), MemoryFitting())


def _diffusion(**training: Any) -> dict[str, Any]:
    prior = {"type": "ddpm", "timesteps": 50, "denoiser": {"type": "residual_mlp", "width": 16, "num_blocks": 1}}
    block = {"type": "diffusion_bridge", "frame": "text", "start_step": 20, "augment_step": 10}
    return {**block, "prior": {**prior, "steps": 6, "batch_size": 32, **training}}


def test_two_trained_members_resume_where_they_were() -> None:
    blocks = [_diffusion(), _diffusion(lr=0.01)]
    calm = _chain(*blocks)
    first, second = (member.prior.tensors() for member in calm.members)
    assert any(not torch.equal(first[name], second[name]) for name in first)
    for stop in (2, 6, 7, 11):  # in the first, at its end, in the second
        fitting = MemoryFitting(stop_after=stop)
        killed = _chain(*blocks, fitted=False)
        with pytest.raises(Interrupted):
            killed.fit(FitData(TEXT, IMAGE), fitting)
        again = _chain(*blocks, fitted=False)
        again.fit(FitData(TEXT, IMAGE), fitting)
        assert len(fitting.saved) == 2
        for member, expected in zip(again.members, (first, second), strict=True):
            assert all(torch.equal(value, expected[name]) for name, value in member.prior.tensors().items())
        assert torch.equal(again.cross(IMAGE).values, calm.cross(IMAGE).values)


def test_a_killed_run_of_two_trained_members_ends_with_the_same_bytes(
    call: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = [_diffusion(batch_size=8), _diffusion(batch_size=8, lr=0.01)]
    arguments = ["run", world, "--set", f"bridge={json.dumps(bridge)}", "--until", "fit_bridge"]
    arguments += ["--checkpoint-seconds", "0", "--cache"]
    assert call(*arguments, tmp_path / "calm").code == 0
    honest, taken = StageFitting.checkpoint, 0

    def checkpoint(self: StageFitting, *given: Any, **more: Any) -> None:
        nonlocal taken
        honest(self, *given, **more)
        taken += 1
        if taken in (3, 7, 10):
            raise KeyboardInterrupt

    monkeypatch.setattr(StageFitting, "checkpoint", checkpoint)
    codes = [call(*arguments, tmp_path / "killed").code for _ in range(4)]
    assert codes == [130, 130, 130, 0]
    assert taken == 12  # no step was made twice
    calm, killed = (
        {p.relative_to(root): p.read_bytes() for p in (root / "fit_bridge").rglob("*") if p.is_file()}
        for root in (tmp_path / "calm", tmp_path / "killed")
    )
    assert calm == killed
    assert len(list((tmp_path / "calm" / "fit_bridge").iterdir())) == 3  # the chain and its two members


def _of_vectors() -> list[str]:
    """The bridges that are built from words alone: all that take vectors."""
    registry = Plugins.discover().registry
    return [name for name in registry.names("bridge") if name != "chain" and registry.get("bridge", name).example]


@pytest.mark.parametrize("name", _of_vectors())
def test_every_bridge_is_in_a_chain_what_it_is_alone(name: str, tmp_path: Path) -> None:
    spec = Plugins.discover().registry.get("bridge", name)
    text, image = toy_embeddings(60, DIM), toy_embeddings(30, DIM, "image")
    data = FitData(text, image, torch.arange(60) % 30)
    # A chain gives each member noise of its own, so one that draws it in crossing is compared without.
    example = {**spec.example, **({"add_noise": False} if name == "diffusion_link" else {})}
    chain, alone = _chain("identity", example, "capdec", fitted=False), build("bridge", example)
    chain.fit(data, MemoryFitting())
    only = {side: getattr(data, side) if side in alone.config.needs else None for side in ("source", "pairs")}
    if only["pairs"] is not None:
        only["source"] = image
    assert isinstance(alone, Bridge)
    alone.fit(FitData(text, **only), MemoryFitting())
    expected = torch.nn.functional.normalize(alone.cross(image).values, dim=1)
    torch.testing.assert_close(chain.cross(image).values, expected, atol=1e-6, rtol=0)
    assert chain.cross(image).port.frame == alone.cross(image).port.frame
    save_component(chain, tmp_path, {"kind": "bridge", "type": "chain"})
    again = _chain("identity", example, "capdec", fitted=False)
    load_component(again, tmp_path)
    assert torch.equal(again.cross(image).values, chain.cross(image).values)
    assert torch.equal(again.augment(text).values, chain.augment(text).values)


# ---- what is known without weights ------------------------------------------------------------------------------


def test_misfits_name_the_member() -> None:
    source, text = toy_port(DIM, "image"), toy_port(DIM)
    config = build_config("bridge", {"type": "chain", "bridges": ["mean_shift", "c3", ["identity", "mean_shift"]]})
    with pytest.raises(PortError, match=r"^bridges.2 of the chain, behind 'c3': bridges.0 of the chain: .*centred"):
        config.crosses(source, text)
    with pytest.raises(PortError, match=r"bridges.0 of the chain: .*another space"):
        config.crosses(toy_port(DIM, "image", space="elsewhere"), text)
    twice = build_config("bridge", {"type": "chain", "bridges": ["c3", {"type": "mean_shift", "frame": "centred"}]})
    with pytest.raises(PortError, match=r"bridges.1 of the chain, behind 'c3': .* raw text vectors.*must come first"):
        twice.augments(text)


def test_augmenters_that_keep_the_frame_may_follow_a_centring_one() -> None:
    chain = _chain({"type": "mean_shift", "frame": "centred"}, {"type": "capdec", "noise_std": 0})
    assert chain.config.augments(toy_port(DIM)).frame == "centred"
    _close(chain.augment(TEXT), _n(T - T.mean(0)))
    assert chain.members[0].context.ports["source"].frame == "raw"


def test_members_stand_where_those_before_them_lead() -> None:
    chain = _chain("mean_shift", ["capdec", "c3"], fitted=False)
    c3 = chain.members[1].members[1]
    assert c3.context.ports["source"].bridge == "capdec"
    assert c3.context.ports["source"].frame == c3.context.ports["text"].frame == "raw"
    assert c3.context.ports["text"].bridge is None
    assert c3.context.dim() == DIM


def test_a_fit_that_no_crossing_leads_to_is_refused_before_it_begins() -> None:
    """An augmenter alone: its last member would be fitted on centred source vectors, which it cannot carry."""
    config = build_config("bridge", {"type": "chain", "bridges": ["c3", "capdec", "mean_shift"]})
    with pytest.raises(PortError, match=r"bridges.2 of the chain, behind 'capdec': the bridge 'mean_shift' works on"):
        config.augments(toy_port(DIM))


def test_augmentation_is_the_strongest_of_the_members() -> None:
    def added(*bridges: Any) -> str:
        found: str = build_config("bridge", {"type": "chain", "bridges": list(bridges)}).augments_by
        return found

    assert added("mean_shift", "identity") == "none"
    assert added("capdec", "mean_shift") == "noise"
    assert added("capdec", _diffusion(), "identity") == "diffusion"
    assert added({**_diffusion(), "augment_step": 0}) == "none"


def test_what_changes_a_fit_is_told_from_what_changes_a_crossing() -> None:
    def keys(*bridges: Any) -> Any:
        return build_config("bridge", {"type": "chain", "bridges": list(bridges)}).key_fields()

    first, other = _diffusion(), {**_diffusion(), "start_step": 10}
    noisier = {**_diffusion(), "augment_step": 12}
    assert keys(first, "mean_shift") != keys(other, "mean_shift")  # the mean is of what the first one gives
    assert keys(first, "mean_shift") == keys(noisier, "mean_shift")
    assert keys(first, "capdec") == keys(other, "capdec")  # fitted on nothing
    assert keys("mean_shift", first) == keys("mean_shift", other)
    assert keys("mean_shift", "c3") != keys("c3", "mean_shift")
    assert keys(["mean_shift", other], "mean_shift") != keys(["mean_shift", first], "mean_shift")


def test_fields_left_to_fitting_are_told_by_member() -> None:
    chain = _chain("mean_shift", {**_diffusion(), "start_step": "auto"})
    assert chain.config.chosen_by_fitting == chain.config.chosen_for("cross") == ("1.start_step",)
    assert chain.config.chosen_for("augment") == ()
    assert set(chain.chosen()) == {"1.start_step"}


def test_the_list_is_short_for_the_block() -> None:
    registry = Plugins.discover().registry
    members = ["identity", ["capdec", "mean_shift"], {"type": "c3", "noise_std": 0.1}]
    short = validate_block("bridge", members, registry)
    inner = {"type": "chain", "bridges": ["capdec", "mean_shift"]}
    assert short == build_config("bridge", {"type": "chain", "bridges": [members[0], inner, members[2]]})
    assert isinstance(short, ChainConfig)
    assert short.title == "identity + capdec + mean_shift + c3"
    wrong = ["nope", {"type": "capdec", "nois_std": 1}, ["capdec", 3], {"type": "c3", "noise_std": -1}]
    with pytest.raises(ConfigError) as told:
        validate_block("bridge", wrong, registry, "gap.bridges.2")
    paths = [problem.path.removeprefix("gap.bridges.2.") for problem in told.value.problems]
    assert paths == ["0.type", "1.nois_std", "2.1", "3.noise_std"]
    with pytest.raises(ConfigError, match=r"^bridge: list should have at least 1 item"):
        validate_block("bridge", [], registry, "bridge")
    with pytest.raises(ConfigError, match=r"^bridge.bridges: expected a list, found 'c3'"):
        validate_block("bridge", {"type": "chain", "bridges": "c3"}, registry, "bridge")
    with pytest.raises(ConfigError, match="expected a block"):
        validate_block("prior", ["ddpm"], registry, "prior")


# ---- artefacts --------------------------------------------------------------------------------------------------


def test_an_artefact_gives_the_same_chain(tmp_path: Path) -> None:
    blocks = ["mean_shift", ["capdec", "mean_shift"], _diffusion()]
    chain, again = _chain(*blocks), _chain(*blocks, fitted=False)
    save_component(chain, tmp_path / "a", {"kind": "bridge", "type": "chain"})
    manifest = json.loads((tmp_path / "a" / "bridges.1" / "bridges.1" / "modbridge.json").read_text())
    assert (manifest["kind"], manifest["type"]) == ("bridge", "mean_shift")
    assert manifest["ports"]["source"]["bridge"] == "capdec"
    load_component(again, tmp_path / "a")
    for a, b in ((again.cross(IMAGE), chain.cross(IMAGE)), (again.augment(TEXT, 1), chain.augment(TEXT, 1))):
        assert torch.equal(a.values, b.values)
        assert a.port == b.port
    save_component(again, tmp_path / "b", {"kind": "bridge", "type": "chain"})
    one, other = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "a", tmp_path / "b")
    )
    assert one == other
    first, inner, last = chain.members
    alone = [first, *inner.members, last, last.prior]
    assert parameters_of(chain) == sum(part.parameter_count() for part in alone) > last.prior.parameter_count() > 0
    assert f"Parameters: {parameters_of(chain):,}." in (tmp_path / "a" / "README.md").read_text()


def test_weights_of_a_member_and_of_a_whole_chain(tmp_path: Path) -> None:
    chain = _chain("mean_shift", _diffusion())
    save_component(chain, tmp_path / "kept", {"kind": "bridge", "type": "chain"})
    moved = Embeddings(IMAGE.values.roll(1, dims=1), IMAGE.port, IMAGE.keys)

    whole: Any = build("bridge", {"type": "chain", "weights": str(tmp_path / "kept")})
    _of(whole).fit(FitData(TEXT, moved), MemoryFitting())  # a chain inside another is loaded, whatever the data
    assert torch.equal(whole.cross(IMAGE).values, chain.cross(IMAGE).values)

    member = str(tmp_path / "kept" / "bridges.1")
    longer = _diffusion(steps=99)  # only says how to train
    one = _chain("mean_shift", {**longer, "weights": member}, fitted=False)
    assert one.members[1].config.prior.steps == 6
    one.fit(FitData(TEXT, moved), MemoryFitting())
    prior, kept = (bridge.members[1].prior.tensors() for bridge in (one, chain))
    assert all(torch.equal(value, kept[name]) for name, value in prior.items())
    assert not torch.equal(one.members[0].statistic("source_mean"), chain.members[0].statistic("source_mean"))

    again = build_config(
        "bridge", {"type": "chain", "bridges": ["mean_shift", longer], "weights": str(tmp_path / "kept")}
    )
    assert again.bridges[1].prior.steps == 6
    other = _diffusion(radius=4.0)
    with pytest.raises(ConfigError, match=r"bridges.1.prior.radius: is 4.0, but .* was fitted with 5.0"):
        build_config("bridge", {"type": "chain", "bridges": ["mean_shift", other], "weights": str(tmp_path / "kept")})
    with pytest.raises(ConfigError, match=r"bridges.1.weights: .* holds the bridge 'diffusion_bridge'"):
        build_config("bridge", {"type": "chain", "bridges": ["mean_shift", {"type": "c3", "weights": member}]})


# ---- whole runs -------------------------------------------------------------------------------------------------


def test_a_run_in_either_spelling(call: Call, world: Path, tmp_path: Path) -> None:
    written = world.read_text()
    short = written.replace(
        "bridge: mean_shift",
        "bridge:\n- mean_shift\n- {type: c3, frame: text}\naugment:\n- mean_shift\n- {type: capdec, noise_std: 0.1}",
    )
    long = written.replace(
        "bridge: mean_shift",
        "bridge: {type: chain, bridges: [mean_shift, {type: c3, frame: text}]}\n"
        "augment: {type: chain, bridges: [mean_shift, {type: capdec, noise_std: 0.1}]}",
    )
    world.write_text(short)
    first = call("run", world, "--out", tmp_path / "short", "--json")
    assert first.code == 0, first.err
    (row,) = first.json["rows"]
    assert row["bridge"] == "mean_shift + c3"
    assert row["augment"] == "noise"
    assert row["needs"] == ["source", "text"]
    world.write_text(long)
    second = call("run", world, "--out", tmp_path / "long", "--json", "--checkpoint-seconds", "0")
    assert second.json["rows"] == first.json["rows"]
    assert "fit_bridge:" not in second.err
    world.write_text(long.replace("0.1", "0.3"))
    third = call("run", world, "--out", tmp_path / "third", "--set", "augment.bridges.1.noise_std=0.1", "--json")
    assert third.json["rows"] == first.json["rows"]

    plugins = Plugins.discover([str(TOY)])
    image = tmp_path / "world" / "images" / "025.png"
    shutil.rmtree(tmp_path / "cache")
    loaded = modbridge.load(tmp_path / "short", plugins=plugins)
    told = {line["key"]: line["text"] for line in map(json.loads, (tmp_path / "short" / "predictions.jsonl").open())}
    assert loaded.caption([image]) == [told[key] for key in told if "025" in key]
    (stations,) = loaded.explain([image])
    assert [station.name for station in stations] == ["encoded", "0 mean_shift: bridged", "bridged"]


def test_a_gap_table_of_chains_and_a_sweep_inside_them(call: Call, world: Path) -> None:
    gap = {"bridges": [["mean_shift", _diffusion()], ["mean_shift", "mean_shift"], "mean_shift"], "cost": True}
    gap |= {"sweep": {"bridges.1.start_step": [0, 20], "bridges.0.frame": ["text"]}}
    found = call("gap", world, "--set", f"gap={json.dumps(gap)}", "--no-report", "--json")
    assert found.code == 0, found.err
    rows = found.json["rows"]
    assert [row["bridge"] for row in rows] == [
        *["mean_shift + diffusion_bridge"] * 2, "mean_shift + mean_shift", "mean_shift",
    ]  # fmt: skip
    assert [row.get("fields") for row in rows[:2]] == ["bridges.1.start_step=0", "bridges.1.start_step=20"]
    assert rows[0]["parameters"] > rows[2]["parameters"] == 2 * rows[3]["parameters"]
    assert rows[2]["paired_cosine"] > rows[3]["paired_cosine"]  # the second shift takes away what the first one left
    unknown = {**gap, "sweep": {"bridges.2.start_step": [1]}}
    told = call("gap", world, "--set", f"gap={json.dumps(unknown)}", "--no-report")
    assert told.code == 1
    assert "gap.sweep.bridges.2.start_step: no bridge of the comparison has this field" in told.err


def test_mistakes_point_to_the_line_of_the_item(call: Call, world: Path) -> None:
    lines = "bridge:\n- mean_shift\n- type: capdec\n  nois_std: 0.1"
    world.write_text(world.read_text().replace("bridge: mean_shift", lines))
    at = world.read_text().splitlines().index("  nois_std: 0.1") + 1
    told = call("check", world)
    assert told.code == 1
    assert f"toy.yaml:{at}" in told.err
    assert "bridge.1.nois_std: no such field" in told.err
    assert "did you mean 'noise_std'" in told.err
    world.write_text(world.read_text().replace("nois_std: 0.1", "noise_std: 0.1").replace("- mean_shift", "- c3"))
    assert call("check", world).code == 0
    told = call("check", world, "--set", "bridge.1={type: mean_shift}")
    assert told.code == 1
    assert "bridges.1 of the chain, behind 'c3'" in told.err


def test_the_trained_and_the_bridged_end_must_agree(call: Call, world: Path) -> None:
    told = call("check", world, "--set", "bridge=[mean_shift, c3]", "--set", "augment=[mean_shift, capdec]")
    assert told.code == 1
    assert "centred vectors where raw ones are expected" in told.err


def test_the_schema_and_the_starter_know_chains(call: Call) -> None:
    schema = call("schema").json
    options = schema["$defs"]["component.bridge"]["oneOf"]
    (several,) = [option for option in options if option.get("type") == "array"]
    assert several["items"] == {"$ref": "#/$defs/component.bridge"}
    chain = schema["$defs"]["component.bridge.chain"]
    assert chain["properties"]["bridges"]["minItems"] == several["minItems"] == 1
    assert "chain" not in json.dumps(options[-1])  # not by its word alone: it has a field that must be given
    written = call("init", "--bridge", "chain")
    assert "bridges: [mean_shift, capdec]" in written.out
    shown = call("show", "bridge", "chain")
    assert shown.code == 0
    assert "list of bridges" in shown.out
