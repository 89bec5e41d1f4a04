"""Sequences of one length and of different lengths, from the encoder through store, bridge and decoder to a report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import modbridge
from modbridge import room
from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.errors import ConfigError, DataError, PluginError, PortError
from modbridge.interfaces import BuildContext, Decoder
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.spaces import Embeddings
from modbridge.stages import generate
from modbridge.stages.cross import crossed
from modbridge.stages.embed import embeddings, left_out
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.stages.gap import gap
from modbridge.stages.generate import generated
from modbridge.stages.score import measured
from modbridge.store.cache import Cache
from modbridge.testing import build
from modbridge.testing.conformance import cases, find_trial

from .test_embed import Said
from .test_engine import Apart, ApartConfig

FILE = Path(__file__).parent / "sequence_plugin.py"
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
BASE = Draw.of(["r", "g", "b"], 1).normal(6).numpy()

Opened = Callable[..., tuple[Session, Cell]]


def words(row: int) -> list[str]:
    """One to four colours."""
    names = list(COLOURS)
    return [names[(row + at * (row // 4 + 1)) % 4] for at in range(row % 4 + 1)]


def expected(row: int) -> Any:
    """What an item's tokens are, computed apart: (k, 6)."""
    return np.array([COLOURS[word] for word in words(row)], dtype=np.float32) / 255 @ BASE


def stripes(row: int) -> Image.Image:
    pixels = np.concatenate([np.full((4, 4, 3), COLOURS[word], dtype=np.uint8) for word in words(row)], axis=1)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover([FILE], environ={})


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """Striped pictures with two captions each, the second of which is the same for the first two items."""
    folder = tmp_path / "stripes"
    folder.mkdir()
    for name, rows in (("train", range(12)), ("test", range(12, 18))):
        lines = []
        for row in rows:
            stripes(row).save(folder / f"{row:02d}.png")
            second = "all red" if row < 2 else f"it shows {' '.join(words(row))}"
            lines.append({"image": f"{row:02d}.png", "captions": [" ".join(words(row)), second]})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    config = tmp_path / "stripes.yaml"
    config.write_text(
        f"""\
name: stripes
data:
  train: {{type: jsonl, path: {folder}/train.jsonl, root: {folder}}}
  test: {{type: jsonl, path: {folder}/test.jsonl, root: {folder}}}
encoder: stripes
bridge: identity
decoder: spell
metrics: [bleu]
""",
        encoding="utf-8",
    )
    return config


@pytest.fixture
def opened(world: Path, tmp_path: Path, plugins: Plugins) -> Opened:
    def make(cache: str = "cache", *sets: str, apart: bool = False, rows: int = 5, on_error: str = "raise") -> Any:
        (cell,) = load_experiment(str(world), plugins.registry, sets=sets).cells
        session = Session(plugins, Cache(tmp_path / cache), Said(), device="cpu", shard_rows=rows, on_error=on_error)
        if apart:
            session.engine = Apart(ApartConfig(), BuildContext())
        return session, cell

    return make


def require_same(found: Embeddings, other: Embeddings) -> None:
    assert found.keys == other.keys
    assert found.port == other.port
    torch.testing.assert_close(found.values, other.values, atol=1e-5, rtol=0)
    assert (found.mask is None) == (other.mask is None)
    assert found.mask is None or torch.equal(found.mask, other.mask)  # type: ignore[arg-type]


# ---- the store ----------------------------------------------------------------------------------------------------


def test_every_token_is_stored_with_its_place_and_nothing_else(opened: Opened) -> None:
    found = embeddings(*opened(), "train", "image")
    assert found.port.ragged
    assert found.values.shape == (12, 4, 6)
    assert found.mask is not None
    for row in range(12):
        assert found.mask[row].tolist() == [True] * (row % 4 + 1) + [False] * (3 - row % 4)
        np.testing.assert_allclose(found.values[row][found.mask[row]].numpy(), expected(row), atol=1e-4)
    assert not found.values[~found.mask].any()  # the encoder left rubbish there
    assert found.moments is None


def test_equal_texts_share_their_sequence(opened: Opened) -> None:
    session, cell = opened()
    found = embeddings(session, cell, "train", "text")
    at = {key: row for row, key in enumerate(found.keys)}
    assert found.mask is not None
    lengths = {key: int(found.mask[row].sum()) for key, row in at.items()}
    assert lengths["00#1"] == lengths["01#1"] == 1
    assert lengths["07#0"] == lengths["07#1"] == 4
    torch.testing.assert_close(found.values[at["00#1"]], found.values[at["01#1"]], atol=0, rtol=0)


