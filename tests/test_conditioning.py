"""The conditioning table: one objective judges the same items, told of them by five different embeddings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.plugins.manager import Plugins
from modbridge.stages.conditioning import Conditioning, conditioned
from modbridge.store.cache import Cache
from modbridge.talk import Talk

from .conftest import TOY
from .teacher_plugin import COLOURS

TEACHER = Path(__file__).parent / "teacher_plugin.py"
NOISE = 1e-4  # the toy teacher adds noise of deviation 0.01 to what it paints


@pytest.fixture
def taught(world: Path) -> Path:
    """The tiny world with an encoder whose teacher paints a vector's colour exactly."""
    data = world.read_text("utf-8").split("encoder:")[0]
    config = world.with_name("taught.yaml")
    config.write_text(
        f"{data}\nencoder: {{type: toy_taught, objective: {{type: toy_teacher, steps: 0}}, steps: 900}}\n"
        "bridge: identity\ndecoder: {type: toy_recite, steps: 30}\nmetrics: [bleu]\n",
        encoding="utf-8",
    )
    return config


@pytest.fixture
def opened(taught: Path, tmp_path: Path) -> Callable[..., tuple[Session, Cell]]:
    def make(*sets: str) -> tuple[Session, Cell]:
        session = Session(Plugins.discover([TOY, TEACHER]), Cache(tmp_path / "cache"), Talk(quiet=True))
        return session, load_experiment(taught, session.plugins.registry, sets=sets).first

    return make


def shown(folder: Path) -> np.ndarray:
    """The colours of the held-out pictures, (9, 3) from 0 to 1."""
    files = sorted((folder / "world" / "images").iterdir())[24:]
    return np.stack([np.asarray(Image.open(file), dtype=float).mean((0, 1)) for file in files]) / 255


def test_every_row_is_what_it_says(opened: Any, tmp_path: Path) -> None:
    found = conditioned(*opened())
    assert found is not None
    assert (found.items, found.draws) == (9, 4)
    # The teacher paints a text in the colour that it names, and nothing (black) of an empty one: known without it.
    there = shown(tmp_path)
    named = np.array([list(COLOURS.values())[number % 3] for number in range(24, 33)])
    assert found.losses["text"] == pytest.approx(((named - there) ** 2).mean() + NOISE, abs=5e-4)
    assert found.losses["empty"] == pytest.approx((there**2).mean() + NOISE, abs=2e-3)
    # The encoder has learnt to have its images painted, so another's is as far off as the images are apart.
    assert found.losses["trained"] == pytest.approx(NOISE, abs=1e-3)
    assert found.losses["another"] == pytest.approx(((np.roll(there, 1, 0) - there) ** 2).mean(), rel=0.05)
    assert found.losses["untrained"] > 10 * found.losses["trained"]


def test_the_share_of_the_gap() -> None:
    found = Conditioning({"untrained": 7.0, "trained": 2.0, "text": 1.0, "empty": 5.0}, items=3, draws=4)
    assert found.gap_closed("trained") == pytest.approx(0.75)
    assert found.gap_closed("untrained") == pytest.approx(-0.5)
    assert [row["told by"] for row in found.rows()] == [
        "encoder, untrained",
        "encoder, trained",
        "true caption",
        "empty caption",
    ]
    assert Conditioning({"trained": 2.0, "text": 5.0, "empty": 5.0}, items=3, draws=4).gap_closed("trained") is None
    assert Conditioning({"trained": 2.0, "another": 3.0}, items=3, draws=4).gap_closed("trained") is None


def test_it_is_made_once_for_an_encoder(opened: Any) -> None:
    first = conditioned(*opened())
    session, cell = opened("decoder.steps=31")
    assert conditioned(session, cell) == first
    assert all(done.cached for done in session.done)
    session, cell = opened("encoder.steps=20")
    other = conditioned(session, cell)
    assert other is not None
    assert first is not None
    assert other.losses["trained"] > first.losses["trained"]
    same = ("untrained", "text", "empty")  # the same noise for all
    assert [other.losses[name] for name in same] == [first.losses[name] for name in same]


def test_encoders_without_a_teacher_have_no_table(opened: Any) -> None:
    session, cell = opened("encoder=toy_colours")
    assert conditioned(session, cell) is None


def test_it_is_in_the_run(call: Callable[..., Any], taught: Path, tmp_path: Path) -> None:
    done = call("run", taught, "--plugin", TEACHER, "--out", tmp_path / "run", "--json")
    assert done.code == 0, done.err
    ((_, table),) = ((label, found["rows"]) for label, found in done.json["conditioning"].items())
    by = {row["told by"]: row for row in table}
    assert by["true caption"]["gap_closed"] == 1.0
    assert by["empty caption"]["gap_closed"] == 0.0
    assert by["encoder, trained"]["loss"] < by["encoder, untrained"]["loss"]
    page = (tmp_path / "run" / "report.html").read_text("utf-8")
    assert "What the embeddings tell" in page
    assert "another item&#x27;s embedding" in page