@pytest.mark.parametrize("side", ["image", "text"])
def test_shards_batches_and_other_processes_change_nothing(opened: Opened, side: str) -> None:
    whole = embeddings(*opened("a", "encoder.batch_size=100", rows=100), "train", side)
    require_same(embeddings(*opened("b", "encoder.batch_size=2"), "train", side), whole)
    require_same(embeddings(*opened("c", apart=True), "train", side), whole)


@pytest.mark.parametrize("side", ["image", "text"])  # of the texts, several have one sequence
def test_sequences_too_many_for_the_memory_are_mapped_with_their_mask(
    opened: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str
) -> None:
    held = embeddings(*opened(), "train", side)
    monkeypatch.setattr(room, "memory", lambda: 4)
    require_same(embeddings(*opened(), "train", side), held)
    (values,) = (tmp_path / "cache" / "embed").glob("*/whole.bin")
    (mask,) = (tmp_path / "cache" / "embed").glob("*/whole-mask.bin")
    assert (values.stat().st_size, mask.stat().st_size) == (held.values.nbytes, len(held) * 4)
    require_same(embeddings(*opened(), "train", side), held)


def test_items_that_cannot_be_read_are_left_out(opened: Opened, tmp_path: Path) -> None:
    (tmp_path / "stripes" / "05.png").write_bytes(b"no image")
    session, cell = opened(on_error="skip")
    found = embeddings(session, cell, "train", "image")
    assert left_out(session, cell, "train", "image") == ["05"]
    assert found.mask is not None
    assert found.mask.sum(1).tolist() == [row % 4 + 1 for row in range(12) if row != 5]


def test_an_encoder_must_give_the_mask_it_promises(opened: Opened) -> None:
    with pytest.raises(PluginError, match="'stripes' gave no mask; expected"):
        embeddings(*opened("cache", "encoder.masked=false"), "train", "image")


def test_an_item_without_a_token_is_named(plugins: Plugins) -> None:
    encoder: Any = build("encoder", "stripes", registry=plugins.registry)
    with pytest.raises(DataError, match="the sequences of b hold no token"):
        encoder.encode(["red", "nothing", "blue"], "text", keys=["a", "b", "c"])
    none = encoder.encode([], "text")
    assert (none.values.shape, none.mask.shape) == ((0, 4, 6), (0, 4))


# ---- whole pipelines ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bridge", ["identity", "{type: chain, bridges: [identity, identity]}"])
def test_sequences_of_different_lengths_are_spelt_out(opened: Opened, bridge: str) -> None:
    session, cell = opened("cache", f"bridge={bridge}")
    found = generated(session, cell)
    assert [one.text for one in found.predictions] == [" ".join(words(row)) for row in range(12, 18)]
    assert found.crossed.bridged.port.ragged
    assert measured(session, cell) == {}  # the gap is measured on single vectors


def test_captions_written_elsewhere_are_the_same(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "CHUNK", 2)
    monkeypatch.setattr(Decoder, "batch_size", 2)
    found = generated(*opened(apart=True))
    assert [one.text for one in found.predictions] == [" ".join(words(row)) for row in range(12, 18)]


def test_sequences_of_one_length_have_no_mask(opened: Opened) -> None:
    session, cell = opened("cache", "encoder.ragged=false")
    assert crossed(session, cell).bridged.mask is None
    said = [" ".join([*words(row), *[words(row)[-1]] * (3 - row % 4)]) for row in range(12, 18)]
    assert [one.text for one in generated(session, cell).predictions] == said


def test_a_decoder_may_be_trained_on_the_media(opened: Opened) -> None:
    session, cell = opened("cache", "decoder_input=source")
    decoder = fitted_decoder(session, cell).decoder
    texts = embeddings(session, cell, "test", "image")
    assert [one.text for one in decoder.decode(texts)] == [" ".join(words(row)) for row in range(12, 18)]


def test_captions_of_the_captions_own_sequences(opened: Opened) -> None:
    session, cell = opened("cache", "evaluate.input=text")
    assert [one.text for one in generated(session, cell).predictions] == [" ".join(words(row)) for row in range(12, 18)]


def test_a_pooling_bridge_gives_vectors(opened: Opened) -> None:
    session, cell = opened("cache", "bridge=pool", "decoder=nearest_caption")
    bridged = crossed(session, cell).bridged
    assert bridged.mask is None
    means = np.stack([expected(row).mean(0) for row in range(12, 18)])
    np.testing.assert_allclose(bridged.values.numpy(), means, atol=1e-4)
    assert len(generated(session, cell).predictions) == 6


def test_a_run_is_reported_and_loaded(world: Path, plugins: Plugins, call: Callable[..., Any], tmp_path: Path) -> None:
    done = call("run", world, "--plugin", FILE, "--out", tmp_path / "run", toy=False)
    assert done.code == 0, done.err
    pipeline = modbridge.load(tmp_path / "run", plugins=plugins)
    pictures = [stripes(row) for row in (3, 4, 1)]
    assert pipeline.caption(pictures) == [" ".join(words(row)) for row in (3, 4, 1)]
    both = pipeline.compose([stripes(3), stripes(1)], take=[2, 2])
    assert pipeline.caption(both) == [" ".join(words(3)[:2] + words(1))]
    with pytest.raises(PortError, match="sequences of 8 tokens where ones of at most 4 are expected"):
        pipeline.decode(pipeline.compose([stripes(3), stripes(1)]))
    with pytest.raises(PortError, match="single vectors"):
        pipeline.explain(pictures)


# ---- what does not fit --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "told"),
    [
        (["bridge=mean_shift"], "the bridge 'mean_shift' works on single vectors"),
        (["decoder=nearest_caption"], "the decoder 'nearest_caption' works on single vectors"),
        (["decoder.most=3"], "takes 3 tokens at most"),
        (["bridge={type: chain, bridges: [identity, c3]}"], "bridges.1 of the chain"),
        (["bridge=pool"], "spells sequences"),
    ],
)
def test_what_takes_no_such_sequences_refuses_them_before_anything_is_loaded(
    opened: Opened, sets: list[str], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        opened("cache", *sets)


def test_a_bridge_that_forgets_the_mask_is_told_so(opened: Opened) -> None:
    with pytest.raises(PluginError, match=r"'forgetful' takes sequences of different lengths.*takes no `mask`"):
        crossed(*opened("cache", "bridge=forgetful", "augment=identity"))


def test_the_gap_of_sequences_is_not_measured(world: Path, tmp_path: Path, plugins: Plugins) -> None:
    experiment = load_experiment(str(world), plugins.registry)
    session = Session(plugins, Cache(tmp_path / "cache"), Said(), device="cpu")
    with pytest.raises(ConfigError, match="the measure of the gap works on single vectors"):
        gap(session, experiment)
    assert not (tmp_path / "cache" / "embed").exists()


def test_shorter_sequences_of_one_length_may_stand_among_ragged_ones(opened: Opened) -> None:
    session, cell = opened()
    decoder, bridge = fitted_decoder(session, cell).decoder, fitted_bridge(session, cell, cell.config.bridge).bridge
    image = embeddings(session, cell, "test", "image").select([1, 5])  # of two tokens each
    short = Embeddings(image.values[:, :2], image.port.changed(tokens=2, ragged=False), image.keys)
    assert [one.text for one in decoder.decode(bridge.cross(short))] == [" ".join(words(row)) for row in (13, 17)]


def test_components_of_sequences_pass_the_conformance_checks(plugins: Plugins) -> None:
    # No longer than 4 tokens, which the toy captions are not all.
    items: dict[str, Any] = {
        "image": [stripes(row) for row in range(8)],
        "text": [" ".join(words(row)) for row in range(3, 8)],
    }
    outcomes = [case.run() for case in cases(find_trial(FILE.stem, plugins, items))]
    assert [str(one) for one in outcomes if one.status == "failed" and "forgetful" not in one.id] == []
    done = {one.id: one.status for one in outcomes}
    assert done["decoder:spell/masked_places"] == done["bridge:pool/masked_places"] == "ok"


def test_show_says_which_vectors_a_component_takes(call: Callable[..., Any]) -> None:
    shown = {
        name: call("show", kind, name, "--dim", 6, "--plugin", FILE, "--json", toy=False).json["ports"]
        for kind, name in (("bridge", "identity"), ("bridge", "c3"), ("bridge", "pool"), ("decoder", "nearest_caption"))
    }
    every = "vectors, sequences, sequences of different lengths"
    assert shown["identity"]["takes"] == every
    assert shown["c3"]["takes"] == shown["nearest_caption"]["takes"] == "vectors"
    assert shown["pool"]["takes"] == "sequences, sequences of different lengths"
    assert "8 x 6 image" in shown["pool"]["cross"].split(" -> ")[0]
    assert "raw 6-d image" in shown["pool"]["cross"].split(" -> ")[1]
